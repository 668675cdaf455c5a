"""What every loss is: a sum over positions, not a mean, so that shards of any size, even empty ones, add up exactly.

A loss sees Z, the output before the last activation (the *head*), so cross-entropies are taken from logits whether the
last layer ends in sigmoid or softmax, or in nothing. The losses are in `regression` and `cross_entropy`.

A *position* is one vector along the last axis: a sample, or one time step of a sample. Each has a weight, 1 if nothing else is said;
a weight of 0 masks it. Sum of losses and sum of weights travel together, so the mean is exact however the batch was cut.

Letters: B samples, O outputs, N positions; Z (B, ..., O) outputs before the head.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.params import Array, Shape, Workspace

__all__ = ["Hits", "Loss", "LossSum", "checked_weights", "position_weights", "summed"]


class LossSum(NamedTuple):
    """Loss summed over positions, the gradient of that sum at Z, and the sum of the weights (their number if equal)."""

    total: float
    gradient: Array
    weight: float


class Hits(NamedTuple):
    """The weight of the positions that are classified right, and of all that count."""

    right: float
    counted: float


class Loss(ABC):
    """What training makes small. A frozen value; Z is never overwritten, dZ lives in the Workspace."""

    kind: ClassVar[str]
    task: ClassVar[str]  # "binary", "classes" or "regression": which metrics describe the model

    @abstractmethod
    def check(self, out_shape: Shape, head: str) -> None:
        """Raises: ModelError if outputs of this shape and head do not fit the loss."""

    @abstractmethod
    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """The labels as `__call__` needs them. Checked labels pass unchanged.

        Raises: ModelError with the first bad row.
        """

    @abstractmethod
    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """Loss of labels that `labels` has seen. Shapes: weights as `checked_weights` gives them, or None for ones."""

    @abstractmethod
    def scores(self, Z: Array, head: str) -> Array:
        """What the model says, as a new array: probabilities, or values for a regression."""

    def hits(self, Z: Array, y: Array, weights: Array | None, head: str) -> Hits | None:
        """How many positions are classified right, weighted by the samples' weights alone; None for a regression."""
        del Z, y, weights, head
        return None


def checked_weights(weights: Array, rows: int, out_shape: Shape, dtype: np.dtype) -> Array:
    """Weights of the samples, or of each of their positions (a mask).

    Shapes: (B,), or (B, *out_shape[:-1]).
    Raises: ModelError for another shape, and for a weight that is negative or not finite.
    """
    made = np.asarray(weights, dtype)
    positions = (rows, *out_shape[:-1])
    if made.shape not in {(rows,), positions}:
        wanted = f"({rows},)" if len(positions) == 1 else f"({rows},) or {positions!r}"
        raise ModelError(
            f"sample weights have shape {made.shape!r}, expected {wanted}; give one per row"
            + (" or position" if len(positions) > 1 else "")
        )
    bad = ~(np.isfinite(made) & (made >= 0))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise ModelError(
            f"sample weight of row {row} is {made[bad][0].item()!r}, expected 0 or more; 0 leaves the row out"
        )
    return made


def position_weights(weights: Array | None, shape: Shape) -> Array | None:
    """One weight for each position of Z (B, ..., O). Shapes: (N,)."""
    if weights is None or len(shape) == 2:
        return weights
    if weights.ndim == 1:
        return np.repeat(weights, int(np.prod(shape[1:-1])))
    return weights.reshape(-1)


def summed(losses: Array, dZ: Array, weights: Array | None) -> LossSum:
    """Sums of one loss per position; dZ is scaled in place. float64, because float32 sums of 10^6 losses drift.

    Shapes: losses (N,), overwritten; dZ any with N * O values; weights (N,).
    """
    if weights is None:
        return LossSum(float(losses.sum(dtype=np.float64)), dZ, float(len(losses)))
    np.multiply(losses, weights, out=losses)
    rows = dZ.reshape(len(losses), dZ.shape[-1])
    np.multiply(rows, weights[:, None], out=rows)
    return LossSum(float(losses.sum(dtype=np.float64)), dZ, float(weights.sum(dtype=np.float64)))
