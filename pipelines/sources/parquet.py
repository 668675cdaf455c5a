"""Parquet: rows by ranges of row groups; a column of another kind than declared is told before a row is read.

A part is a range of rows, `[start, stop)`: small row groups together, a large one in pieces, so that a part's memory
does not follow from the writer's settings. The line of a row is its ordinal in the file. Page checksums are compared
where the file has them.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import InputError
from pipelines.sources import stream
from pipelines.sources.conversion import check_columns, converted_rows, field_of
from pipelines.sources.inputs import InputFile, Offered, Part, row_ranges, whole
from pipelines.sources.rows import together
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["columns", "cut", "read"]

_BATCH = 1 << 16  # rows decoded at once
_MAGIC = b"PAR1"


def cut(source: Source, file: InputFile, number: int) -> list[Part]:
    """Parts of one file: ranges of rows of about `part_bytes`, uncompressed.

    Raises: InputError if the file is damaged or no Parquet, or its columns are not as declared.
    """
    schema, groups = _footer(file)
    check_columns(source, file.path, schema)
    return row_ranges(whole(file, number), groups, source.part_bytes)


def columns(source: Source, file: InputFile) -> Offered:
    """The columns of the footer."""
    del source
    schema, _ = _footer(file)
    return {one.name: field_of(one) for one in schema}


def read(source: Source, part: Part) -> Rows:
    """The rows of a part.

    Raises: InputError for a damaged page, and for a value that does not fit a column with on_error = "fail".
    """
    if part.start == part.stop:
        return together(source.schema, [])
    return together(
        source.schema,
        [
            converted_rows(source, part, row, pa.Table.from_batches([batch]))
            for row, batch in _batches(part, sorted(set(source.names.values())))
        ],
    )


def _footer(file: InputFile) -> tuple[pa.Schema, list[tuple[int, int]]]:
    """The columns; rows and bytes of each row group."""
    with _opened(file.path, file.size) as opened:
        groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
        schema = opened.schema_arrow
        str(
            schema.remove_metadata()
        )  # names that are no text are an error here, not where they are looked at
        return schema, [(group.num_rows, group.total_byte_size) for group in groups]


def _batches(part: Part, names: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a part, with the number of the first in the file."""
    with _opened(part.path, part.size) as opened:
        ends = np.cumsum(
            [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
        )
        first = int(np.searchsorted(ends, part.start, "right"))
        last = int(np.searchsorted(ends, part.stop, "left"))
        row = int(ends[first - 1]) if first else 0
        for batch in opened.iter_batches(_BATCH, list(range(first, last + 1)), names, use_threads=False):
            begin, end = max(part.start - row, 0), min(part.stop - row, batch.num_rows)
            if begin < end:
                yield row + begin, batch.slice(begin, end - begin)
            row += batch.num_rows


@contextlib.contextmanager
def _opened(path: str, size: int) -> Iterator[pq.ParquetFile]:
    with stream.opened(path) as file:
        head = file.read(4)
        if head != _MAGIC or size < 12:
            what = "an encrypted Parquet file" if head == b"PARE" else f"no Parquet file ({size:,} bytes)"
            raise InputError(
                f"{path}: {what}: it begins with {head!r}, expected {_MAGIC!r}; check path and kind"
            )
        with stream.damage(path, "Parquet", size):
            yield pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
