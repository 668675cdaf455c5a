"""Keys that should be in another table: which rows name one that is not there."""

import functools

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import combined
from pipelines.sketch import group_labels
from pipelines.storage import TableRef, read_table

__all__ = ["strangers"]


def strangers(
    table: pa.Table, keys: tuple[str, ...], other: TableRef | None, referenced: tuple[str, ...]
) -> pa.Array:
    """Where a whole key is not among those of the other table; a key with a missing part is none."""
    if other is None or not table.num_rows:
        return pa.repeat(pa.scalar(False), table.num_rows)
    values = _keys(table, keys)
    unknown = pc.invert(pc.is_in(values, value_set=_known(other, referenced)))
    return pc.and_(pc.is_valid(values), unknown)


def _keys(table: pa.Table, names: tuple[str, ...]) -> pa.Array:
    """One value for each row, equal for equal keys; null where a part of the key is missing."""
    return combined(table[names[0]]) if len(names) == 1 else combined(group_labels(table, names))


@functools.lru_cache(maxsize=8)
def _known(other: TableRef, names: tuple[str, ...]) -> pa.Array:
    """The keys of another table, read once per worker."""
    return pc.unique(_keys(read_table(other, columns=tuple(dict.fromkeys(names))), names)).drop_null()
