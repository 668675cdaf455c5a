"""A source proposed from a sample of its files, as TOML with the evidence beside each line. It is for people to check.

A run never infers: what is read is what is written down. The sample is the beginning of the first, the last and some
files between, so that drift between them shows.
"""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import guess
from pipelines.errors import InputError
from pipelines.sampling import READERS, Sample

__all__ = ["infer"]

_KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".db": "sqlite",
    ".sqlite": "sqlite",
    ".sqlite3": "sqlite",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_FILES = 8
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def infer(source: str, *, rows: int = 10_000, name: str | None = None, table: str | None = None) -> str:
    """TOML of a source for a file, a folder or a glob; `table` is that of a database.

    Raises: InputError if there is nothing to read, or nothing that is understood.
    """
    files = _files(source)
    kind = _kind(files[0])
    step = max(1, (len(files) - 1) // (_FILES - 1))
    some = list(dict.fromkeys([*files[::step][: _FILES - 1], files[-1]]))
    sample = Sample(kind)
    for file in some:
        READERS[kind](file, max(1, rows // len(some)), sample, table)
    if not sample.columns:
        raise InputError(f"{files[0]}: no column was found; is it {kind}?")
    decimal = sample.settings.get("decimal", ".")
    guesses = {
        column: guess.Guess(sample.types[column], evidence=("as the file says",))
        if column in sample.types
        else guess.column(values, decimal=decimal, text=column in sample.texts)
        for column, values in sample.columns.items()
    }
    title = name or _name(Path(source.rstrip("/*")).name.split(".")[0] or "source", set())
    return "\n".join(_toml(title, source, len(files), len(some), sample, guesses)) + "\n"


def _files(source: str) -> list[Path]:
    if "://" in source:  # a password may be in it: not shown
        raise InputError(
            f"{source.partition('://')[0]}://...: infer looks at files of this machine; copy some there, or declare the columns by hand"
        )
    path = Path(source)
    if path.is_dir():
        found = [
            one
            for one in path.iterdir()
            if one.is_file() and _suffix(one) in _KINDS and one.name[0] not in "._"
        ]
    else:
        found = [Path(one) for one in glob.glob(source, recursive=True) if Path(one).is_file()]  # noqa: PTH207 - absolute
    if not found:
        raise InputError(
            f"{source}: no file to look at; expected a file, a folder or a glob of {', '.join(_KINDS)}"
        )
    found.sort()
    if len(kinds := {_kind(one) for one in found}) > 1:
        raise InputError(
            f"{source}: files of {', '.join(sorted(kinds))}; a source has one kind, name its files by a glob"
        )
    return found


def _suffix(path: Path) -> str:
    return (
        path.with_suffix("").suffix.lower() if path.suffix.lower() in {".gz", ".zst"} else path.suffix.lower()
    )


def _kind(path: Path) -> str:
    try:
        return _KINDS[_suffix(path)]
    except KeyError:
        raise InputError(f"{path}: a file of unknown kind; expected one of {', '.join(_KINDS)}") from None


def _toml(
    title: str, source: str, files: int, looked: int, sample: Sample, guesses: Mapping[str, guess.Guess]
) -> Iterator[str]:
    noun = "file" if files == 1 else "files"
    yield f"# proposed by dlflow infer from {sample.rows:,} rows, the first of {looked} of {files} {noun}; check every line"
    yield from (f"# {note}" for note in sample.notes)
    yield f"[sources.{title}]"
    yield f"kind = {_quoted(sample.kind)}"
    yield f"path = {_quoted(source)}"
    defaults = {"delimiter": ",", "encoding": "utf-8", "header": True, "decimal": "."}
    for key, value in sample.settings.items():
        if value != defaults.get(key):
            yield f"{key} = {str(value).lower() if isinstance(value, bool) else _quoted(value)}"
    ignored = sample.ignore
    if ignored:
        why = "; ".join(f"{name} {reason}" for name, reason in ignored.items())
        yield f"ignore = [{', '.join(map(_quoted, ignored))}]  # {why}"
    names: dict[str, str] = {}
    for found in guesses:
        if found not in ignored:
            names[found] = _name(found, set(names.values()))
    nested = {name: found for found, name in names.items() if sample.kind == "jsonl" and "." in found}
    if nested:
        pairs = ", ".join(f"{name} = {_quoted(found)}" for name, found in nested.items())
        yield f"flatten = {{ {pairs} }}"
    yield ""
    yield f"[sources.{title}.columns]"
    for found, name in names.items():
        one = guesses[found]
        settings = {"type": _quoted(one.type)}
        if name != found and name not in nested and sample.settings.get("header", True):
            settings["name"] = _quoted(found)
        if one.format:
            settings["format"] = _quoted(one.format)
        if any(one.null):
            texts = (
                {*one.null, ""} if sample.kind == "csv" else set(one.null)
            )  # the field's list takes the source's place
            settings["null"] = f"[{', '.join(map(_quoted, sorted(texts)))}]"
        yield f"{name} = {{ {', '.join(f'{key} = {text}' for key, text in settings.items())} }}  # {'; '.join(one.evidence)}"


def _quoted(text: Any) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _name(text: str, taken: set[str]) -> str:
    """A name that a column may have."""
    name = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:50] or "column"
    name = name if _NAME.fullmatch(name) else f"c_{name}"
    number = 1
    while (found := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return found
