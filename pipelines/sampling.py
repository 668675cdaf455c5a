"""The beginning of a file of unknown form: what its columns are called, and what stands in them, as text."""

import csv
import gzip
import io
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import InputError
from pipelines.names import did_you_mean

__all__ = ["READERS", "Sample"]

_DELIMITERS = (",", ";", "\t", "|")
_ENCODINGS = ("utf-8", "gb18030", "cp1252", "latin-1")
_HEAD = 8 << 20  # bytes of a file that are looked at


class _Number(str):
    """A number of JSON as it is written."""

    __slots__ = ()


@dataclass
class Sample:
    """What was seen: columns by their name in the file, settings of the source, what to say of it."""

    kind: str
    columns: dict[str, list[str | None]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)  # of columns whose type the file says
    texts: set[str] = field(default_factory=set)  # columns that hold texts, whatever they look like
    ignore: dict[str, str] = field(default_factory=dict)  # name -> why
    notes: list[str] = field(default_factory=list)
    rows: int = 0


def _text(file: Path, sample: Sample) -> str:
    """The beginning of a text, without its last line if there is more."""
    if file.suffix.lower() == ".zst":
        with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
            head = stream.read(_HEAD)
    else:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as opened:
            head = opened.read(_HEAD)
    encoding = "utf-16" if head[:2] in {b"\xff\xfe", b"\xfe\xff"} else sample.settings.get("encoding", "")
    whole = head if len(head) < _HEAD else head[: head.rfind(b"\n") + 1]
    for name in [encoding] if encoding else _ENCODINGS:
        try:
            text = whole.decode(name)
        except UnicodeDecodeError:
            continue
        if name != "utf-8" and not encoding:
            sample.notes.append(
                f"not UTF-8; {name} reads it, which is a guess: check some words with other letters than A-Z"
            )
        if name != "utf-8":
            sample.settings["encoding"] = name
        return text.removeprefix("\ufeff")
    raise InputError(
        f"{file}: its text is of no encoding that was tried: {encoding or ', '.join(_ENCODINGS)}"
    )


def _csv(file: Path, rows: int, sample: Sample, _: str | None) -> None:
    text = _text(file, sample)
    first = text.splitlines()[:20]
    if "delimiter" not in sample.settings:
        best = max(_DELIMITERS, key=lambda sign: min((line.count(sign) for line in first if line), default=0))
        sample.settings["delimiter"] = best
    lines = csv.reader(io.StringIO(text), delimiter=sample.settings["delimiter"])
    records = [record for _, record in zip(range(rows + 1), lines, strict=False) if record]
    if not records:
        sample.notes.append(f"{file.name} is empty")
        return
    names = records[0]
    if sample.settings.get("header", True) and not _is_header(records):
        sample.settings["header"] = False
        sample.notes.append("the first row looks like values, so header = false; give the columns names")
    if not sample.settings.get("header", True):
        names = [f"column_{number + 1}" for number in range(len(records[0]))]
    body = records[1:] if sample.settings.get("header", True) else records
    other = sum(len(record) != len(names) for record in body)
    if other:
        sample.notes.append(
            f"{file.name}: {other:,} of {len(body):,} rows have another number of fields; they would be set aside"
        )
    _add(sample, file, names, [record for record in body if len(record) == len(names)])
    if sample.settings["delimiter"] == ";" and "decimal" not in sample.settings:
        commas = sum(bool(re.fullmatch(r"-?\d+,\d+", value)) for record in body for value in record)
        points = sum(bool(re.fullmatch(r"-?\d+\.\d+", value)) for record in body for value in record)
        if commas > points:
            sample.settings["decimal"] = ","


def _is_header(records: Sequence[Sequence[str]]) -> bool:
    first = records[0]
    return len(set(first)) == len(first) and all(
        value and not re.match(r"[-+.]?\d", value) for value in first
    )


