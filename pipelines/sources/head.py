"""The beginning of a text file against what was declared: column names, delimiter, number of fields. Wrong: no row is read."""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines import difference
from pipelines.errors import InputError
from pipelines.names import did_you_mean
from pipelines.sources import stream
from pipelines.sources.inputs import Part
from pipelines.sources.records import STREAM_PART, Framing, cut_records, find, strays
from pipelines.sources.source import Source

__all__ = ["SMALL", "Head", "check_names", "cut_text", "fields", "framing", "missing", "read_head", "remedy"]

SMALL = 8 << 20  # bytes of a packed file that is read at once: text packs to 3-20:1
_SIZE = 1 << 20  # bytes in which the header and the first row must be
_PIECE = 1 << 16  # of them are read at once, until there are rows enough
_ROWS = 100  # rows that must not all have another number of fields than the header
_DELIMITERS = ",;\t|"
_RECORD = 64 << 20  # bytes of a row at most, where a single field may not have more


@dataclass(frozen=True)
class Head:
    """Where the rows of a file begin, and its columns in their order."""

    start: int
    line: int
    names: tuple[str, ...]


def framing(source: Source, path: str, columns: int) -> Framing:
    """How the records of a text source are found."""
    limit = max(_RECORD, source.max_field_bytes + _SIZE)
    if source.kind == "csv":
        limit = min(
            limit, max(columns, 1) * (source.max_field_bytes + 3)
        )  # more: a field is too long, or one too many
        return Framing(path, ord(source.quote) if source.quote else -1, ord(source.separator), True, limit)
    return Framing(path, -1, ord(","), False, limit)


def read_head(source: Source, path: str) -> Head | None:
    """Where the rows begin; None for a file without a row or header, where that is allowed.

    Raises: InputError if names, delimiter, encoding or number of fields are not as declared.
    """
    how = framing(source, path, len(source.columns))
    encoding = stream.chunk_encoding(source.encoding, source.quote)
    start, records, more = _beginning(source, path, how, encoding)
    if not records:
        if more:
            raise InputError(
                f"{path}:1: no row ends in the first {_SIZE:,} bytes; is it text, and is the quote {source.quote!r}?"
            )
        if source.allow_empty:
            return None
        wanted = "a header" if source.kind == "csv" and source.header else "at least one row"
        raise InputError(f"{path}: empty file, expected {wanted}; set allow_empty = true if that may be")
    if source.kind != "csv":
        return Head(start, 1, ())
    if not source.header:
        names = tuple(source.columns)
        _check_widths(source, path, names, records, how)
        return Head(start, 1, names)
    header = records[0]
    names = _names(source, path, header, encoding)
    if len(names) == 1 < len(source.columns):
        _check_delimiter(source, path, header.line, names[0], len(source.columns))
    check_names(source, f"{path}:{header.line}", "header", names, headed=True)
    _check_widths(source, path, names, records[1:], how)
    return Head(start + header.stop, header.line_behind, names)


def _beginning(source: Source, path: str, how: Framing, encoding: str) -> tuple[int, list["_Record"], bool]:
    """Bytes of the byte order mark, the first records that are not blank, and whether there is more text than was read."""
    data = b""
    for chunk in stream.chunks(path, 0, stream.END, source.encoding, source.quote, size=_PIECE):
        data += chunk
        if len(data) < _PIECE:  # most often all there is: it is looked at once, below
            continue
        start = stream.mark(path, data, encoding)
        records = list(_records(data[start:], how, whole=False))
        if len(records) > _ROWS or len(data) > _SIZE:
            return start, records, True
    start = stream.mark(path, data, encoding)
    return start, list(_records(data[start:], how, whole=True)), False


def cut_text(source: Source, part: Part, how: Framing) -> list[Part]:
    """The parts of a text file of which `part` is all: byte ranges, or of one stream ranges of what it unpacks to.

    Raises: InputError with the line of a quote that is never closed, unless it is one stream.
    """
    quote = source.quote if source.kind == "csv" else ""
    if not stream.is_one_stream(part.path, source.encoding, quote):
        if part.stop - part.start <= source.part_bytes:
            return [part]  # a quote that is never closed is found where it is read
        text = stream.chunks(part.path, part.start, part.stop, source.encoding, quote)
        return cut_records(text, how, part, source.part_bytes)
    part = dataclasses.replace(part, stop=stream.END, weight=part.size)
    if part.size <= SMALL:
        return [part]
    text = stream.chunks(part.path, part.start, part.stop, source.encoding, quote)
    parts = cut_records(text, how, part, STREAM_PART[0])
    return [dataclasses.replace(one, weight=source.part_bytes) for one in parts]


