"""Rows read again, one by one: the parts of a file that hold just them.

A row of a plain text is found at its byte, and its record ends where the framing says. Everything else (packed files,
databases, binary formats) is cut as ever, and only the parts that hold one of the rows are read.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from pipelines import sources, stores
from pipelines.sources import stream
from pipelines.sources.head import framing, read_head
from pipelines.sources.inputs import InputFile, Part, at_rest, whole
from pipelines.sources.records import Framing, find
from pipelines.sources.source import Source

__all__ = ["parts_of"]

_READ = 64 << 10  # bytes in which most records end


def parts_of(source: Source, file: InputFile, number: int, rows: Mapping[int, int]) -> list[Part]:
    """Parts of one file that hold these rows, given as line -> byte offset; other rows may be in them.

    Raises: SourceChanged if the file is no longer what was planned.
    """
    quote = source.quote if source.kind == "csv" else ""
    if source.kind in {"csv", "jsonl"} and not stream.is_one_stream(file.path, source.encoding, quote):
        return _records(source, file, number, rows)
    parts = sorted(sources.cut(source, file, number), key=lambda part: part.line)
    starts = np.array([part.line for part in parts])
    wanted = np.unique(np.searchsorted(starts, sorted(rows), "right") - 1)
    return [parts[place] for place in wanted.tolist()]


def _records(source: Source, file: InputFile, number: int, rows: Mapping[int, int]) -> list[Part]:
    with stores.using(source.storage), at_rest(file, source.reader):
        head = read_head(source, file.path)
        names = () if head is None else head.names
        how = framing(source, file.path, len(names))
        part = dataclasses.replace(whole(file, number), names=names)
        return [
            dataclasses.replace(part, start=offset, stop=_end(how, offset, file.size), line=line)
            for line, offset in sorted(rows.items())
        ]


def _end(how: Framing, offset: int, size: int) -> int:
    """Where the record that begins at `offset` ends."""
    with stream.opened(how.path) as file:
        file.seek(offset)
        data = file.read(_READ)
        while True:
            ends, _, _ = find(data, how, odd=False)
            at_end = offset + len(data) >= size
            if len(ends) and (ends[0] < len(data) or at_end):
                return offset + int(ends[0])
            if at_end:
                return size
            data += file.read(3 * len(data))