def _add(sample: Sample, file: Path, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    if sample.columns and list(sample.columns) != list(names):
        more = [name for name in names if name not in sample.columns]
        less = [name for name in sample.columns if name not in names]
        sample.notes.append(f"DRIFT: {file.name} has other columns: more {more}, less {less}")
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    for name, values in zip(names, columns, strict=True):
        sample.columns.setdefault(name, []).extend(values)
    sample.rows += len(rows)


def _jsonl(file: Path, rows: int, sample: Sample, _: str | None) -> None:
    broken = 0
    for number, line in enumerate(_text(file, sample).splitlines()):
        if number >= rows:
            break
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_float=_Number, parse_int=_Number)
        except ValueError:
            broken += 1
            continue
        if not isinstance(record, dict):
            broken += 1
            continue
        for path, value in _flat(record, (), sample):
            column = sample.columns.setdefault(path, [])
            column += [None] * (sample.rows - len(column))
            column.append(None if value is None else str(value))
            if isinstance(value, str) and not isinstance(value, _Number):
                sample.texts.add(path)
        sample.rows += 1
    for column in sample.columns.values():
        column.extend([None] * (sample.rows - len(column)))
    if broken:
        sample.notes.append(f"{file.name}: {broken:,} lines are no JSON objects; they would be set aside")


def _flat(record: Mapping[str, Any], above: tuple[str, ...], sample: Sample) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        path = ".".join([*above, key])
        if isinstance(value, dict):
            yield from _flat(value, (*above, key), sample)
        elif isinstance(value, list):
            sample.ignore[path.split(".")[0]] = "holds lists"
        else:
            yield path, value


def _sqlite(file: Path, rows: int, sample: Sample, table: str | None) -> None:
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
        known = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        ]
        if table is None and len(known) == 1:
            table = known[0]
        if table is None or table not in known:
            raise InputError(f"{file}: which table? give --table{did_you_mean(table or '', known)}")
        sample.settings["table"] = table
        quoted = table.replace('"', '""')
        cursor = database.execute(f'SELECT * FROM "{quoted}" LIMIT {rows}')  # noqa: S608 - quoted
        names = [one[0] for one in cursor.description]
        found = cursor.fetchall()
    values = [[None if value is None else str(value) for value in row] for row in found]
    _add(sample, file, names, values)
    for name, column in zip(names, zip(*found, strict=True) if found else [], strict=False):
        kinds = {type(value) for value in column if value is not None}
        if kinds and kinds <= {int, float}:
            sample.types[name] = "int64" if kinds == {int} else "float64"
        elif str in kinds:
            sample.texts.add(name)
        elif bytes in kinds:
            sample.ignore[name] = "holds bytes"


def _parquet(file: Path, rows: int, sample: Sample, _: str | None) -> None:
    schema = pq.read_schema(file)
    _add(sample, file, schema.names, [])
    sample.rows += min(rows, pq.read_metadata(file).num_rows)
    for one in schema:
        kind = _arrow(one.type)
        if kind is None:
            sample.ignore[one.name] = f"is {one.type}"
        elif sample.types.setdefault(one.name, kind) != kind:
            sample.notes.append(
                f"DRIFT: {file.name}: column {one.name!r} is {kind}, {sample.types[one.name]} before"
            )


def _arrow(kind: pa.DataType) -> str | None:
    if pa.types.is_dictionary(kind):
        return _arrow(kind.value_type)
    text = str(kind)
    for found, test in (
        ("bool", pa.types.is_boolean),
        ("date", pa.types.is_date32),
        ("timestamp", pa.types.is_timestamp),
        ("string", lambda one: pa.types.is_string(one) or pa.types.is_large_string(one)),
        ("float64", lambda one: pa.types.is_float64(one) or pa.types.is_decimal(one)),
        ("float32", lambda one: pa.types.is_float32(one) or pa.types.is_float16(one)),
        ("int64", lambda one: pa.types.is_integer(one) and text not in {"int8", "int16", "int32"}),
    ):
        if test(kind):
            return found
    return text if text in {"int8", "int16", "int32"} else None


READERS = {"csv": _csv, "jsonl": _jsonl, "sqlite": _sqlite, "parquet": _parquet}
"""By kind: `read(file, rows, sample, table)` adds some rows of a file to the sample."""
