r"""Records of a text: a record ends at a line end outside quotes, that is, after an even number of quotes.

    id,name,note\n        no quote so far: a record ends
    1,"a\n                1, odd: the record goes on in the next line
    b",c\n                2: a record ends
    2,"x ""y"" z",d\n     8: a doubled quote changes nothing

That is the only rule of framing, and it holds from the beginning of the file. So a file can be cut at the end of any
record, in one cheap pass that counts quotes and lines, and no row depends on how it was cut. Whether the quotes stand
where they may is asked afterwards, of each record. Lines end with LF and, of a csv, with CR LF or a lone CR.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.errors import InputError
from pipelines.sources.inputs import Part
from pipelines.sources.stream import END, opened

__all__ = ["HEAD", "STREAM_PART", "Block", "Framing", "Long", "blocks", "cut_records", "find", "strays"]

HEAD = 64 << 10  # bytes of a bad record that are kept
STREAM_PART = (
    1 << 26,
    1 << 28,
)  # bytes of a part of one stream: 64 MiB are 1 s of work, 256 MiB fit a worker of 2 GiB
_STREAM_PARTS = 16
_SEARCHED = 1 << 20  # bytes of a record in which the quote that is never closed is looked for


@dataclass(frozen=True)
class Framing:
    """How records are found: the quote (-1: none), whether CR ends a line, how many bytes a record may have."""

    path: str
    quote: int
    delimiter: int
    cr: bool
    limit: int


@dataclass(frozen=True)
class Block:
    """Whole records that follow each other.

    Shapes: ends (n,), where each record ends in `data`; lines (n + 1,), in which each begins, and the one after.
    """

    data: bytes
    ends: np.ndarray
    lines: np.ndarray
    offset: int  # of `data` in the text


@dataclass(frozen=True)
class Long:
    """A record over the limit: only its beginning was kept."""

    head: bytes
    size: int
    line: int
    lines: int  # how many it covers
    offset: int


def blocks(stream: Iterable[bytes], framing: Framing, *, line: int, offset: int) -> Iterator[Block | Long]:
    """The records of a text that begins with a record, in the memory of a chunk and a record.

    Raises: InputError with the line of a quote that is never closed.
    """
    rest, long, odd = b"", None, False
    for chunk, final in _pieces(stream, framing):
        last = len(chunk) if final or long is not None else _last_line(chunk, framing)
        tail = chunk[last:]
        data = b"".join([rest, memoryview(chunk)[:last]]) if rest or tail else chunk  # copied once
        if long is not None:
            ends, breaks, odd = find(data, framing, odd=odd)
            end = int(ends[0]) if len(ends) else len(data)
            more = int(np.searchsorted(breaks, end, "right"))
            head = long.head + data[: min(end, HEAD - len(long.head))]
            long = dataclasses.replace(long, head=head, size=long.size + end, lines=long.lines + more)
            if not len(ends) and not final:
                rest = b""
                continue
            if not len(ends) and odd:
                raise _unclosed(framing, long.head, long.line)
            yield long
            line, offset = line + long.lines, offset + long.size
            data, long = data[end:], None
        ends, breaks, odd = find(data, framing, odd=False)
        end = int(ends[-1]) if len(ends) else 0
        single = len(breaks) == len(ends)  # no line end inside a record
        if final and end < len(data):
            if odd:
                raise _unclosed(framing, data[end:], line + int(np.searchsorted(breaks, end, "right")))
            ends = np.append(ends, len(data))
            end = len(data)
        if len(ends):
            behind = np.arange(1, len(ends) + 1) if single else np.searchsorted(breaks, ends, "right")
            lines = line + np.concatenate([[0], behind])
            yield from _split(Block(data[:end], ends, lines, offset), framing.limit)
        rest = data[end:] + tail
        line, offset = line + int(np.searchsorted(breaks, end, "right")), offset + end
        if len(rest) > framing.limit:
            _, breaks, odd = find(rest, framing, odd=False)
            long = Long(rest[:HEAD], len(rest), line, len(breaks), offset)
            rest = b""


def _last_line(chunk: bytes, framing: Framing) -> int:
    """Where the last line of a chunk ends that ends in it; all of it where that is not to be seen at once."""
    last = chunk.rfind(b"\n") + 1
    return len(chunk) if not last or (framing.cr and chunk.find(b"\r", last) >= 0) else last


def cut_records(stream: Iterable[bytes], framing: Framing, start: Part, part_bytes: int) -> list[Part]:
    """The parts of a text from `start` on, each of `part_bytes` at most and what its last record needs.

    Raises: InputError with the line of a quote that is never closed, where `start` says how long the text is.
    """
    parts: list[Part] = []
    known = start.stop < END
    if known:  # parts of one file are alike
        total = max(start.stop - start.start, 1)
        part_bytes = math.ceil(total / math.ceil(total / part_bytes))
    position = begin = record = start.start
    line = first = record_line = start.line
    odd = False
    for chunk, _ in _pieces(stream, framing):
        if not odd and _is_plain(chunk, framing):  # only the ends of parts are looked for: four times as fast
            counted = 0
            while (at := chunk.find(b"\n", max(begin + part_bytes - position - 1, 0))) >= 0:
                line, counted = line + _lines(chunk[counted : at + 1]), at + 1
                parts.append(dataclasses.replace(start, start=begin, stop=position + at + 1, line=first))
                begin, first = position + at + 1, line
            line += _lines(chunk[counted:])
            if (last := chunk.rfind(b"\n")) >= 0:
                record, record_line = position + last + 1, line
            position += len(chunk)
            continue
        ends, breaks, odd = find(chunk, framing, odd=odd)
        while (k := int(np.searchsorted(ends, begin + part_bytes - position))) < len(ends):
            stop, stop_line = position + int(ends[k]), line + int(np.searchsorted(breaks, ends[k], "right"))
            parts.append(dataclasses.replace(start, start=begin, stop=stop, line=first))
            begin, first = stop, stop_line
        if len(ends):
            record, record_line = (
                position + int(ends[-1]),
                line + int(np.searchsorted(breaks, ends[-1], "right")),
            )
        position, line = position + len(chunk), line + len(breaks)
    if odd and known:
        with opened(framing.path) as file:
            file.seek(record)
            raise _unclosed(framing, file.read(_SEARCHED), record_line)
    if begin < position or not parts:
        parts.append(dataclasses.replace(start, start=begin, stop=position, line=first))
    return parts if known else _few(parts, position - start.start)


def _is_plain(data: bytes, framing: Framing) -> bool:
    """Whether every line feed ends a record, and nothing else does."""
    return not (framing.quote >= 0 and framing.quote in data) and not (framing.cr and 13 in data)


def _lines(data: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10))


def _few(parts: list[Part], size: int) -> list[Part]:
    """Parts of one stream, put together: each has to unpack all that is before it again, so there are few of them."""
    least, most = STREAM_PART
    wanted = min(most, max(least, size // _STREAM_PARTS))
    few: list[Part] = []
    for part in parts:
        if few and part.stop - few[-1].start <= wanted:
            few[-1] = dataclasses.replace(few[-1], stop=part.stop)
        else:
            few.append(part)
    few[-1] = dataclasses.replace(few[-1], stop=END)
    return few


def find(data: bytes, framing: Framing, *, odd: bool) -> tuple[np.ndarray, np.ndarray, bool]:
    """Where records end, where lines end, and whether the number of quotes is odd behind `data` (`odd`: before it)."""
    codes = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(codes == 10) + 1
    if framing.cr and 13 in data:
        cr = np.flatnonzero(codes == 13)
        alone = (cr + 1 == len(codes)) | (codes[np.minimum(cr + 1, len(codes) - 1)] != 10)
        breaks = np.sort(np.concatenate([breaks, cr[alone] + 1]))
    if framing.quote < 0 or (not odd and framing.quote not in data):
        return breaks, breaks, False
    quotes = np.flatnonzero(codes == framing.quote)
    ends = breaks[(np.searchsorted(quotes, breaks) + odd) % 2 == 0]
    return ends, breaks, bool((len(quotes) + odd) % 2)


def strays(data: bytes, framing: Framing) -> tuple[np.ndarray, np.ndarray]:
    """Quotes that open where no field begins or close where none ends, in whole records; and the opening of each.

    A quote opens and closes in turn; one that closes and opens again at once is a doubled quote.
    """
    codes = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(codes == framing.quote)
    edge = np.zeros(256, bool)
    edge[[framing.delimiter, 10, 13]] = True
    again = np.diff(quotes) == 1  # quotes[i + 1] stands at once behind quotes[i]
    last = len(codes) - 1
    begins = (
        (quotes == 0)
        | edge[codes[np.maximum(quotes - 1, 0)]]
        | np.concatenate([[False], again])[: len(quotes)]
    )
    closes = (
        (quotes == last)
        | edge[codes[np.minimum(quotes + 1, last)]]
        | np.concatenate([again, [False]])[: len(quotes)]
    )
    fine = np.where(np.arange(len(quotes)) % 2 == 0, begins, closes)
    wrong = np.flatnonzero(~fine)
    return quotes[wrong], quotes[wrong - wrong % 2]


def _pieces(stream: Iterable[bytes], framing: Framing) -> Iterator[tuple[bytes, bool]]:
    """The chunks and whether each is the last; none but the last ends in a CR, whose LF may come."""
    held = b""
    for chunk in stream:
        data = held + chunk
        cut = len(data) - 1 if framing.cr and data.endswith(b"\r") else len(data)
        held = data[cut:]
        if cut:
            yield data[:cut], False
    yield held, True


def _split(block: Block, limit: int) -> Iterator[Block | Long]:
    """The block without its records over the limit, and these."""
    starts = np.concatenate([[0], block.ends[:-1]])
    first = 0
    for row in np.flatnonzero(block.ends - starts > limit).tolist():
        start, end = int(starts[row]), int(block.ends[row])
        if first < row:
            yield _piece(block, first, row)
        lines = int(block.lines[row + 1] - block.lines[row])
        yield Long(
            block.data[start : min(end, start + HEAD)],
            end - start,
            int(block.lines[row]),
            lines,
            block.offset + start,
        )
        first = row + 1
    if first == 0:
        yield block
    elif first < len(block.ends):
        yield _piece(block, first, len(block.ends))


def _piece(block: Block, first: int, stop: int) -> Block:
    start = int(block.ends[first - 1]) if first else 0
    end = int(block.ends[stop - 1])
    return Block(
        block.data[start:end],
        block.ends[first:stop] - start,
        block.lines[first : stop + 1],
        block.offset + start,
    )


def _unclosed(framing: Framing, record: bytes, line: int) -> InputError:
    """The error for the quote that opened and swallowed the rest: the first that is not closed well, else the last."""
    _, openings = strays(record, framing)
    quotes = np.flatnonzero(np.frombuffer(record, np.uint8) == framing.quote)
    opening = int(openings[0]) if len(openings) else int(quotes[-1]) if len(quotes) else 0
    _, breaks, _ = find(record[:opening], framing, odd=False)
    return InputError(
        f"{framing.path}:{line + len(breaks)}: a quote is opened here and never closed; close it, double it if it is "
        'part of the text, or set quote = "" if fields are not quoted'
    )
