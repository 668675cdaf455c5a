"""What weights must satisfy after every update. Each works in place on one parameter, whole: a function of its values alone.

A unit's incoming weights are those along all axes but the last: a column of a Dense layer's W (I, O).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.params import Array

__all__ = ["Constraint", "MaxNorm", "NonNegative", "UnitNorm"]

SMALLEST = 1e-7  # added to norms that divide


class Constraint(ABC):
    """A projection of one parameter."""

    kind: ClassVar[str]

    @abstractmethod
    def apply(self, W: Array) -> None:
        """Change W in place as little as needed."""


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """Each unit's incoming weights have at most this Euclidean norm.

    Source: Srivastava et al. 2014, section 5.1.
    """

    kind: ClassVar[str] = "max_norm"
    limit: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.limit < inf:
            raise ModelError(f"max_norm: limit is {self.limit!r}, expected a positive number such as 2.0")

    def apply(self, W: Array) -> None:
        """Scale the columns that are too long."""
        norms = _norms(W)
        np.multiply(W, np.minimum(1, self.limit / np.maximum(norms, SMALLEST)), out=W)


@dataclass(frozen=True)
class NonNegative(Constraint):
    """No weight is below zero."""

    kind: ClassVar[str] = "non_negative"

    def apply(self, W: Array) -> None:
        """Set negative weights to zero."""
        np.maximum(W, 0, out=W)


@dataclass(frozen=True)
class UnitNorm(Constraint):
    """Each unit's incoming weights have the Euclidean norm 1."""

    kind: ClassVar[str] = "unit_norm"

    def apply(self, W: Array) -> None:
        """Scale every column."""
        np.multiply(W, 1 / (_norms(W) + SMALLEST), out=W)


def _norms(W: Array) -> Array:
    """One norm for each unit. Shapes: (O,)."""
    rows = W.reshape(-1, W.shape[-1])
    return np.sqrt(np.einsum("io,io->o", rows, rows))
