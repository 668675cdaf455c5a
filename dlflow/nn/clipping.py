"""Gradient clipping whose bits do not depend on who computes which part of the norm.

The flat gradient is cut into *pieces* at the ends of every parameter, and of every 16,384 numbers of it. A piece's sum of squares
is one product; sums of pieces are exactly rounded (`math.fsum`), so their order does not matter. A rank that owns whole pieces
computes theirs, all ranks learn all sums, and each clips its own segment by the same numbers.

Letters: P parameters, K pieces.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import fsum, sqrt
from typing import TYPE_CHECKING

import numpy as np

from dlflow.nn.params import Array, Slot
from dlflow.nn.tables import Rows, chunks, parts, table, within

if TYPE_CHECKING:
    from dlflow.nn.optimizer import Optimizer

__all__ = ["Clipping", "global_norm"]

PIECE = 1 << 14


class Clipping:
    """The pieces of one model's gradient, and what an optimizer's settings do with them.

    A piece of a table (see `tables`) is whole rows, and its sum is that of its rows: those that are 0 need not be looked at.
    """

    def __init__(self, slots: Sequence[Slot], optimizer: "Optimizer", tables: Sequence[Slot] = ()) -> None:
        self.settings = optimizer
        self._rows = {slot: max(1, PIECE * slot.shape[0] // (slot.stop - slot.start)) for slot in tables}
        starts = [(start, slot) for slot in slots for start in range(slot.start, slot.stop, self._size(slot))]
        self.edges = np.array([start for start, _ in starts] + [slots[-1].stop if slots else 0])
        owners = {slot: number for number, slot in enumerate(slots)}
        self._owner = np.array([owners[slot] for _, slot in starts], np.intp)  # of each piece, its parameter
        self._first = {slot: int(np.searchsorted(self.edges, slot.start)) for slot in tables}

    @property
    def needs_norms(self) -> bool:
        """Whether `clip` wants the squares of all pieces."""
        return self.settings.clip_norm is not None or self.settings.clip_global_norm is not None

    def squares(
        self, g: Array, *, first: int = 0, last: int | None = None, rows: Rows | None = None
    ) -> Array:
        """Sums of squares of the pieces [first, last). Shapes: g (P,) or more; (last - first,) float64."""
        stop = len(self._owner) if last is None else last
        made = np.zeros(stop - first)
        tables: set[int] = set()
        for slot, start in self._first.items():
            own = range(start, start + -(-slot.shape[0] // self._rows[slot]))
            tables.update(own)
            inner = range(max(own.start, first), min(own.stop, stop))
            if inner:
                touched = np.arange(slot.shape[0]) if rows is None or slot not in rows else rows[slot]
                lo, hi = int(self.edges[inner.start]), int(self.edges[inner.stop])
                self._add_rows(made, first, g, slot, within(slot, touched, lo, hi))
        for number in range(first, stop):
            if number not in tables:
                part = g[int(self.edges[number]) : int(self.edges[number + 1])]
                made[number - first] = np.dot(part, part)
        return made

    def clip(
        self,
        g: Array,
        squares: Array | None = None,
        *,
        lo: int = 0,
        hi: int | None = None,
        rows: Rows | None = None,
    ) -> None:
        """Clip the mean gradient in place on [lo, hi): by norm, then by value, as far as the settings say so.

        Norms are those before any clipping; `squares` are those of all pieces, computed here if not given. `rows` are those of
        the message that g is of.

        Shapes: g (P,); squares (K,).
        Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
        """
        chosen, stop, rows = self.settings, int(self.edges[-1]) if hi is None else hi, rows or {}
        if squares is None and self.needs_norms:
            squares = self.squares(g, rows=rows)
        if squares is not None and chosen.clip_global_norm is not None:
            _scale(parts(g, rows, lo, stop), fsum(squares), chosen.clip_global_norm)
        if squares is not None and chosen.clip_norm is not None:
            for start, end, total in self._parameters(squares):
                _scale(parts(g, rows, max(start, lo), min(end, stop)), total, chosen.clip_norm)
        if chosen.clip_value is not None:
            for part in parts(g, rows, lo, stop):
                np.clip(part, -chosen.clip_value, chosen.clip_value, out=part)

    def _size(self, slot: Slot) -> int:
        """Numbers of a piece."""
        return (slot.stop - slot.start) // slot.shape[0] * self._rows[slot] if slot in self._rows else PIECE

    def _add_rows(self, made: Array, first: int, g: Array, slot: Slot, rows: Array) -> None:
        """Add the squares of these rows of a table to those of their pieces, row by row in their order."""
        matrix = table(g, slot)
        for some in chunks(rows, matrix.shape[1]):
            pieces = some // self._rows[slot] + (self._first[slot] - first)
            np.add.at(made, pieces, np.square(matrix[some], dtype=np.float64).sum(axis=1))

    def _parameters(self, squares: Array) -> list[tuple[int, int, float]]:
        """Start, stop and sum of squares of each parameter."""
        cuts = [0, *(np.flatnonzero(np.diff(self._owner)) + 1).tolist(), len(squares)]
        return [
            (int(self.edges[a]), int(self.edges[b]), fsum(squares[a:b])) for a, b in pairwise(cuts) if a < b
        ]


def global_norm(squares: Array) -> float:
    """The Euclidean norm of the whole gradient from the squares of all its pieces."""
    return sqrt(fsum(squares))


def _scale(pieces: Iterable[Array], square: float, limit: float) -> None:
    norm = sqrt(square)
    if norm > limit:
        for part in pieces:
            np.multiply(part, limit / norm, out=part)
