"""Text: a document a line, with a label before or behind it or without; or a document a file, its folder the label.

    text    the document, as it stands     label    "first" or "last" in the line: what is before the first or behind the
                                                    last `delimiter` (a tab); or the folder of the file
    file    of a document a file: its name

A line ends with LF or CR LF, and with nothing else; nothing is quoted. A blank line is no row. Rules of whole rows:
nul, encoding, field (too long), label (there is none).
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.intake import Rejection
from pipelines.sources import stream
from pipelines.sources.head import cut_text, framing, read_head
from pipelines.sources.inputs import InputFile, Part, whole
from pipelines.sources.members import contents, cut_members, rows_of
from pipelines.sources.records import Long, blocks
from pipelines.sources.rows import Piece, long_row, some_records, together, utf8, without_nul
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["cut", "read"]

_SUFFIXES = (".txt",)


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file, cut at line ends; or of a folder or zip, some documents each.

    Raises: InputError for an empty file that may not be so, a mark of another encoding, and a folder without a document.
    """
    if source.documents:
        return cut_members(source, file, number, _SUFFIXES)
    head = read_head(source, file.path)
    part = whole(file, number)
    if head is None:
        return [dataclasses.replace(part, stop=0)]
    part = dataclasses.replace(part, start=head.start)
    return cut_text(source, part, framing(source, file.path, 0))


def read(source: Source, part: Part) -> Rows:
    """The documents of a part.

    Raises: InputError for a value that does not fit a column with on_error = "fail", and for a damaged packed file.
    """
    if source.documents:
        return _documents(source, part)
    how = framing(source, part.path, 0)
    encoding = stream.chunk_encoding(source.encoding, "")
    made = []
    text = stream.chunks(part.path, part.start, part.stop, source.encoding, "")
    for one in blocks(text, how, line=part.line, offset=part.start):
        if isinstance(one, Long):
            made.append(long_row(source, part, how, one, encoding))
        else:
            made.append(_rows(Piece(source, part, one, encoding)))
    return together(source.schema, made)


def _rows(piece: Piece) -> Rows:
    """The rows of some lines."""
    source = piece.source
    data, ends, why = utf8(piece)
    data, ends, notes = without_nul(source, data, ends, why)
    good = np.ones(len(ends), bool)
    good[list(why)] = False
    rows = np.flatnonzero(good)
    lines = some_records(data, ends, good).cast(pa.string())
    lines = pc.replace_substring_regex(lines, "\r?\n\\z", "", max_replacements=1)
    filled = pc.not_equal(lines, "")
    rows = rows[np.from_dlpack(filled.cast(pa.uint8())).astype(bool)]
    lines = lines.filter(filled)
    labels = pa.nulls(len(lines), pa.string())
    if source.label is not None:
        lines, labels = _labelled(lines, source.separator, last=source.label == "last")
        lacking = np.from_dlpack(pc.is_null(lines).cast(pa.uint8())).astype(bool)
        for row in rows[lacking].tolist():
            why[row] = Rejection("label", None, f"no label: there is no {source.separator!r} in the line")
        lines, labels, rows = (
            lines.filter(pa.array(~lacking)),
            labels.filter(pa.array(~lacking)),
            rows[~lacking],
        )
    long = np.from_dlpack(
        pc.greater(pc.binary_length(lines), source.max_field_bytes).cast(pa.uint8())
    ).astype(bool)
    if long.any():
        for row, size in zip(
            rows[long].tolist(), pc.binary_length(lines.filter(pa.array(long))).to_pylist(), strict=True
        ):
            why[row] = Rejection(
                "field",
                None,
                f"text has {size:,} bytes, more than max_field_bytes = {source.max_field_bytes}",
            )
        lines, labels, rows = lines.filter(pa.array(~long)), labels.filter(pa.array(~long)), rows[~long]
    offered = {"text": lines, "label": labels}
    table = pa.table({column: offered[name] for column, name in source.names.items()})
    made = piece.cast(table, rows, why, source.tokens)
    return dataclasses.replace(made, notes={**made.notes, **notes})


def _labelled(lines: pa.StringArray, delimiter: str, *, last: bool) -> tuple[pa.Array, pa.Array]:
    """Texts and labels; both null where there is no delimiter."""
    pair = pc.split_pattern(lines, delimiter, max_splits=1, reverse=last)
    whole_ = pc.equal(pc.list_value_length(pair), 2)
    pair = pc.if_else(whole_, pair, pa.scalar([None, None], pair.type))
    first, second = pc.list_element(pair, 0), pc.list_element(pair, 1)
    return (first, second) if last else (second, first)


def _documents(source: Source, part: Part) -> Rows:
    texts: list[str | None] = []
    why: dict[int, Rejection] = {}
    for row, (_, content) in enumerate(contents(part, source.max_field_bytes)):
        found = content if isinstance(content, Rejection) else _decoded(content, source.encoding)
        if isinstance(found, Rejection):
            why[row] = found
        texts.append(None if isinstance(found, Rejection) else found)
    return rows_of(source, part, {"text": pa.array(texts, pa.string())}, why)


def _decoded(content: bytes, encoding: str) -> str | Rejection:
    [record], wrong = stream.decoded(content, [len(content)], encoding)
    if wrong:
        return Rejection("encoding", None, wrong[0].replace("of the row", "of the file"))
    return record.decode().removeprefix("\ufeff")
