"""Rows of a group in the order of time: which row comes before which, and the last or next one that has a value.

What a step does along time it does after an Exchange by the group, so all rows of a group are here; a row that has no
group or no time stands beside every order and is left as it is. Equal times go by origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import combined, countable, numpy_of

__all__ = ["Timeline", "timeline"]


@dataclass(frozen=True)
class Timeline:
    """Places 0, 1, ... are the rows group by group, in each group by time. Shapes: all (places,), int64."""

    rows: np.ndarray  # the row at each place
    first: np.ndarray  # the place where its group begins
    last: np.ndarray  # the place where its group ends

    def before(self, valid: np.ndarray) -> np.ndarray:
        """The nearest place at or before each one that is valid, -1 if there is none in the group."""
        place = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
        return np.where(place >= self.first, place, -1)

    def after(self, valid: np.ndarray) -> np.ndarray:
        """The nearest place at or after each one that is valid, -1 if there is none in the group."""
        none = len(valid)
        place = np.minimum.accumulate(np.where(valid, np.arange(none), none)[::-1])[::-1]
        return np.where(place <= self.last, place, -1)


def timeline(table: pa.Table, by: Sequence[str], order_by: Sequence[str]) -> Timeline:
    """The rows of a table that is in the order of origin, as a timeline."""
    group = np.zeros(table.num_rows, np.int64)
    known = np.ones(table.num_rows, bool)
    for name in by:
        codes = _codes(combined(table[name]))
        known &= codes >= 0
        group = np.unique(group * (int(codes.max(initial=0)) + 2) + codes, return_inverse=True)[1]
    for name in order_by:
        known &= numpy_of(pc.is_valid(countable(combined(table[name]))))
    rows = np.flatnonzero(known)
    keys = {"group": pa.array(group[rows])}
    keys |= {f"time {n}": combined(table[name]).take(pa.array(rows)) for n, name in enumerate(order_by)}
    keys["row"] = pa.array(rows)
    order = numpy_of(pc.sort_indices(pa.table(keys), [(name, "ascending") for name in keys])).astype(np.int64)
    rows, group = rows[order], group[rows][order]
    begins = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])) if len(rows) else rows
    sizes = np.diff(np.append(begins, len(rows)))
    first = np.repeat(begins, sizes)
    return Timeline(rows, first, first + np.repeat(sizes, sizes) - 1)


def _codes(values: pa.Array) -> np.ndarray:
    """Equal numbers for equal values; -1 for a missing one."""
    encoded = countable(values).dictionary_encode()
    return numpy_of(pc.fill_null(encoded.indices, -1)).astype(np.int64)
