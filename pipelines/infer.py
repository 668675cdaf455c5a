"""Sources proposed from a sample of what is there, as TOML with the evidence beside each line. It is for people to check.

    SOURCE                                        looked at
    a file, folder, glob, s3://bucket/key         the beginning of the first, the last and some files between
    sqlite:///shop.db, postgresql://host/shop     the first rows of a table; of SQLite of every table, unless one is named

What a file is, is told by the end of its name, else by its beginning. A run never infers: what is read is what is written
down.
"""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import guess, postgres, references, sampling, stores, typed_samples
from pipelines.errors import InputError
from pipelines.sampling import Sample
from pipelines.sources.inputs import around

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
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_BEGINNINGS = (
    (b"PAR1", "parquet"),
    (b"SQLite format 3\0", "sqlite"),
    (b"ARROW1", "arrow"),
    (b"\0\0\x08", "idx"),
    (b"\0\0\x09", "idx"),
    (b"\0\0\x0b", "idx"),
    (b"\0\0\x0c", "idx"),
    (b"\0\0\x0d", "idx"),
    (b"\0\0\x0e", "idx"),
    (b"PK\x03\x04", "zip"),
    (b"{", "jsonl"),
)
_READERS = {**sampling.READERS, **typed_samples.READERS}
_FILES = 8
_TABLES = 50  # of a database, that are proposed at once
_EXPECTED = "CSV, JSON lines, text, Parquet, Arrow, SQLite, IDX, images or a zip of images or texts"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


def infer(source: str, *, rows: int = 50_000, name: str | None = None, table: str | None = None) -> str:
    """TOML of a source for a file, folder, glob or URL; `table` is that of a database. ${NAME} comes from the environment.

    Raises: InputError if there is nothing to read, or nothing that is understood; as a run for stores and servers.
    """
    scheme, mark, _ = source.partition("://")
    if mark and scheme in postgres.SCHEMES:
        address = references.of_environment(source)
        sample = Sample("sql", settings={"url": _without_password(source)})
        typed_samples.postgresql(address, rows, sample, table)
        return _proposal(name or sample.settings["table"], "", sample, 1, 1)
    url = source if mark and scheme == "sqlite" else None
    files = [references.of_environment(source).removeprefix("sqlite:///")] if url else _files(source)
    kind = "sqlite" if url else _kind(files[0])
    if kind != "sqlite" or table is not None:
        return _of_files(source, files, kind, rows, name, table, url)
    tables = typed_samples.sqlite_tables(files[0])
    if not 0 < len(tables) <= _TABLES:
        raise InputError(f"{files[0]}: {len(tables):,} tables; name one by --table")
    return "\n".join(
        _of_files(
            source, files, kind, rows, name if len(tables) == 1 else None, one, url, many=len(tables) > 1
        )
        for one in tables
    )


