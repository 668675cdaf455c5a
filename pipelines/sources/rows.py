"""From the records of a piece of text to Rows: origin of each row, raw text of those set aside, all in the order of the file."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.intake import Rejection, cast, quarantine
from pipelines.schema import Schema
from pipelines.sources import stream
from pipelines.sources.inputs import Part
from pipelines.sources.records import HEAD, Block, Framing, Long
from pipelines.sources.source import Source
from pipelines.stage import LINE, OFFSET, ORIGIN, SOURCE, Rows

__all__ = [
    "Piece",
    "is_text",
    "long_row",
    "origin",
    "shown",
    "some_records",
    "together",
    "typed_rows",
    "utf8",
    "without_nul",
]


@dataclass(frozen=True)
class Piece:
    """Records of one part, as they stand in the file."""

    source: Source
    part: Part
    block: Block
    encoding: str

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Where each record begins in the block."""
        return np.concatenate([[0], self.block.ends[:-1]])

    def raw(self, rows: np.ndarray) -> pa.StringArray:
        """Text of some records, in their order."""
        return _shown(self.block.data, self.starts[rows], self.block.ends[rows], self.encoding)

    def origin(self, rows: np.ndarray) -> pa.Table:
        """Origin columns of some records."""
        return origin(self.part.source, self.block.lines[rows], self.block.offset + self.starts[rows])

    def cast(
        self,
        strings: pa.Table,
        rows: np.ndarray,
        why: Mapping[int, Rejection],
        null: tuple[str, ...],
        wrong: Mapping[str, pa.StringArray] | None = None,
    ) -> Rows:
        """Rows of the declared types, and quarantine records of those that do not fit and of those in `why`.

        Shapes: strings (n, columns), rows (n,), the numbers of their records.
        """
        where = self.origin(rows)
        for name in ORIGIN.names:
            strings = strings.append_column(name, where[name])
        made = cast(
            strings,
            self.source.schema,
            null,
            lambda at: self.raw(rows[at]),
            decimal=self.source.decimal,
            wrong=wrong,
            where=self.part.path,
        )
        if not why:
            return made
        bad = np.array(sorted(why), np.int64)
        rejected = quarantine(self.origin(bad), [why[row] for row in bad.tolist()], self.raw(bad))
        if made.rejected is not None:
            rejected = pa.concat_tables([rejected, made.rejected]).sort_by(LINE)
        return Rows(made.kept, rejected, notes=made.notes)


def long_row(source: Source, part: Part, how: Framing, record: Long, encoding: str) -> Rows:
    """A record over the limit, set aside."""
    over = f" and {record.lines:,} lines" if record.lines > 1 else ""
    message = (
        f"row of {record.size:,} bytes{over}, at most {how.limit:,} bytes expected; is a quote or a line not closed, "
        f"or max_field_bytes = {source.max_field_bytes} too small?"
    )
    where = origin(part.source, np.array([record.line]), np.array([record.offset]))
    rejected = quarantine(where, [Rejection("field", None, message)], [shown(record.head, encoding)])
    return Rows(source.schema.with_origin().empty_table(), rejected)


def together(schema: Schema, pieces: list[Rows]) -> Rows:
    """The rows of all pieces, in their order."""
    rejected = [rows.rejected for rows in pieces if rows.rejected is not None]
    notes: dict[str, int] = {}
    for rows in pieces:
        for what, count in rows.notes.items():
            notes[what] = notes.get(what, 0) + count
    kept = pa.concat_tables([schema.with_origin().empty_table(), *(rows.kept for rows in pieces)])
    return Rows(kept, pa.concat_tables(rejected) if rejected else None, notes=notes)


def origin(source: int, lines: np.ndarray, offsets: np.ndarray) -> pa.Table:
    """Origin columns of rows.

    Shapes: lines, offsets (n,).
    """
    number = pa.repeat(pa.scalar(source, pa.int32()), len(lines))
    return pa.table(
        {SOURCE: number, LINE: pa.array(lines, pa.int64()), OFFSET: pa.array(offsets, pa.int64())},
        schema=ORIGIN,
    )


