"""CSV: records by quote parity, fields and types as declared; a row that is not well-formed is set aside with its text.

    bytes -> records -> well-formed? -> columns of text (pyarrow.csv) -> declared types (intake.py)
                          |                |                              |
                          +----------------+------------------------------+--> quarantine: line, offset, rule, raw text

Where anything could be read in two ways, one is chosen for all files: a blank line is no row (in a file of one column it
is a row with an empty field), a quoted empty field is an empty field, blanks belong to the value, the last line may lack
its line end. Rules of whole rows: nul, encoding, quoting, field (too long), columns (number of fields).
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from pipelines.errors import LedgerImbalance
from pipelines.intake import Rejection
from pipelines.schema import Field
from pipelines.sources import stream
from pipelines.sources.head import cut_text, fields, framing, read_head
from pipelines.sources.inputs import InputFile, Offered, Part, whole
from pipelines.sources.records import Long, blocks, strays
from pipelines.sources.rows import Piece, long_row, some_records, together, utf8, without_nul
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["columns", "cut", "read"]


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file, cut at the ends of records; the header belongs to none.

    Raises: InputError if header, delimiter, encoding or number of fields are not as declared, or a quote is never closed.
    """
    head = read_head(source, file.path)
    part = whole(file, number)
    if head is None:
        return [dataclasses.replace(part, stop=0, names=tuple(source.names.values()))]
    part = dataclasses.replace(part, start=head.start, line=head.line, names=head.names)
    return cut_text(source, part, framing(source, file.path, len(head.names)))


def columns(source: Source, file: InputFile) -> Offered:
    """The names of the header; a text says no types."""
    head = read_head(dataclasses.replace(source, contract="quarantine", extra="ignore"), file.path)
    return {} if head is None else dict.fromkeys(head.names, Field())


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail", and for a damaged packed file.
    """
    how = framing(source, part.path, len(part.names))
    encoding = stream.chunk_encoding(source.encoding, source.quote)
    text = stream.chunks(part.path, part.start, part.stop, source.encoding, source.quote)
    made = []
    for one in blocks(text, how, line=part.line, offset=part.start):
        if isinstance(one, Long):
            made.append(long_row(source, part, how, one, encoding))
        else:
            made.append(_rows(Piece(source, part, one, encoding)))
    if not made and part.stop in {part.start, part.size, 0, stream.END}:
        made.append(Rows(source.schema.with_origin().empty_table(), notes={"files without a row": 1}))
    return together(source.schema, made)


def _rows(piece: Piece) -> Rows:
    """The rows of some records."""
    block, columns = piece.block, piece.part.names
    text, ends, why = utf8(piece)
    text, ends, notes = without_nul(piece.source, text, ends, why)
    _check(piece, text, ends, why)
    good = np.ones(len(ends), bool)
    good[list(why)] = False
    if len(columns) > 1 and text:
        starts = np.concatenate([[0], ends[:-1]])
        first = np.frombuffer(text, np.uint8)[np.minimum(starts, len(text) - 1)]
        good &= (first != 10) & (first != 13)  # a blank line
    rows = np.flatnonzero(good)
    # pyarrow finds null tokens while it parses, where they are the same for all columns
    same = all(field.null is None and not field.trim for field in piece.source.columns.values())
    tokens = piece.source.tokens
    strings, others = _parse(piece, _some(text, ends, good), len(rows), tokens if same else ())
    for number, found in others:
        what = "1 field" if found == 1 else f"{found} fields"
        why[int(rows[number - 1])] = Rejection("columns", None, f"{what}, expected {len(columns)}")
    rows = np.delete(rows, [number - 1 for number, _ in others])
    if strings.num_rows != len(rows):
        raise LedgerImbalance(
            f"{piece.part.path}:{block.lines[0]}: {len(rows)} records made {strings.num_rows} rows"
        )
    made = piece.cast(strings, rows, why, () if same else tokens)
    return dataclasses.replace(made, notes={**made.notes, **notes}) if notes else made


def _check(piece: Piece, text: bytes, ends: np.ndarray, why: dict[int, Rejection]) -> None:
    """Add the records that are not well-formed to `why`."""
    how, limit = framing(piece.source, piece.part.path, len(piece.part.names)), piece.source.max_field_bytes
    starts = np.concatenate([[0], ends[:-1]])
    if how.quote >= 0 and how.quote in text:
        for at, opening in zip(*(one.tolist() for one in strays(text, how)), strict=True):
            row = int(np.searchsorted(ends, at, "right"))
            lines = int(piece.block.lines[row + 1] - piece.block.lines[row])
            where = "inside a field that is not quoted" if at == opening else "followed by text"
            over = f"; the row runs over {lines} lines" if lines > 1 else ""
            why.setdefault(
                row, Rejection("quoting", None, f"quote at byte {at - starts[row]} of the row, {where}{over}")
            )
    for row in np.flatnonzero(ends - starts > limit).tolist():
        sizes = [len(field) for field in fields(text[starts[row] : ends[row]], how)]
        if max(sizes) > limit:
            message = f"field {sizes.index(max(sizes)) + 1} has {max(sizes):,} bytes, more than max_field_bytes = {limit}"
            why.setdefault(row, Rejection("field", None, message))


def _some(text: bytes, ends: np.ndarray, good: np.ndarray) -> pa.Buffer:
    """The good records, one after the other."""
    if good.all():
        return pa.py_buffer(text)
    some = some_records(text, ends, good)
    if b"\r" in text:  # a CR and the blank line that is behind it now would be one line end
        some = pc.if_else(pc.equal(some, b"\n"), b"\r\n", some)
    stop = int(np.frombuffer(some.buffers()[1], np.int32)[len(some)]) if len(some) else 0
    return some.buffers()[2].slice(0, stop) if stop else pa.py_buffer(b"")


def _parse(
    piece: Piece, text: pa.Buffer, rows: int, null: tuple[str, ...]
) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Declared columns as text; and number (from 1) and fields of the rows with another number of fields."""
    source, names = piece.source, piece.part.names
    at = {column: str(position) for position, column in enumerate(source.columns)}
    if source.header:  # an optional column that is not there gets a name that no column has
        at = {
            column: str(names.index(name)) if name in names else f"-{column}"
            for column, name in source.names.items()
        }
    if not rows:
        return pa.schema([(column, pa.string()) for column in at]).empty_table(), []
    others: list[tuple[int, int]] = []

    def other(row: arrow_csv.InvalidRow) -> str:
        others.append((row.number, row.actual_columns))
        return "skip"

    wanted = list(at.values())
    table = arrow_csv.read_csv(
        pa.BufferReader(text),
        arrow_csv.ReadOptions(
            use_threads=False,
            block_size=text.size + 1,
            column_names=[str(position) for position in range(len(names))],
        ),
        arrow_csv.ParseOptions(
            delimiter=source.separator,
            quote_char=source.quote or False,
            newlines_in_values=bool(source.quote),
            ignore_empty_lines=False,
            invalid_row_handler=other,
        ),
        arrow_csv.ConvertOptions(
            check_utf8=False,  # it is: see _utf8
            column_types=dict.fromkeys(wanted, pa.string()),
            include_columns=wanted,
            include_missing_columns=True,
            null_values=list(null),
            strings_can_be_null=bool(null),
        ),
    )
    return table.rename_columns(list(at)), others
