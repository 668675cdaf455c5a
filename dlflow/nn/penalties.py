"""What a layer may ask of its weights: to be small (a penalty in the loss), or to satisfy a constraint after every update."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar, NamedTuple

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.constraints import Constraint
from dlflow.nn.params import Array, Slot, Workspace

__all__ = ["Decay", "Penalized", "Penalty"]


class Penalty(NamedTuple):
    """The mean loss gains `l1 * sum(|w|) + l2 * sum(w^2)` of one parameter."""

    l1: float
    l2: float


@dataclass(frozen=True, kw_only=True)
class Penalized:
    """Settings of every layer with weights; they are for its `kernels`, or for the parameters named in `penalize`.

    A layer inherits this before `Layer`, names its kernels (biases are none), and calls `check_penalties` when it is made.
    """

    kernels: ClassVar[tuple[str, ...]] = ("W",)
    kind: ClassVar[str]
    l1: float = 0.0
    l2: float = 0.0
    penalize: tuple[str, ...] = ()
    constraint: Constraint | None = None

    def check_penalties(self) -> None:
        """Raises: ModelError for a negative penalty, or for names without one."""
        for name in ("l1", "l2"):
            value = getattr(self, name)
            if not 0 <= value < inf:
                raise ModelError(
                    f"{self.kind}: {name} is {value!r}, expected 0 or a small positive number such as 1e-4"
                )
        if self.penalize and not (self.l1 or self.l2 or self.constraint):
            raise ModelError(
                f"{self.kind}: penalize is {list(self.penalize)!r} without a penalty; give l1, l2 or constraint"
            )

    def penalties(self) -> dict[str, Penalty]:
        """Penalties by parameter name."""
        if not (self.l1 or self.l2):
            return {}
        return dict.fromkeys(self.penalize or self.kernels, Penalty(self.l1, self.l2))

    def constraints(self) -> dict[str, Constraint]:
        """Constraints by parameter name."""
        return dict.fromkeys(self.penalize or self.kernels, self.constraint) if self.constraint else {}


class Decay:
    """What the penalties of a model add to its mean loss, and to the gradient of it."""

    def __init__(self, penalties: Sequence[tuple[Slot, Penalty]], space: Workspace) -> None:
        self._penalties, self._space = penalties, space

    def loss(self, w: Array) -> float:
        """Shapes: w (P,)."""
        total = 0.0
        for slot, (l1, l2) in self._penalties:
            W = w[slot.start : slot.stop]
            if l2:
                total += l2 * float(np.dot(W, W))
            if l1:
                total += l1 * float(np.abs(W, out=self._space.array("w", W.shape, W.dtype)).sum())
        return total

    def add(self, w: Array, g: Array, lo: int, stop: int) -> None:
        """Add to g on [lo, stop), in place. Shapes: w (P,); g (P,) or more."""
        for slot, (l1, l2) in self._penalties:
            at = slice(max(slot.start, lo), max(min(slot.stop, stop), lo))
            W, part = w[at], g[at]
            scratch = self._space.array("w", W.shape, W.dtype)
            if l2:
                np.add(part, np.multiply(W, 2 * l2, out=scratch), out=part)
            if l1:
                np.sign(W, out=scratch)
                np.add(part, np.multiply(scratch, l1, out=scratch), out=part)
