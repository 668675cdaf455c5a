"""What a layer may ask of its weights: to be small (a penalty in the loss), or to satisfy a constraint after every update."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar, NamedTuple

from dlflow.errors import ModelError
from dlflow.nn.constraints import Constraint

__all__ = ["Penalized", "Penalty"]


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
