"""Rows as files of a table: one file or more for each value of the partition columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import SchemaMismatch
from pipelines.warehouse.file import Receipt, write_file

__all__ = ["FILE_ROWS", "MOST_PARTITIONS", "check_partitions", "write_rows"]

FILE_ROWS = 1 << 20  # of one file; a rewrite holds one in memory
MOST_PARTITIONS = 10_000  # of a table: as many as a commit should have files


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
    numbered = rows.select(list(partition_by)).append_column("row", pa.array(np.arange(rows.num_rows)))
    groups = numbered.group_by(list(partition_by), use_threads=False).aggregate([("row", "list")])
    check_partitions(root, partition_by, groups.num_rows)
    groups = groups.sort_by([(name, "ascending") for name in partition_by])
    return [
        ({name: group[name] for name in partition_by}, rows.take(pa.array(sorted(group["row_list"]))))
        for group in groups.to_pylist()
    ]
