"""Where rows come from: one file per kind, each with the same functions.

    cut(source, file, number) -> parts     once, in the driver: checks the beginning of the file, reads it at most once
    read(source, part) -> Rows             in a worker: rows of the declared types, rows set aside, origin of each
    columns(source, file) -> Offered       what the file has, declared or not; of kinds whose files may have any columns

A row's fate and its values never depend on the cut. Another kind is one more module with these functions, its name
in KINDS and in source.Kind. A source without files has one more, files(source), which says what there is to read.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from pipelines import stores
from pipelines.sources import inputs
from pipelines.sources.inputs import InputFile, Offered, Part, at_rest
from pipelines.sources.snapshots import one_moment
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["KINDS", "InputFile", "Part", "Source", "columns", "cut", "files", "one_moment", "read"]

KINDS = {
    "csv": "pipelines.sources.csv",
    "jsonl": "pipelines.sources.jsonl",
    "postgresql": "pipelines.sources.postgresql",
    "sqlite": "pipelines.sources.sqlite",
    "parquet": "pipelines.sources.parquet",
    "arrow": "pipelines.sources.arrow",
    "idx": "pipelines.sources.idx",
    "images": "pipelines.sources.images",
    "text": "pipelines.sources.text",
}


def files(source: Source, cache: Path | str | None = None) -> list[InputFile]:
    """What a source is read from, sorted by path; `cache` is a JSON file that keeps digests of files from run to run.

    Raises: InputError if there is nothing or it cannot be read; SourceChanged if it changes meanwhile.
    """
    if source.reader == "postgresql":
        found: list[InputFile] = _kind(source).files(source)
        return found
    if source.remote:
        return inputs.objects(source)
    return inputs.files(source, cache)


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file, the `number`-th of the plan; at least one.

    Raises: InputError if the file is not what was declared; SourceChanged if it is no longer the one of `files`.
    """
    with stores.using(source.storage), at_rest(file, source.reader):
        parts: list[Part] = _kind(source).cut(source, file, number)
    return parts


def read(source: Source, part: Part) -> Rows:
    """Rows of one part: the declared columns and those of the origin, and the rows that were set aside.

    Raises: SourceChanged if the file is not the planned one before or after; InputError if it cannot be read as declared.
    """
    with stores.using(source.storage), at_rest(part, source.reader):
        rows: Rows = _kind(source).read(source, part)
    return rows


def columns(source: Source, file: InputFile) -> Offered:
    """The columns that one file has, declared or not.

    Raises: InputError if it cannot be read; SourceChanged if it is no longer the one of `files`.
    """
    with stores.using(source.storage), at_rest(file, source.reader):
        found: Offered = _kind(source).columns(source, file)
    return found


def _kind(source: Source) -> ModuleType:
    return import_module(KINDS[source.reader])