def utf8(piece: Piece) -> tuple[bytes, np.ndarray, dict[int, Rejection]]:
    """The block as UTF-8, where its records end, and the records that cannot be decoded."""
    block, encoding = piece.block, piece.encoding
    if block.data.isascii() or is_text(block.data, encoding):
        return block.data, block.ends, {}
    records, wrong = stream.decoded(block.data, block.ends.tolist(), encoding)
    why = {row: Rejection("encoding", None, message) for row, message in wrong.items()}
    return b"".join(records), np.cumsum([len(record) for record in records]), why


def without_nul(
    source: Source, text: bytes, ends: np.ndarray, why: dict[int, Rejection]
) -> tuple[bytes, np.ndarray, dict[str, int]]:
    """The text without NUL characters where they are to be removed, else their records are added to `why`; and notes."""
    if b"\0" not in text:
        return text, ends, {}
    at = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)
    if source.nul == "remove":
        return text.replace(b"\0", b""), ends - np.searchsorted(at, ends), {"NUL characters removed": len(at)}
    for row in np.unique(np.searchsorted(ends, at, "right")).tolist():
        why.setdefault(row, Rejection("nul", None, "the row holds a NUL character"))
    return text, ends, {}


def some_records(text: bytes, ends: np.ndarray, good: np.ndarray) -> pa.BinaryArray:
    """The good records of a text."""
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    every = pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(text)])
    return every if good.all() else every.filter(pa.array(good))


def is_text(data: bytes, encoding: str) -> bool:
    """Whether the chunk of a text can be read as it stands, as UTF-8."""
    if encoding != "utf-8":
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(record: bytes, encoding: str) -> str:
    """The text of a record as it stands in the file, without its line end; bytes that are no text are escaped."""
    return record[:HEAD].removesuffix(b"\n").removesuffix(b"\r").decode(encoding, "backslashreplace")


def _shown(data: bytes, starts: np.ndarray, stops: np.ndarray, encoding: str) -> pa.StringArray:
    """The same of many records that follow each other: in one go where all are text and short."""
    if data and encoding == "utf-8" and (stops - starts).max(initial=0) <= HEAD:
        codes = np.frombuffer(data, np.uint8)
        ends = stops
        for code in (10, 13):
            ends = ends - ((ends > starts) & (codes[ends - 1] == code))
        bounds = (
            np.stack([starts, ends], axis=1).ravel().astype(np.int32)
        )  # records, and what is between them
        pieces = pa.Array.from_buffers(
            pa.binary(), max(len(bounds) - 1, 0), [None, pa.py_buffer(bounds), pa.py_buffer(data)]
        )
        with contextlib.suppress(pa.ArrowInvalid):  # some are no text
            return pieces.take(pa.array(np.arange(0, len(bounds), 2))).cast(pa.string())
    records = zip(starts.tolist(), stops.tolist(), strict=True)
    return pa.array([shown(data[start:stop], encoding) for start, stop in records], pa.string())


def typed_rows(
    source: Source,
    part: Part,
    lines: np.ndarray,
    columns: Mapping[str, pa.Array],
    wrong: Mapping[str, pa.StringArray],
    why: Mapping[int, Rejection],
    raw: Callable[[np.ndarray], list[str]],
) -> Rows:
    """Rows of a source with types of its own, whose rows have an ordinal (`lines`) but no place in bytes.

    `columns`: text, or values of the declared type; `wrong`: what was found in cells of another type; `why`: rows that
    are set aside as they are, whatever their cells; `raw`: row numbers -> their text.
    """
    where = origin(part.source, lines, np.full(len(lines), -1))
    table = pa.table({**columns, **{name: where[name] for name in ORIGIN.names}})
    good = np.ones(len(lines), bool)
    good[list(why)] = False
    rows = np.flatnonzero(good)
    if why:
        table = table.take(pa.array(rows))
        wrong = {column: found.take(pa.array(rows)) for column, found in wrong.items()}
    made = cast(table, source.schema, source.tokens, lambda at: raw(rows[at]), wrong=wrong, where=part.path)
    if not why:
        return made
    bad = np.array(sorted(why), np.int64)
    rejected = quarantine(where.take(pa.array(bad)), [why[row] for row in bad.tolist()], raw(bad))
    if made.rejected is not None:
        rejected = pa.concat_tables([rejected, made.rejected]).sort_by(LINE)
    return Rows(made.kept, rejected, notes=made.notes)
