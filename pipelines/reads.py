"""What a task reads: parts of source files, row groups of table files, what a task has kept, or a bucket of an exchange.

Rows always come with their origin.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import between, sources
from pipelines.cursor import After, new_rows
from pipelines.errors import InputError
from pipelines.stage import LINE, ORIGIN, Rows, Side
from pipelines.storage import FileRef
from pipelines.warehouse.file import read_file

__all__ = [
    "Bucket",
    "Kept",
    "Laid",
    "Read",
    "SourceParts",
    "SourceRows",
    "TableFiles",
    "read_rows",
    "read_side",
]


@dataclass(frozen=True)
class SourceParts:
    """Parts of the files of one source."""

    source: sources.Source
    parts: tuple[sources.Part, ...]
    after: After | None = None  # of a source with a cursor: which rows are new


@dataclass(frozen=True)
class SourceRows:
    """Some rows of a source file, by line; the parts hold others, too."""

    source: sources.Source
    parts: tuple[sources.Part, ...]
    lines: tuple[int, ...]


@dataclass(frozen=True)
class TableFiles:
    """Row groups of committed files: `(number of the file in the input, file, row groups, rows counted before it)`."""

    columns: tuple[pa.Field, ...]
    files: tuple[tuple[int, FileRef, tuple[int, ...], int], ...]


@dataclass(frozen=True)
class Kept:
    """The rows that a task of a pass before has kept in a file, but for those that have been left out since."""

    path: str
    part: int = 0  # which task that was
    gone: tuple[str, ...] = ()  # files with the numbers of rows that were left out, a batch for each part
    columns: tuple[str, ...] | None = None
    laid: tuple[
        tuple[int, int], ...
    ] = ()  # by partition: bucket and rows of each batch. Then `gone` is its own


@dataclass(frozen=True)
class Bucket:
    """One bucket of every file of an exchange, ordered by origin; or of some files, where others have the rest."""

    paths: tuple[str, ...]
    number: int
    other: tuple[str, ...] | None = None  # files of the other table of an exchange of two
    by: tuple[str, ...] = ()
    rest: tuple[str, ...] | None = (
        None  # files of which it needs the keys too; None: another task answers for the whole
    )


@dataclass(frozen=True)
class Laid:
    """Some buckets of rows that were laid out by partition; of each `(file, batch, first row, file of those that are gone)`."""

    buckets: tuple[tuple[tuple[str, int, int, str | None], ...], ...]


Read = SourceParts | SourceRows | TableFiles | Kept | Bucket | Laid


def read_rows(read: Read) -> Rows:
    """The rows of a task, with their origin."""
    match read:
        case SourceParts(source, parts, after):
            rows = _together([sources.read(source, part) for part in parts])
            return rows if after is None else new_rows(rows, after)
        case SourceRows(source, parts, lines):
            return _only(_together([sources.read(source, part) for part in parts]), lines)
        case TableFiles(columns, files):
            empty = pa.schema([*columns, *ORIGIN]).empty_table()
            return Rows(
                pa.concat_tables([empty, *(_read_table_file(pa.schema(columns), *file) for file in files)])
            )
        case Kept(path, part, gone, columns, laid):
            return Rows(between.read_rows(path, columns, gone=gone, part=-1 if laid else part))
        case Laid(buckets):
            return Rows(between.read_laid(buckets))
        case Bucket(paths, number):
            return Rows(between.read_bucket(paths, number))


def read_side(read: Bucket) -> Side:
    """What a bucket of an exchange of two tables has of the other one."""
    elsewhere = between.read_bucket(read.rest, read.number, read.by) if read.rest else None
    return Side(between.read_bucket(read.other or (), read.number), read.rest is not None, elsewhere)


def _together(rows: list[Rows]) -> Rows:
    if len(rows) == 1:
        return rows[0]
    notes: Counter[str] = Counter()
    for one in rows:
        notes.update(one.notes)
    set_aside = [one.rejected for one in rows if one.rejected is not None]
    return Rows(
        pa.concat_tables([one.kept for one in rows]),
        pa.concat_tables(set_aside) if set_aside else None,
        filtered=sum(one.filtered for one in rows),
        notes=notes,
    )


def _only(rows: Rows, lines: tuple[int, ...]) -> Rows:
    """These rows.

    Raises: InputError if one is not there.
    """
    wanted = pa.array(lines, pa.int64())
    kept = rows.kept.filter(pc.is_in(rows.kept[LINE], value_set=wanted))
    rejected = rows.rejected
    if rejected is not None:
        rejected = rejected.filter(pc.is_in(rejected[LINE], value_set=wanted))
    found = kept.num_rows + (0 if rejected is None else rejected.num_rows)
    if found != len(lines):
        raise InputError(
            f"{len(lines):,} rows of a source file were to be read again, and {found:,} are there; the way its rows are cut "
            "changed since (header, quote, delimiter or encoding): run the table as a whole"
        )
    return Rows(kept, rejected)


def _read_table_file(
    schema: pa.Schema, number: int, file: FileRef, row_groups: tuple[int, ...], before: int
) -> pa.Table:
    table = read_file(file.file, schema, groups=row_groups)
    starts = before + np.concatenate([[0], np.cumsum(file.row_groups)])
    lines = [np.arange(starts[group] + 1, starts[group + 1] + 1) for group in row_groups]
    rows = table.num_rows
    origin = (
        np.full(rows, number, np.int32),
        np.concatenate(lines or [np.zeros(0, np.int64)]),
        np.full(rows, -1, np.int64),
    )
    for field, values in zip(ORIGIN, origin, strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table
