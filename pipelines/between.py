"""Files between passes: Arrow IPC without compression, one record batch for each bucket; which rows go to which bucket.

They are read and not mapped: mapped pages count as the worker's memory, and Dask would pause it for them.
"""

import uuid
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.failpoints import failpoint
from pipelines.fields import combined, numpy_of
from pipelines.hashing import row_hash
from pipelines.places import created, opened, place
from pipelines.stage import LINE, ORIGIN, SOURCE

__all__ = [
    "PLACE",
    "by_bucket",
    "by_part",
    "keys_of",
    "read_bucket",
    "read_rows",
    "write_batches",
]

PLACE = "_place"
"""Where the row of a key waits: number of the part, and of the row in its file, in the upper and lower 32 bits."""


def write_batches(work: str, name: str, tables: Sequence[pa.Table]) -> str:
    """A new file with one record batch for each table; its path. `name` is that of the task."""
    path = str(place(work, f"{name.replace('/', '-')}-{uuid.uuid4().hex}.arrow"))
    schema = tables[0].schema
    with created(path) as file, pa.ipc.new_file(file, schema) as writer:
        for table in tables:
            batches = table.combine_chunks().to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema))
            if table is tables[0]:
                failpoint("kept.half_written", name)
    return path


def by_bucket(table: pa.Table, by: tuple[str, ...], buckets: int, *, alone: bool) -> list[pa.Table]:
    """The rows of each bucket; with `alone` a row with a missing value in `by` may go to any."""
    hashes = row_hash(table, by)
    if alone and any(table[name].null_count for name in by):  # else they would all meet in one bucket
        missing = np.logical_or.reduce([~numpy_of(pc.is_valid(combined(table[name]))) for name in by])
        hashes = np.where(missing, row_hash(table, (SOURCE, LINE)), hashes)
    return _cut(table, (hashes % np.uint64(buckets)).astype(np.int64), buckets)


def keys_of(table: pa.Table, columns: tuple[str, ...], part: int) -> pa.Table:
    """These columns of all rows with their origin, and where the rows are: `table` is the file of this part."""
    where = np.arange(table.num_rows) + (part << 32)
    return table.select([*columns, *ORIGIN.names[:2]]).append_column(PLACE, pa.array(where))


def by_part(places: np.ndarray, parts: int) -> list[pa.Table]:
    """Numbers of rows, apart for each part that they wait in."""
    rows = pa.table({"row": (places & 0xFFFFFFFF).astype(np.int32)})
    return _cut(rows, places >> 32, parts)


def read_rows(
    path: str, columns: Sequence[str] | None = None, *, gone: Sequence[str] = (), part: int = 0
) -> pa.Table:
    """Some columns of the rows of a file, without those that are in batch `part` of the files `gone`."""
    with opened(path) as file, pa.ipc.open_file(file, options=_options(path, columns)) as reader:
        table = reader.read_all()
    if columns is not None:
        table = table.select(list(columns))
    lost = [numpy_of(_batch(other, part).column(0)) for other in gone]
    if not any(map(len, lost)):
        return table
    stays = np.ones(table.num_rows, bool)
    stays[np.concatenate(lost)] = False
    return table.filter(pa.array(stays))


def read_bucket(paths: Sequence[str], number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One batch of every file, in the order of origin; rows of one origin stay in the order in which they come."""
    batches = [_batch(path, number) for path in paths]
    if columns is not None:
        return pa.Table.from_batches([batch.select(list(columns)) for batch in batches])
    table = pa.Table.from_batches(batches)
    if _in_order(table):
        return table
    return table.take(pc.sort_indices(table, [(SOURCE, "ascending"), (LINE, "ascending")]))


def _batch(path: str, number: int) -> pa.RecordBatch:
    with opened(path) as file, pa.ipc.open_file(file) as reader:
        return reader.get_batch(number)


def _options(path: str, columns: Sequence[str] | None) -> pa.ipc.IpcReadOptions:
    if columns is None:
        return pa.ipc.IpcReadOptions(use_threads=False)
    with opened(path) as file, pa.ipc.open_file(file) as reader:
        wanted = [reader.schema.get_field_index(name) for name in columns]
    return pa.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)


def _cut(table: pa.Table, number: np.ndarray, parts: int) -> list[pa.Table]:
    """The rows of each number, in their order."""
    order = np.argsort(
        number.astype(np.min_scalar_type(parts)), kind="stable"
    )  # of 16 bits and less a radix sort
    ends = np.cumsum(np.bincount(number, minlength=parts))
    table = table.take(pa.array(order))
    starts = np.concatenate([[0], ends[:-1]])
    return [
        table.slice(start, end - start) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]


def _in_order(table: pa.Table) -> bool:
    source, line = (table[name].combine_chunks().to_numpy() for name in (SOURCE, LINE))
    before, after = source[:-1], source[1:]
    return bool(((before < after) | ((before == after) & (line[:-1] <= line[1:]))).all())
