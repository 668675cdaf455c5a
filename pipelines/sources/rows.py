"""From the records of a piece of text to Rows: origin of each row, raw text of those set aside, all in the order of the file."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.intake import Rejection, cast, quarantine
from pipelines.schema import Schema
from pipelines.sources.inputs import Part
from pipelines.sources.records import HEAD, Block, Framing, Long
from pipelines.sources.source import Source
from pipelines.stage import LINE, OFFSET, ORIGIN, SOURCE, Rows

__all__ = ["Piece", "is_text", "long_row", "origin", "shown", "together"]


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

    def raw(self, rows: np.ndarray) -> list[str]:
        """Text of some records."""
        return [
            shown(self.block.data[self.starts[row] : self.block.ends[row]], self.encoding)
            for row in rows.tolist()
        ]

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
