"""Rows as files of a table: one file or more for each value of the partition columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch
from pipelines.warehouse.file import Receipt, write_file

__all__ = ["FILE_ROWS", "MOST_PARTITIONS", "check_partitions", "write_rows"]

FILE_ROWS = 1 << 20  # of one file; a rewrite holds one in memory
MOST_PARTITIONS = 10_000  # of a table: as many as a commit should have files
_MOST_CODES = 1 << 22  # that a table of codes has a place for


def write_rows(
    root: str, rows: pa.Table, *, schema: pa.Schema, partition_by: Sequence[str], part: int = 0
) -> list[Receipt]:
    """Write rows (all columns of `schema`) as files of the table at `root`, in their order; nothing for no rows.

    Raises: as `write_file`; SchemaMismatch for more partitions than a table may have.
    """
    receipts = []
    for partition, chosen in _by_partition(root, rows.select(schema.names), partition_by):
        for start in range(0, chosen.num_rows, FILE_ROWS):
            piece = chosen.slice(start, FILE_ROWS)
            receipts.append(write_file(root, piece, partition=partition, schema=schema, part=part))
    return receipts


def check_partitions(uri: str, partition_by: Sequence[str], number: int) -> None:
    """Nothing, if a table may have so many partitions.

    Raises: SchemaMismatch with the number.
    """
    if number > MOST_PARTITIONS:
        raise SchemaMismatch(
            f"{uri}: {number:,} partitions by {list(partition_by)}, expected at most {MOST_PARTITIONS:,} (each is a file of "
            "its own); partition by a column with fewer values, such as the month of a time"
        )


def _by_partition(
    root: str, rows: pa.Table, partition_by: Sequence[str]
) -> list[tuple[Mapping[str, Any], pa.Table]]:
    if not rows.num_rows:
        return []
    if not partition_by:
        return [({}, rows)]
    number, first = _numbered([rows[name] for name in partition_by])
    check_partitions(root, partition_by, len(first))
    if len(first) == 1:
        return [({name: rows[name][0].as_py() for name in partition_by}, rows)]
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number))
    gathered = rows.take(pa.array(order))
    groups = rows.select(list(partition_by)).take(pa.array(first))
    groups = groups.append_column("_group", pa.array(np.arange(len(first))))
    found: list[tuple[Mapping[str, Any], pa.Table]] = []
    for group in groups.sort_by([(name, "ascending") for name in partition_by]).to_pylist():
        at = group["_group"]
        start = int(ends[at - 1]) if at else 0
        values = {name: group[name] for name in partition_by}
        found.append((values, gathered.slice(start, int(ends[at]) - start)))
    return found


def _numbered(columns: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
    """For every row the number of its values, from 0, in the smallest type; and one row of each number."""
    codes: np.ndarray = np.zeros(len(columns[0]), np.int64)
    most = 1
    for column in columns:
        encoded = pa.concat_arrays(column.chunks).dictionary_encode()
        size = len(encoded.dictionary) + 1
        if most * size > _MOST_CODES:
            known, codes = np.unique(codes, return_inverse=True)
            most = len(known)
        codes = codes * size + np.from_dlpack(pc.fill_null(encoded.indices, size - 1))
        most *= size
    if most > _MOST_CODES:  # of one column
        known, codes = np.unique(codes, return_inverse=True)
        most = len(known)
    row = np.full(most, -1)
    row[codes] = np.arange(len(codes))
    there = row >= 0
    number = (np.cumsum(there) - 1)[codes]
    return number.astype(np.min_scalar_type(int(there.sum()))), row[there]