def fields(record: bytes, how: Framing) -> list[bytes]:
    """The fields of one record as they stand in the file, quotes included."""
    record = record.rstrip(b"\r\n")
    codes = np.frombuffer(record, np.uint8)
    between = np.flatnonzero(codes == how.delimiter)
    quotes = np.flatnonzero(codes == how.quote)
    between = between[np.searchsorted(quotes, between) % 2 == 0]
    starts, stops = [0, *(between + 1).tolist()], [*between.tolist(), len(record)]
    return [record[start:stop] for start, stop in zip(starts, stops, strict=True)]


class _Record(NamedTuple):
    text: bytes
    stop: int  # where it ends
    line: int
    line_behind: int


def _records(data: bytes, how: Framing, *, whole: bool) -> Iterator[_Record]:
    """The first records that are not blank."""
    if not whole and data.endswith(b"\r"):
        data = data[:-1]
    ends, breaks, odd = find(data, how, odd=False)
    if whole and not odd and data and (not len(ends) or ends[-1] < len(data)):
        ends = np.append(ends, len(data))
    begin, line, given = 0, 1, 0
    for end, behind in zip(ends.tolist(), (np.searchsorted(breaks, ends, "right") + 1).tolist(), strict=True):
        if data[begin:end].strip(b"\r\n"):
            yield _Record(data[begin:end], end, line, behind)
            given += 1
        if given > _ROWS:
            return
        begin, line = end, behind


def _names(source: Source, path: str, header: _Record, encoding: str) -> tuple[str, ...]:
    record, line = header.text, header.line
    try:
        text = record.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{line}: byte 0x{record[error.start]:02X} at {error.start} of the header is not {source.encoding}; "
            "set encoding (gb18030, cp1252, ...?)"
        ) from error
    text = text.removeprefix("\ufeff")
    how = framing(source, path, 1)
    if "\0" in text or (source.quote and len(strays(record, how)[0])):
        raise InputError(
            f"{path}:{line}: the header is no list of names: {text[:60]!r}; correct it, or set quote or encoding"
        )
    if not source.quote:
        return tuple(text.split(source.separator))
    return tuple(next(csv.reader([text], delimiter=source.separator, quotechar=source.quote, strict=True)))


def check_names(source: Source, place: str, what: str, names: Sequence[str], *, headed: bool = False) -> None:
    """Raises: InputError with the difference if the columns of a file are not those declared; `headed`: a header says which."""
    title = {source.names[column]: field.title for column, field in source.columns.items()}
    optional = {source.names[column] for column in source.optional}
    lost = [name for name in title if name not in names and name not in optional]
    others = list(dict.fromkeys(name for name in names if name not in title and name not in source.ignore))
    counts = {name: names.count(name) for name in dict.fromkeys(names) if name not in source.ignore}
    new = others if source.extra == "error" else []
    lines = [f"- {name} {title[name]}{missing(name, others)}" for name in lost]
    lines += [
        f"+ {name[:40]}: {f'is there {count} times' if count > 1 else 'is not declared'}"
        for name, count in counts.items()
        if name in new or (name in title and count > 1)
    ]
    if not lines:
        return
    no_header = ", or set header = false if there is no header" if headed and len(lost) == len(title) else ""
    head = f"{place}: {what} has {len(names)} names, {len(title)} columns are declared (- declared, + found)"
    raise InputError(difference.told(head, lines, remedy(source, new) + no_header))


def missing(name: str, others: Sequence[str]) -> str:
    """What is said of a declared column that is not there."""
    hint = did_you_mean(name, others).removeprefix("; ") if others else ""
    return f": is missing{', ' + hint if hint.startswith('did') else ''}"


def remedy(source: Source, new: Sequence[str]) -> str:
    """What to do where the columns are not those declared, and some of them are `new`."""
    if not new:
        return "correct the declaration or the data"
    named = ", ".join(f'"{name[:40]}"' for name in new[:5]) + (", ..." if len(new) > 5 else "")
    evolve = "" if source.contract == "evolve" else ', or take them in by contract = "evolve"'
    return f"correct the declaration or the data, leave new columns out by ignore = [{named}]{evolve}"


def _check_delimiter(source: Source, path: str, line: int, text: str, expected: int) -> None:
    for other in _DELIMITERS:
        if other != source.separator and len(text.split(other)) > 1:
            raise InputError(
                f"{path}:{line}: 1 column found, {expected} expected; is the delimiter {other!r}?"
            )


def _check_widths(
    source: Source, path: str, names: tuple[str, ...], records: list[_Record], how: Framing
) -> None:
    """Rows that all have one field more are no bad rows: the declaration is wrong, or the file."""
    widths = set()
    for record in records:
        widths.add(len(fields(record.text, how)))
        if len(widths) > 1 or len(names) in widths:
            return
    if len(records) < 2:
        return
    width, first = widths.pop(), records[0]
    if width == 1:
        _check_delimiter(source, path, first.line, first.text.decode("latin-1"), len(names))
    what = f"header has {len(names)} names" if source.header else f"{len(names)} columns are declared"
    raise InputError(
        f"{path}:{first.line}: {what}, but the rows have {width} fields; correct the file, or columns and delimiter"
    )
