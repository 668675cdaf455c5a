"""CSV: records by quote parity, fields and types as declared; a row that is not well-formed is set aside with its text.

    bytes -> records -> well-formed? -> columns of text (pyarrow.csv) -> declared types (cast.py)
                          |                |                              |
                          +----------------+------------------------------+--> quarantine: line, offset, rule, raw text

Where anything could be read in two ways, one is chosen for all files: a blank line is no row (in a file of one column it
is a row with an empty field), a quoted empty field is an empty field, blanks belong to the value, the last line may lack
its line end. Rules of whole rows: nul, encoding, quoting, field (too long), columns (number of fields).
"""  # noqa: A005 - it is never imported as plain `csv`

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipelines.cast import Rejection, cast, quarantine
from pipelines.errors import LedgerImbalance
from pipelines.sources import stream
from pipelines.sources.files import InputFile, Part, whole
from pipelines.sources.head import fields, framing, read_head
from pipelines.sources.records import HEAD, Block, Framing, Long, blocks, cut_records, strays
from pipelines.sources.source import Source
from pipelines.stage import LINE, OFFSET, ORIGIN, REJECTS, SOURCE, Rows

__all__ = ["cut", "read"]


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file, cut at the ends of records; the header belongs to none.

    Raises: InputError if header, delimiter, encoding or number of fields are not as declared, or a quote is never closed.
    """
    head = read_head(source, file.path, file.size)
    part = whole(file, number)
    if head is None:
        return [dataclasses.replace(part, stop=0, names=tuple(source.names.values()))]
    part = dataclasses.replace(part, start=head.start, line=head.line, names=head.names)
    if stream.is_one_stream(file.path, source.encoding, source.quote):
        return [part]
    text = stream.chunks(file.path, head.start, file.size, source.encoding, source.quote)
    return cut_records(text, framing(source, file.path, len(head.names)), part, source.part_bytes)


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail", and for a damaged packed file.
    """
    reader = _Reader(source, part, framing(source, part.path, len(part.names)))
    made = [reader.long(one) if isinstance(one, Long) else reader.block(one) for one in _blocks(source, part, reader.how)]
    schema = source.schema.with_origin()
    rejected = [rows.rejected for rows in made if rows.rejected is not None]
    notes: dict[str, int] = {}
    for rows in made:
        for what, count in rows.notes.items():
            notes[what] = notes.get(what, 0) + count
    return Rows(
        pa.concat_tables([schema.empty_table(), *(rows.kept for rows in made)]),
        pa.concat_tables(rejected) if rejected else None,
        notes=notes,
    )
