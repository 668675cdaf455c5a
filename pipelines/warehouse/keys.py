"""Keys of rows: which columns can be one, and which row of one table has the key of a row of another."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch
from pipelines.names import did_you_mean

__all__ = ["check", "first_null", "near", "positions", "repeated", "sorted_by"]


def check(where: str, schema: pa.Schema, by: Sequence[str], *, equal: bool = True) -> None:
    """Nothing, if these columns can be a key; without `equal`, if rows can be sorted by them.

    Raises: SchemaMismatch for a column that is not there, a float (no two are reliably equal), or no column at all.
    """
    if not by:
        raise SchemaMismatch(f"{where}: no key columns, expected some of {schema.names}; name them")
    for name in by:
        if name not in schema.names:
            raise SchemaMismatch(
                f"{where}: key column {name!r} is not in the table{did_you_mean(name, schema.names)}"
            )
        if equal and pa.types.is_floating(kind := schema.field(name).type):
            raise SchemaMismatch(
                f"{where}: key column {name!r} is {kind}, expected whole numbers, text, dates or times; choose another key"
            )


def first_null(rows: pa.Table, by: Sequence[str]) -> tuple[str, int] | None:
    """The first column of a key that has a null, and its row; a null is equal to nothing."""
    for name in by:
        if rows[name].null_count:
            return name, pc.index(pc.is_null(rows[name]), pa.scalar(value=True)).as_py()
    return None


def sorted_by(rows: pa.Table, by: Sequence[str]) -> pa.Table:
    """The rows in the order of their keys, equal ones in the order that they had."""
    order = pc.sort_indices(rows, [(name, "ascending") for name in by])
    if np.array_equal(order.to_numpy(), np.arange(len(order))):
        return rows  # no copy
    return rows.take(order)


def near(rows: pa.Table, name: str, others: pa.Table) -> tuple[int, pa.Table]:
    """The rows, of some sorted by column `name`, that lie between the least and the greatest value of `others`; the first's place."""
    bounds = pc.min_max(others[name])
    if not bounds["min"].is_valid:
        return 0, rows.slice(0, 0)
    start = pc.sum(pc.less(rows[name], bounds["min"]), min_count=0).as_py()
    end = pc.sum(pc.less_equal(rows[name], bounds["max"]), min_count=0).as_py()
    return start, rows.slice(start, end - start)


def repeated(rows: pa.Table, by: Sequence[str]) -> int | None:
    """Place of the first row, of rows sorted by key, whose key is that of the row before."""
    if rows.num_rows < 2:
        return None
    same = np.ones(rows.num_rows - 1, bool)
    for name in by:
        column = rows[name].combine_chunks()
        equal = pc.fill_null(pc.equal(column[1:], column[:-1]), fill_value=False)
        same &= equal.to_numpy(zero_copy_only=False)
    places = np.flatnonzero(same)
    return int(places[0]) + 1 if len(places) else None


def positions(needles: pa.Table, haystack: pa.Table, by: Sequence[str]) -> np.ndarray:
    """For every row of `needles` the place of its key in `haystack`, whose keys are distinct; -1: it is not there.

    Shapes: (rows of needles,), int64.
    """
    first, *others = by
    if not others:
        return _index(needles[first], haystack[first])
    known, wanted = _codes(needles[first], haystack[first])
    for name in others:
        more_known, more_wanted = _codes(needles[name], haystack[name])
        width = int(more_known.max(initial=0)) + 1
        pairs = np.where((wanted < 0) | (more_wanted < 0), -1, wanted * width + more_wanted)
        known, wanted = _codes(pa.array(pairs), pa.array(known * width + more_known))
    return _index(pa.array(wanted), pa.array(known))


def _codes(
    needles: pa.ChunkedArray | pa.Array, haystack: pa.ChunkedArray | pa.Array
) -> tuple[np.ndarray, np.ndarray]:
    """Both as numbers of the distinct values of `haystack`: small, so that a pair of them fits in 64 bits."""
    distinct = pc.unique(haystack)
    return _index(haystack, distinct), _index(needles, distinct)


def _index(needles: pa.ChunkedArray | pa.Array, haystack: pa.ChunkedArray | pa.Array) -> np.ndarray:
    values = haystack.combine_chunks() if isinstance(haystack, pa.ChunkedArray) else haystack
    found = pc.index_in(needles, value_set=values, skip_nulls=True)
    return pc.fill_null(found, -1).cast(pa.int64()).to_numpy()
