"""Parameters whose gradient is 0 but for some rows: the tables of embeddings, of which a batch reads few.

    g = | dW             | db         | 0 0 dE 0 dE 0 0 0 dE      | loss sum | weight sum |        rows[E] = [2, 4, 8]

Such a gradient has its place in the flat vector as any other, and beside it stands which rows a batch has touched: different
numbers, rising. All others are 0. So a step costs what the rows cost, and whoever does not look at the rows gets the same
numbers from the whole vector. A parameter that is not named has a gradient that may be anything anywhere.

A part [lo, hi) of the vector cuts such a parameter between rows: see `row_starts`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dlflow.nn.params import Array, Slot

__all__ = ["Rows", "chunks", "parts", "row_starts", "spans", "table", "union", "within"]

Rows: TypeAlias = Mapping[Slot, npt.NDArray[Any]]
"""By parameter: the rows with a gradient."""

CHUNK = 1 << 14  # floats: as the blocks of the optimizers


def table(flat: Array, slot: Slot) -> Array:
    """A parameter as rows; a view. Shapes: (V, all of the others)."""
    return flat[slot.start : slot.stop].reshape(slot.shape[0], -1)


def spans(rows: Rows, lo: int, hi: int) -> list[slice]:
    """[lo, hi) without the parameters of which the rows are known.

    >>> spans({Slot(0, "W", (3, 2), 4, 10): np.array([1])}, 0, 12)
    [slice(0, 4, None), slice(10, 12, None)]
    """
    known = sorted((slot.start, slot.stop) for slot in rows)
    edges = [lo, *(min(max(edge, lo), hi) for pair in known for edge in pair), hi]
    return [slice(start, stop) for start, stop in list(pairwise(edges))[::2] if start < stop]


def within(slot: Slot, rows: Array, lo: int, hi: int) -> Array:
    """Those of the rows that lie in [lo, hi).

    Raises: ValueError if this part of the vector ends within a row.
    """
    if lo <= slot.start and slot.stop <= hi:
        return rows
    width = (slot.stop - slot.start) // slot.shape[0]
    ends = [min(max(edge, slot.start), slot.stop) - slot.start for edge in (lo, hi)]
    if any(end % width for end in ends):
        raise ValueError(f"[{lo}, {hi}) cuts a row of {width} of {slot.name!r}, expected whole rows")
    first, last = np.searchsorted(rows, [end // width for end in ends])
    return rows[first:last]


def chunks(rows: Array, width: int) -> Iterator[Array]:
    """The rows, as many at a time as fit the cache."""
    step = max(1, CHUNK // width)
    return (rows[start : start + step] for start in range(0, len(rows), step))


def parts(g: Array, rows: Rows, lo: int, hi: int) -> Iterator[Array]:
    """The numbers of g in [lo, hi) that may not be 0, part by part; what is done to a part in place is done to g."""
    for at in spans(rows, lo, hi):
        yield g[at]
    for slot, touched in rows.items():
        matrix = table(g, slot)
        for some in chunks(within(slot, touched, lo, hi), matrix.shape[1]):
            made = matrix[some]
            yield made.reshape(-1)
            matrix[some] = made


def union(rows: Array, others: Array) -> Array:
    """The rows of both, different and rising."""
    if not len(rows) or not len(others):
        return others if len(others) else rows
    return np.union1d(rows, others)


def row_starts(slots: Sequence[Slot], wanted: Sequence[int]) -> list[int]:
    """The places where parts of the vector may begin, at or before the wanted ones: never within a row of these parameters.

    >>> row_starts([Slot(0, "W", (3, 2), 4, 10)], [3, 7, 11])
    [3, 6, 11]
    """
    made = []
    for place in wanted:
        for slot in slots:
            if slot.start < place < slot.stop:
                width = (slot.stop - slot.start) // slot.shape[0]
                place -= (place - slot.start) % width  # noqa: PLW2901
        made.append(place)
    return made
