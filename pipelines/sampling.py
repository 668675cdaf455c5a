"""The beginning of a text of unknown form: what its columns are called, and what stands in them."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import InputError
from pipelines.sources.stream import opened

__all__ = ["READERS", "Sample", "delimiter_of", "head", "labelled"]

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
    fields: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # of columns that are known, all that is said of them
    ignore: dict[str, str] = field(default_factory=dict)  # name -> why
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    layouts: dict[frozenset[str], tuple[list[str], list[str]]] = field(
        default_factory=dict
    )  # sets of columns that files have: these names in their order, and the files

    def found_in(self, path: str, names: Sequence[str]) -> None:
        """Remember that a file has these columns."""
        self.layouts.setdefault(frozenset(names), ([*names], []))[1].append(Path(path).name)

    @property
    def lacking(self) -> set[str]:
        """Columns that some of the files do not have."""
        return set().union(*self.layouts) - frozenset.intersection(*self.layouts) if self.layouts else set()

    def drift(self) -> Iterator[str]:
        """What is to be said of files with different columns."""
        if len(self.layouts) < 2:
            return
        yield f"DRIFT: the files have {len(self.layouts)} sets of columns; if they are different data, declare a source for each:"
        first: list[str] = []
        for names, files in self.layouts.values():
            more = [name for name in names if name not in first]
            less = [name for name in first if name not in names]
            said = (
                f"+ {_some_of(more)}" * bool(more and first)
                + " " * bool(more and less)
                + f"- {_some_of(less)}" * bool(less)
            )
            others = f" and {len(files) - 1} more" if len(files) > 1 else ""
            yield f"  {files[0]}{others}: {said or _some_of(names)}"
            first = first or names


def _some_of(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def head(path: str) -> bytes:
    """The first bytes of a file or object, unpacked."""
    packed = {".gz": "gzip", ".zst": "zstd"}.get(Path(path).suffix.lower())
    with opened(path) as file:
        if packed is None:
            return file.read(_HEAD)
        with pa.CompressedInputStream(file, packed) as stream:
            try:
                return stream.read(_HEAD)
            except OSError as error:
                raise InputError(f"{path}: {packed} data cannot be unpacked: {error}; is it cut?") from error


def _text(path: str, sample: Sample) -> str:
    """The beginning of a text, without its last line if there is more."""
    found = head(path)
    encoding = "utf-16" if found[:2] in {b"\xff\xfe", b"\xfe\xff"} else sample.settings.get("encoding", "")
    whole = found if len(found) < _HEAD else found[: found.rfind(b"\n") + 1]
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
        f"{path}: its text is of no encoding that was tried: {encoding or ', '.join(_ENCODINGS)}"
    )


def labelled(text: str) -> str | None:
    """Where in each line the label of a text stands, behind or before a tab: "first", "last", or nowhere (None).

    A label is one of few and short, a text is long and hardly ever the same.
    """
    lines = [line for line in text.split("\n")[:2000] if line.strip("\r")]
    if len(lines) < 5 or any("\t" not in line for line in lines):
        return None
    for where, pairs in (
        ("first", [line.split("\t", 1) for line in lines]),
        ("last", [line.rstrip("\r").rsplit("\t", 1)[::-1] for line in lines]),
    ):
        labels, texts = {one for one, _ in pairs}, [other for _, other in pairs]
        few = len(labels) <= max(2, len(lines) // 50) and all(0 < len(one) <= 30 for one in labels)
        if few and sum(map(len, texts)) > 20 * len(texts) and len(set(texts)) > len(texts) // 2:
            return where
    return None


def _texts(path: str, rows: int, sample: Sample, _: str | None) -> None:
    text = _text(path, sample)
    where = sample.settings.setdefault("label", labelled(text))
    lines = [line.rstrip("\r") for line in text.split("\n")[:rows] if line.rstrip("\r")]
    if where is None:
        _add(sample, path, ["text"], [[line] for line in lines])
    else:
        cut = [line.split("\t", 1)[::-1] if where == "first" else line.rsplit("\t", 1) for line in lines]
        _add(sample, path, ["text", "label"], [pair for pair in cut if len(pair) == 2])
    sample.texts.add("text")


def _csv(path: str, rows: int, sample: Sample, _: str | None) -> None:
    text, name = _text(path, sample), Path(path).name
    first = text.splitlines()[:20]
    if "delimiter" not in sample.settings:
        sample.settings["delimiter"] = delimiter_of(first)
    lines = csv.reader(io.StringIO(text), delimiter=sample.settings["delimiter"])
    records = [record for record in lines if record]
    if not records:
        sample.notes.append(f"{name} is empty")
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
            f"{name}: {other:,} of {len(body):,} rows have another number of fields; they would be set aside"
        )
    body = _some([record for record in body if len(record) == len(names)], rows)
    if unnamed := [place for place, one in enumerate(names) if not one]:
        filled = sum(any(record[place] for place in unnamed) for record in body)
        sample.ignore[""] = f"a column without a name; {filled:,} of {len(body):,} rows have something there"
    _add(sample, path, names, body)
    if sample.settings["delimiter"] == ";" and "decimal" not in sample.settings:
        commas = sum(bool(re.fullmatch(r"-?\d+,\d+", value)) for record in body for value in record)
        points = sum(bool(re.fullmatch(r"-?\d+\.\d+", value)) for record in body for value in record)
        if commas > points:
            sample.settings["decimal"] = ","


def _some(records: list[Any], rows: int) -> list[Any]:
    """So many of them, from the beginning to the end."""
    return records[:: max(1, -(-len(records) // max(rows, 1)))]


def delimiter_of(lines: Sequence[str]) -> str:
    """The sign that is most often in the line that has it least often."""
    return max(_DELIMITERS, key=lambda sign: min((line.count(sign) for line in lines if line), default=0))


def _is_header(records: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has names: each once, none like a number, and none a value that comes again below."""
    first = [one for one in records[0] if one]
    if not first or len(set(first)) < len(first) or any(re.match(r"[-+.]?\d", one) for one in first):
        return False
    below = [
        {record[place] for record in records[1:] if place < len(record)} for place in range(len(records[0]))
    ]
    return not any(one and one in values for one, values in zip(records[0], below, strict=True))


