"""Partners of rows by key: an index of the other side, and what a join makes of the rows that have met it.

Keys become integers: each key column is coded by its place among the distinct values of the other side, the codes of
one row form one number, and the rows of the other side lie sorted by it. A missing value in a key matches nothing.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.fields import combined, kind_of, numpy_of
from pipelines.stage import Beside
from pipelines.storage import row_bytes

__all__ = [
    "Index",
    "first_twice",
    "index_of",
    "partners_taken",
    "refuse_bucket",
    "refuse_fan_out",
    "shown_keys",
    "spread",
]

MOST_CODES = 2**62
TASK_BYTES = (
    1 << 30
)  # that a task may hold of the other side, or make: a worker of 2 GiB still has room for it
_SPARSE = 16  # places in a table of keys for each key that is there


@dataclass(frozen=True)
class Index:
    """The rows of the other side that have a key, in the order of their codes, those of one code in their own order."""

    values: tuple[pa.Array, ...]  # distinct values of each key column
    dense: tuple[
        np.ndarray | None, ...
    ]  # codes up to this column that occur, where they had to be made smaller
    starts: np.ndarray | None  # first row of each code, if codes are few
    direct: "tuple[int, np.ndarray] | None"  # of one key of integers close together: the lowest, and the code of each
    codes: np.ndarray  # of the rows, ascending
    order: np.ndarray  # place of each row in the table

    def partners(self, keys: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
        """First partner of each row, as a place in `order`, and how many there are. Shapes: (rows,) each, int64."""
        codes, known = self._coded(keys) if self.direct is None else self._looked_up(keys[0], *self.direct)
        if self.starts is not None:
            first, end = self.starts[codes], self.starts[codes + 1]
        else:
            first = np.searchsorted(self.codes, codes, "left")
            end = np.searchsorted(self.codes, codes, "right")
        return first, np.where(known, end - first, 0)

    @staticmethod
    def _looked_up(key: pa.ChunkedArray, lowest: int, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes by place in a table of all integers from the lowest key to the highest: 15 times as fast as by hash."""
        values = combined(key)
        known = None if not values.null_count else numpy_of(pc.is_valid(values))
        place = numpy_of(values if known is None else pc.fill_null(values, _zero(values.type)))
        place = place.astype(np.int64) - lowest
        inside = (place >= 0) & (place < len(codes))
        found = codes[np.where(inside, place, 0)]
        met = inside & (found >= 0) if known is None else inside & (found >= 0) & known
        return np.where(met, found, 0), met

    def _coded(self, keys: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
        total = np.zeros(len(keys[0]), np.int64)
        known = np.ones(len(keys[0]), bool)
        for column, distinct, dense in zip(keys, self.values, self.dense, strict=True):
            place = pc.index_in(_key(column), value_set=distinct, skip_nulls=True)
            if place.null_count:
                known &= numpy_of(place.is_valid())
                place = pc.fill_null(place, 0)
            total = total * len(distinct) + numpy_of(place)
            if dense is not None:
                found = np.minimum(np.searchsorted(dense, total), max(len(dense) - 1, 0))
                known &= dense[found] == total if len(dense) else False
                total = found
        return np.where(known, total, 0) if self.starts is not None else total, known


def index_of(keys: Sequence[pa.ChunkedArray]) -> Index:
    """The index of the rows with these keys."""
    valid = functools.reduce(np.logical_and, [numpy_of(pc.is_valid(combined(column))) for column in keys])
    rows = np.flatnonzero(valid)
    total, size = np.zeros(len(rows), np.int64), 1
    values, denses = [], []
    for column in keys:
        encoded = _key(column).take(pa.array(rows)).dictionary_encode()
        distinct = encoded.dictionary
        total = total * len(distinct) + numpy_of(encoded.indices)
        size *= len(distinct)
        dense = None
        if size > MOST_CODES // max(len(rows), 1):  # the next column could leave int64
            dense, total = np.unique(total, return_inverse=True)
            size = len(dense)
        values.append(distinct)
        denses.append(dense)
    order = np.argsort(total, kind="stable")
    codes = total[order]
    starts = np.searchsorted(codes, np.arange(size + 1)) if size <= 4 * len(rows) + 1024 else None
    if starts is not None and size == 0:
        starts = np.zeros(2, np.int64)
    direct = _direct(values[0]) if len(values) == 1 and starts is not None else None
    return Index(tuple(values), tuple(denses), starts, direct, codes, rows[order])


def _direct(distinct: pa.Array) -> tuple[int, np.ndarray] | None:
    """The code of every integer between the lowest and the highest value, -1 for none; None if they are far apart."""
    if not len(distinct) or not (
        pa.types.is_signed_integer(distinct.type) or pa.types.is_date32(distinct.type)
    ):
        return None
    values = numpy_of(distinct).astype(np.int64)
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest > _SPARSE * len(values) + 1024:
        return None
    codes = np.full(highest - lowest + 1, -1)
    codes[values - lowest] = np.arange(len(values))
    return lowest, codes


def _zero(kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(0, pa.int32()).cast(kind) if pa.types.is_date32(kind) else pa.scalar(0, kind)


def _key(column: pa.ChunkedArray) -> pa.Array:
    """Key values as they compare: -0.0 is 0.0."""
    values = combined(column)
    return pc.add(values, pa.scalar(0.0, values.type)) if kind_of(values.type) == "float" else values


def first_twice(codes: np.ndarray) -> tuple[int, int]:
    """Surplus rows of equal codes (ascending), and the place of the first of them; -1: there is none."""
    same = np.flatnonzero(codes[1:] == codes[:-1]) + 1
    return len(same), int(same[0]) if len(same) else -1


def spread(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Rows to repeat (None: each once) and the partner of each, -1 where there is none."""
    if count.size == 0 or count.max() <= 1:
        return None, np.where(count > 0, first, -1)
    times = np.maximum(count, 1)
    pick = np.repeat(np.arange(len(count)), times)
    within = np.arange(len(pick)) - np.repeat(np.cumsum(times) - times, times)
    return pick, np.where(count[pick] > 0, first[pick] + within, -1)


def partners_taken(index: Index, looks: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Which rows of the other side, by place in `order`, some row has met. Shapes: (rows of the index,), bool."""
    marks = np.zeros(len(index.order) + 1, np.int64)
    for first, count in looks:
        met = count > 0
        marks += np.bincount(first[met], minlength=len(marks))
        marks -= np.bincount(first[met] + count[met], minlength=len(marks))
    return np.cumsum(marks)[:-1] > 0


def shown_keys(table: pa.Table, keys: Sequence[str], row: int) -> dict[str, Any]:
    """The key of one row, for a message; values of private columns are not told."""
    private = {key for key in keys if b"privacy" in (table.schema.field(key).metadata or {})}
    return {key: "a private value" if key in private else table[key][row].as_py() for key in keys}


def refuse_bucket(beside: Beside, buckets: Sequence[Sequence[int]]) -> None:
    """`buckets`: of each file how many rows of the other table are in each; one with a hot key may be too large for a task.

    Raises: InputError.
    """
    name, rows = beside.ref.name, [sum(counts) for counts in zip(*buckets, strict=True)]
    most = max(rows, default=0)
    size = most * row_bytes(pa.schema([beside.ref.schema.field(one) for one in beside.columns]))
    if size > TASK_BYTES:
        raise InputError(
            f"join with {name!r}: {most:,} of its {sum(rows):,} rows would meet in one task, about {size / 2**20:,.0f} MiB, a task may "
            f"hold {TASK_BYTES >> 20:,}; so many of them have one key {list(beside.by)}, or few: begin with {name!r} and join this "
            f"table to it (rows of one key of the first table go to several tasks), deduplicate or summarise {name!r} by the key, "
            "join by further columns, or take fewer columns"
        )


def refuse_fan_out(
    name: str, table: pa.Table, keys: Sequence[str], found: tuple[np.ndarray, np.ndarray], schema: pa.Schema
) -> None:
    """`found`, first partner and number of partners of each row, become rows of `schema`: they must fit into a task.

    Raises: InputError with the key that most of them have.
    """
    first, count = found
    made = int(count.sum())
    size = made * row_bytes(schema)
    if size <= TASK_BYTES or made <= 2 * table.num_rows:
        return
    rows = np.flatnonzero(count)
    _, place, key = np.unique(first[rows], return_index=True, return_inverse=True)
    hot = int(np.bincount(key, weights=count[rows]).argmax())
    row = int(rows[place[hot]])
    raise InputError(
        f"join with {name!r}: {table.num_rows:,} rows of one task have {made:,} partners, about {size / 2**20:,.0f} MiB, a task may "
        f"make {TASK_BYTES >> 20:,}; the key {shown_keys(table, keys, row)} is there {int((key == hot).sum()):,} times here and "
        f"{int(count[row]):,} times in {name!r}: deduplicate or summarise one of them, or join by further columns"
    )
