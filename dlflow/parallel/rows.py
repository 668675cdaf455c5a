"""Sums over tables of which few rows are touched, as rows: the gradient of an embedding is zero but for the tokens of the batch.

What is not listed is zero. Adding zero changes no number but -0.0, so values are freed of that sign once, and from then on sums of
rows have the bits of sums of whole tables.

Letters: n touched rows, E units of a row.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import PeerLost

__all__ = ["Table", "Touched"]

Array = NDArray[Any]


class Table(NamedTuple):
    """A part of the vector: `rows` rows of `width` numbers, from `start` on."""

    start: int
    rows: int
    width: int

    @property
    def stop(self) -> int:
        """Where it ends in the vector."""
        return self.start + self.rows * self.width

    def of(self, g: Array) -> Array:
        """The table in this vector, a view. Shapes: (rows, width)."""
        return g[self.start : self.stop].reshape(self.rows, self.width)


@dataclass(frozen=True)
class Touched:
    """Touched rows of one table. Shapes: places (n,) int32, rising; values (n, E)."""

    places: Array
    values: Array

    @staticmethod
    def taken(table: Array, places: Array) -> "Touched":
        """These rows of a table, copied. Shapes: table (rows, E); places (n,), rising."""
        values = np.take(table, places, axis=0)
        return Touched(places.astype(np.int32), np.add(values, 0, out=values))

    def __add__(self, other: "Touched") -> "Touched":
        if not len(other.places):
            return self
        if not len(self.places):
            return other
        places = np.concatenate([self.places, other.places])
        places.sort(kind="stable")  # two runs in order: merged, not sorted
        new = np.ones(len(places), np.bool_)
        np.not_equal(places[1:], places[:-1], out=new[1:])
        places = places[new]
        values = np.zeros((len(places), self.values.shape[1]), self.values.dtype)
        values[np.searchsorted(places, self.places)] = self.values
        values[np.searchsorted(places, other.places)] += other.values
        return Touched(places, values)

    def packed(self) -> memoryview:
        """One message: places, then values."""
        made = np.empty(self.places.nbytes + self.values.nbytes, np.uint8)
        made[: self.places.nbytes] = self.places.view(np.uint8)
        made[self.places.nbytes :] = self.values.reshape(-1).view(np.uint8)
        return made.data

    @staticmethod
    def room(count: int, table: Table, dtype: np.dtype) -> Array:
        """Memory for a message of so many rows. Shapes: (bytes,)."""
        return np.empty(count * (4 + table.width * dtype.itemsize), np.uint8)

    @staticmethod
    def unpacked(message: Array, count: int, table: Table, dtype: np.dtype) -> "Touched":
        """The rows of a message.

        Raises: PeerLost for places that are not in the table or not in order.
        """
        places = message[: 4 * count].view(np.int32)
        if places[0] < 0 or places[-1] >= table.rows or np.any(places[1:] <= places[:-1]):
            raise PeerLost(
                f"a message has rows {places[0]} to {places[-1]} of a table of {table.rows}, expected rising ones in it; "
                "fit_on forms the gang anew"
            )
        return Touched(places, message[4 * count :].view(dtype).reshape(count, table.width))
