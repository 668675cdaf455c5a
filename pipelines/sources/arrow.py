"""Arrow IPC, as a file (Feather V2) or a stream: rows by ranges of record batches; columns as in Parquet.

A part is a range of rows, `[start, stop)`. A file is read at its batches; a stream, which has no table of contents,
from its beginning, past the batches of other parts.
"""

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from pipelines.errors import InputError
from pipelines.sources import stream
from pipelines.sources.conversion import check_columns, converted_rows, field_of
from pipelines.sources.inputs import InputFile, Offered, Part, row_ranges, whole
from pipelines.sources.rows import together
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["columns", "cut", "read"]

_BATCH = 1 << 16  # rows converted at once
_MAGIC = b"ARROW1"
_ONE_CORE = pa.ipc.IpcReadOptions(use_threads=False)


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file: ranges of rows of about `part_bytes` in memory.

    Raises: InputError if the file is damaged or no Arrow IPC, or its columns are not as declared.
    """
    schema, sizes = _contents(file)
    check_columns(source, file.path, schema)
    return row_ranges(whole(file, number), sizes, source.part_bytes)


def columns(source: Source, file: InputFile) -> Offered:
    """The columns of the schema at the beginning."""
    del source
    with _batches(file.path, file.size) as (schema, _):
        return {one.name: field_of(one) for one in schema}


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a damaged batch, and for a value that does not fit a column with on_error = "fail".
    """
    return together(
        source.schema,
        [converted_rows(source, part, row, pa.Table.from_batches([batch])) for row, batch in _pieces(part)],
    )


def _contents(file: InputFile) -> tuple[pa.Schema, list[tuple[int, int]]]:
    """The columns; rows and bytes of each batch."""
    with _batches(file.path, file.size) as (schema, batches):
        str(
            schema.remove_metadata()
        )  # names that are no text are an error here, not where they are looked at
        return schema, [(batch.num_rows, batch.nbytes) for batch in batches]


def _pieces(part: Part) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a part, with the number of the first in the file."""
    row = 0
    with _batches(part.path, part.size) as (_, batches):
        for batch in batches:
            begin, end = max(part.start - row, 0), min(part.stop - row, batch.num_rows)
            for at in range(begin, end, _BATCH):
                piece = batch.slice(at, min(_BATCH, end - at))
                piece.validate(full=True)  # offsets of a damaged file would be followed anywhere
                yield row + at, piece
            row += batch.num_rows
            if row >= part.stop:
                return


@contextlib.contextmanager
def _batches(path: str, size: int) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The columns and the batches of either form."""
    if not size:
        raise InputError(f"{path}: empty file, expected Arrow IPC; check path and kind")
    with stream.opened(path) as file, stream.damage(path, "Arrow IPC", size):
        head = file.read(len(_MAGIC))
        file.seek(0)
        if head == _MAGIC:
            reader = pa.ipc.open_file(file, options=_ONE_CORE)
            yield reader.schema, (reader.get_batch(at) for at in range(reader.num_record_batches))
        else:
            stream_reader = pa.ipc.open_stream(file, options=_ONE_CORE)
            yield stream_reader.schema, iter(stream_reader)