def _of_files(
    source: str,
    files: list[str],
    kind: str,
    rows: int,
    name: str | None,
    table: str | None,
    url: str | None,
    *,
    many: bool = False,
) -> str:
    step = max(1, (len(files) - 1) // (_FILES - 1))
    some = list(dict.fromkeys([*files[::step][: _FILES - 1], files[-1]]))
    sample = Sample("text" if kind == "documents" else "sql" if url else kind)
    if url:
        sample.settings["url"] = url
    for file in some:
        _READERS[kind](file, max(1, rows // len(some)), sample, table)
    if not sample.columns:
        raise InputError(f"{files[0]}: no column was found; is it {kind}?")
    title = name or (table if many and table else Path(source.rstrip("/*")).name.split(".")[0]) or "source"
    return _proposal(title, "" if url else source, sample, len(files), len(some))


def _proposal(title: str, path: str, sample: Sample, files: int, looked: int) -> str:
    decimal = sample.settings.get("decimal", ".")
    guesses = {
        column: guess.Guess(sample.types[column], evidence=(_said(sample, column),))
        if column in sample.types
        else guess.column(values, decimal=decimal, text=column in sample.texts)
        for column, values in sample.columns.items()
    }
    return "\n".join(_toml(_name(title, set()), path, files, looked, sample, guesses)) + "\n"


def _said(sample: Sample, column: str) -> str:
    values = sample.columns[column]
    missing = sum(value is None for value in values)
    where = "as the database says" if sample.kind in {"sql", "sqlite"} else "as the file says"
    return f"{where}; {missing / len(values):.1%} missing" if missing else where


def _without_password(url: str) -> str:
    """The URL with a reference in the place of a password that is written in it."""
    return re.sub(r"(//[^:/@]*:)(?!\$\{)[^@]*@", r"\1${PASSWORD}@", url)


def _files(source: str) -> list[str]:
    path = Path(source)
    if stores.is_url(source):
        found = [one.url for one in stores.found(source, tuple(_endings()))]
    else:
        if path.is_dir() and _kind_of_folder(source) is not None:
            return [source]
        if path.is_dir():
            there = (one for one in path.iterdir() if one.is_file() and one.name[0] not in "._")
            found = [str(one) for one in there if _suffix(str(one)) in _KINDS]
        else:
            found = [one for one in glob.glob(source, recursive=True) if Path(one).is_file()]  # noqa: PTH207 - absolute
    if not found:
        raise InputError(
            f"{source}: no file to look at; {'there is nothing of the kind' if stores.is_url(source) else around(path)}; expected "
            f"a file, a folder or a glob of {_EXPECTED}"
        )
    found.sort()
    if len(kinds := {_kind(one) for one in found}) > 1:
        raise InputError(
            f"{source}: files of {', '.join(sorted(kinds))}; a source has one kind, name its files by a glob"
        )
    return found


def _endings() -> Iterator[str]:
    return (end + packed for end in _KINDS for packed in ("", ".gz", ".zst"))


def _suffix(path: str) -> str:
    found = Path(path)
    return (
        found.with_suffix("").suffix.lower()
        if found.suffix.lower() in {".gz", ".zst"}
        else found.suffix.lower()
    )


def _kind_of_folder(path: str) -> str | None:
    """What a folder or zip of files is, where they are in folders of their own or are images."""
    names = typed_samples.members(path)
    if any(name.lower().endswith(typed_samples.IMAGES) for name in names):
        return "images"
    return "documents" if any("/" in name and name.lower().endswith(".txt") for name in names) else None


def _kind(path: str) -> str:
    if Path(path).is_dir():
        return _kind_of_folder(path) or ""
    if (known := _KINDS.get(_suffix(path))) is not None and known != "csv":
        return known
    found = sampling.head(path)
    for start, kind in _BEGINNINGS:
        if found.startswith(start):
            kind = kind if kind != "zip" else _kind_of_folder(path) or "zip"  # noqa: PLW2901
            if kind == "zip":
                raise InputError(f"{path}: a zip without images or folders of texts; unpack it first")
            return kind
    if b"\0" not in found[:1000] or found[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        text = found.decode("utf-16" if found[:1] in {b"\xff", b"\xfe"} else "latin-1", "replace")
        lines = text.split("\n")[:20]
        few = min((line.count(sampling.delimiter_of(lines)) for line in lines if line.strip()), default=0)
        if sampling.labelled(text) or (_suffix(path) == ".txt" and not few):
            return "text"
        if known is not None or few:
            return "csv"
    raise InputError(f"{path}: a file of unknown kind; expected {_EXPECTED}")


def _toml(
    title: str, source: str, files: int, looked: int, sample: Sample, guesses: Mapping[str, guess.Guess]
) -> Iterator[str]:
    noun = "file" if files == 1 else "files"
    what = "a database" if sample.kind == "sql" else f"{looked} of {files} {noun}"
    yield f"# proposed by dlflow infer from {sample.rows:,} rows of {what}; check every line"
    yield from (f"# {note}" for note in (*sample.notes, *sample.drift()))
    yield f"[sources.{title}]"
    yield f"kind = {_quoted(sample.kind)}"
    if source:
        yield f"path = {_quoted(source)}"
    defaults = {"delimiter": ",", "encoding": "utf-8", "header": True, "decimal": ".", "label": None}
    for key, value in sample.settings.items():
        if value != defaults.get(key):
            yield f"{key} = {str(value).lower() if isinstance(value, bool) else _quoted(value)}"
    ignored = sample.ignore
    if ignored:
        why = "; ".join(f"{name} {reason}".strip() for name, reason in ignored.items())
        yield f"ignore = [{', '.join(map(_quoted, ignored))}]  # {why}"
    names: dict[str, str] = {}
    for found in guesses:
        if found not in ignored:
            names[found] = _name(found, set(names.values()))
    optional = [name for found, name in names.items() if found in sample.lacking]
    if optional and sample.settings.get("header", True):
        yield f"optional = [{', '.join(map(_quoted, optional))}]  # null where a file lacks them"
    nested = {name: found for found, name in names.items() if sample.kind == "jsonl" and "." in found}
    if nested:
        pairs = ", ".join(f"{name} = {_quoted(found)}" for name, found in nested.items())
        yield f"flatten = {{ {pairs} }}"
    yield ""
    yield f"[sources.{title}.columns]"
    for found, name in names.items():
        one = guesses[found]
        settings = {"type": _quoted(one.type)}
        if found in sample.fields:
            settings |= {
                key: json.dumps(value) for key, value in sample.fields[found].items() if value is not None
            }
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
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:50] or "column"
    name = name if _NAME.fullmatch(name) else f"c_{name}"
    number = 1
    while (found := name if number == 1 else f"{name}_{number}") in taken:
        number += 1
    return found
