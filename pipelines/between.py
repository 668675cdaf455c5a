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
    "by_places",
    "keys_of",
    "laid",
    "read_bucket",
    "read_laid",
    "read_rows",
    "write_batches",
]

BUFFER = (
    1 << 20
)  # bytes written at once: a batch of few rows is some dozen buffers, each a call to the system

PLACE = "_place"
"""Where the row of a key waits: number of the part, and of the row in its file, in the upper and lower 32 bits."""


def write_batches(work: str, name: str, tables: Sequence[pa.Table]) -> str:
    """A new file with one record batch for each table; its path. `name` is that of the task."""
    path = str(place(work, f"{name.replace('/', '-')}-{uuid.uuid4().hex}.arrow"))
    schema = tables[0].schema
    with (
        created(path) as raw,
        pa.BufferedOutputStream(raw, BUFFER) as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
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


def laid(table: pa.Table, number: np.ndarray) -> tuple[list[pa.Table], list[tuple[int, int]], np.ndarray]:
    """The rows of each bucket that has some, in their order; bucket and rows of each; the place of each row among all."""
    order = _order(number)
    rows = np.bincount(number, minlength=1)
    there = np.flatnonzero(rows) if len(number) else np.zeros(1, np.int64)
    counts = rows[there]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    tables = _sliced(table.take(pa.array(order)), counts)
    return tables, list(zip(there.tolist(), counts.tolist(), strict=True)), places


def keys_of(
    table: pa.Table, columns: tuple[str, ...], part: int, places: np.ndarray | None = None
) -> pa.Table:
    """These columns of all rows with their origin, and where the rows are in the file of this part (as here, or `places`)."""
    where = (np.arange(table.num_rows) if places is None else places) + (part << 32)
    return table.select([*columns, *ORIGIN.names[:2]]).append_column(PLACE, pa.array(where))


def by_part(places: np.ndarray, parts: int) -> list[pa.Table]:
    """Numbers of rows, apart for each part that they wait in."""
    rows = pa.table({"row": (places & 0xFFFFFFFF).astype(np.int32)})
    return _cut(rows, places >> 32, parts)


def by_places(gone: Sequence[str], part: int, rows: Sequence[int]) -> list[pa.Table]:
    """Numbers of rows of a part that are in the files `gone`, ascending, apart for its batches of so many `rows`."""
    lost = np.sort(_lost(gone, part))
    ends = np.searchsorted(lost, np.cumsum(rows))
    return _sliced(pa.table({"row": lost}), np.diff(ends, prepend=0))


def read_rows(
    path: str, columns: Sequence[str] | None = None, *, gone: Sequence[str] = (), part: int = 0
) -> pa.Table:
    """Some columns of the rows of a file, without those that are in batch `part` of the files `gone` (-1: in all batches)."""
    with opened(path) as file, pa.ipc.open_file(file, options=_options(path, columns)) as reader:
        table = reader.read_all()
    if columns is not None:
        table = table.select(list(columns))
    return _without(table, _lost(gone, part))


def read_laid(pieces: Sequence[Sequence[tuple[str, int, int, str | None]]]) -> pa.Table:
    """The rows of some buckets, one bucket after another, each in the order of origin.

    A piece of a bucket is a batch: the file, its number there, the number of its first row, and the file of those that are gone.
    """
    return pa.concat_tables([_in_origin_order(_read_pieces(bucket)) for bucket in pieces])


def _read_pieces(bucket: Sequence[tuple[str, int, int, str | None]]) -> pa.Table:
    batches, lost, rows = [], [np.zeros(0, np.int64)], 0
    for path, number, first, gone in bucket:
        batches.append(_batch(path, number))
        if gone is not None:
            lost.append(_lost([gone], number) + (rows - first))
        rows += len(batches[-1])
    return _without(pa.Table.from_batches(batches), np.concatenate(lost))


def _lost(gone: Sequence[str], part: int) -> np.ndarray:
    """Numbers of rows in batch `part` of these files, or in all of their batches."""
    none = np.zeros(0, np.int32)
    if part < 0:
        return np.concatenate([none, *(numpy_of(combined(read_rows(other)["row"])) for other in gone)])
    return np.concatenate([none, *(numpy_of(_batch(other, part).column(0)) for other in gone)])


def _without(table: pa.Table, lost: np.ndarray) -> pa.Table:
    if not len(lost):
        return table
    stays = np.ones(table.num_rows, bool)
    stays[lost] = False
    return table.combine_chunks().filter(pa.array(stays))  # half the time of small chunks one by one


def read_bucket(paths: Sequence[str], number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One batch of every file, in the order of origin; rows of one origin stay in the order in which they come."""
    batches = [_batch(path, number) for path in paths]
    if columns is not None:
        return pa.Table.from_batches([batch.select(list(columns)) for batch in batches])
    return _in_origin_order(pa.Table.from_batches(batches))


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
    return _sliced(table.take(pa.array(_order(number))), np.bincount(number, minlength=parts))


def _order(number: np.ndarray) -> np.ndarray:
    """Rows by number, those of one in their order: of 16 bits and less a radix sort."""
    return np.argsort(number.astype(np.min_scalar_type(int(number.max(initial=0)))), kind="stable")


def _sliced(table: pa.Table, rows: np.ndarray) -> list[pa.Table]:
    """Tables of so many rows each, one behind the other."""
    starts = np.cumsum(rows) - rows
    return [table.slice(start, count) for start, count in zip(starts.tolist(), rows.tolist(), strict=True)]


def _in_origin_order(table: pa.Table) -> pa.Table:
    """Rows of one origin stay in the order in which they come."""
    if _in_order(table):
        return table
    return table.take(pc.sort_indices(table, [(SOURCE, "ascending"), (LINE, "ascending")]))


def _in_order(table: pa.Table) -> bool:
    source, line = (table[name].combine_chunks().to_numpy() for name in (SOURCE, LINE))
    before, after = source[:-1], source[1:]
    return bool(((before < after) | ((before == after) & (line[:-1] <= line[1:]))).all())
