"""Gradient clipping whose bits do not depend on who computes which part of the norm.

The flat gradient is cut into *pieces* at the ends of every parameter, and of every 16,384 numbers of it. A piece's sum of squares
is one product; sums of pieces are exactly rounded (`math.fsum`), so their order does not matter. A rank that owns whole pieces
computes theirs, all ranks learn all sums, and each clips its own segment by the same numbers.

Letters: P parameters, K pieces.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import fsum, sqrt
from typing import TYPE_CHECKING

import numpy as np

from dlflow.nn.params import Array, Slot

if TYPE_CHECKING:
    from dlflow.nn.optimizers import Optimizer

__all__ = ["Clipping", "global_norm"]

PIECE = 1 << 14


class Clipping:
    """The pieces of one model's gradient, and what an optimizer's settings do with them."""

    def __init__(self, slots: Sequence[Slot], optimizer: "Optimizer") -> None:
        self.settings = optimizer
        starts = [(start, slot) for slot in slots for start in range(slot.start, slot.stop, PIECE)]
        self.edges = np.array([start for start, _ in starts] + [slots[-1].stop if slots else 0])
        owners = {slot: number for number, slot in enumerate(slots)}
        self._owner = np.array([owners[slot] for _, slot in starts], np.intp)  # of each piece, its parameter

    @property
    def needs_norms(self) -> bool:
        """Whether `clip` wants the squares of all pieces."""
        return self.settings.clip_norm is not None or self.settings.clip_global_norm is not None

    def squares(self, g: Array, *, first: int = 0, last: int | None = None) -> Array:
        """Sums of squares of the pieces [first, last). Shapes: g (P,) or more; (last - first,) float64."""
        edges = self.edges[first : None if last is None else last + 1].tolist()
        parts = (g[start:stop] for start, stop in pairwise(edges))
        return np.array([float(np.dot(part, part)) for part in parts], np.float64)

    def clip(self, g: Array, squares: Array | None = None, *, lo: int = 0, hi: int | None = None) -> None:
        """Clip the mean gradient in place on [lo, hi): by norm, then by value, as far as the settings say so.

        Norms are those before any clipping; `squares` are those of all pieces, computed here if not given.

        Shapes: g (P,); squares (K,).
        Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
        """
        chosen, stop = self.settings, int(self.edges[-1]) if hi is None else hi
        if squares is None and self.needs_norms:
            squares = self.squares(g)
        if squares is not None and chosen.clip_global_norm is not None:
            _scale(g[lo:stop], fsum(squares), chosen.clip_global_norm)
        if squares is not None and chosen.clip_norm is not None:
            for start, end, total in self._parameters(squares):
                _scale(g[max(start, lo) : max(min(end, stop), lo)], total, chosen.clip_norm)
        if chosen.clip_value is not None:
            part = g[lo:stop]
            np.clip(part, -chosen.clip_value, chosen.clip_value, out=part)

    def _parameters(self, squares: Array) -> list[tuple[int, int, float]]:
        """Start, stop and sum of squares of each parameter."""
        cuts = [0, *(np.flatnonzero(np.diff(self._owner)) + 1).tolist(), len(squares)]
        return [
            (int(self.edges[a]), int(self.edges[b]), fsum(squares[a:b])) for a, b in pairwise(cuts) if a < b
        ]


def global_norm(squares: Array) -> float:
    """The Euclidean norm of the whole gradient from the squares of all its pieces."""
    return sqrt(fsum(squares))


def _scale(part: Array, square: float, limit: float) -> None:
    norm = sqrt(square)
    if norm > limit:
        np.multiply(part, limit / norm, out=part)