def _add(sample: Sample, path: str, names: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    sample.found_in(path, names)
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    for name, values in zip(names, columns, strict=True):
        sample.columns.setdefault(name, []).extend(values)
    sample.rows += len(rows)


def _jsonl(path: str, rows: int, sample: Sample, _: str | None) -> None:
    broken = 0
    for line in _some([line for line in _text(path, sample).split("\n") if line.strip()], rows):
        try:
            record = json.loads(line, parse_float=_Number, parse_int=_Number)
        except ValueError:
            broken += 1
            continue
        if not isinstance(record, dict):
            broken += 1
            continue
        for keys, value in _flat(record, (), sample):
            column = sample.columns.setdefault(keys, [])
            column += [None] * (sample.rows - len(column))
            column.append(None if value is None else str(value))
            if isinstance(value, str) and not isinstance(value, _Number):
                sample.texts.add(keys)
        sample.rows += 1
    for column in sample.columns.values():
        column.extend([None] * (sample.rows - len(column)))
    if broken:
        sample.notes.append(
            f"{Path(path).name}: {broken:,} lines are no JSON objects; they would be set aside"
        )


def _flat(record: Mapping[str, Any], above: tuple[str, ...], sample: Sample) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        path = ".".join([*above, key])
        if isinstance(value, dict):
            yield from _flat(value, (*above, key), sample)
        elif isinstance(value, list):
            sample.ignore[path.split(".")[0]] = "holds lists"
        else:
            yield path, value


READERS = {"csv": _csv, "jsonl": _jsonl, "text": _texts}
"""By kind: `read(path, rows, sample, table)` adds some rows of a file to the sample."""
