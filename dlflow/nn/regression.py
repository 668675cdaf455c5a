"""Losses for measured values. Each is a function of the difference between prediction and label, averaged over the outputs."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import labels
from dlflow.nn.activations import activation
from dlflow.nn.losses import Loss, LossSum, position_weights, summed
from dlflow.nn.params import Array, Shape, Workspace

__all__ = ["Huber", "MeanAbsoluteError", "MeanSquaredError"]


class _Difference(Loss):
    """A loss of D = prediction - y, value by value.

    With `skip_missing` a label of nan does not count: a position with k of its O labels has k / O of its weight.
    """

    task: ClassVar[str] = "regression"
    skip_missing: bool

    @abstractmethod
    def _scale(self, outputs: int) -> float:
        """What the sum of one position's losses is multiplied with."""

    @abstractmethod
    def _losses(self, D: Array, L: Array) -> None:
        """Write the losses of D into L, then their derivatives over D."""

    def check(self, out_shape: Shape, head: str) -> None:
        """Fits every model."""

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Numbers shaped like the output."""
        return labels.targets(y, out_shape, dtype, missing=self.skip_missing)

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """The derivative of the losses, times that of the head."""
        function, outputs = activation(head), Z.shape[-1]
        A = space.array("A", Z.shape, Z.dtype)
        np.copyto(A, Z)
        function.forward(A, space)
        dZ = np.subtract(A, y, out=space.array("dZ", Z.shape, Z.dtype))
        weights = position_weights(weights, Z.shape)
        if self.skip_missing:
            present = np.isfinite(y)
            np.copyto(dZ, 0, where=~present)
            share = present.reshape(-1, outputs).mean(axis=1, dtype=Z.dtype)
        L = space.array("L", Z.shape, Z.dtype)
        self._losses(dZ, L)
        scale = self._scale(outputs)
        losses = L.reshape(-1, outputs).sum(axis=1)
        losses *= scale
        np.multiply(dZ, scale, out=dZ)
        function.backward(dZ, A, space)
        made = summed(losses, dZ, weights)
        if not self.skip_missing:
            return made
        counted = share if weights is None else share * weights
        return LossSum(made.total, dZ, float(counted.sum(dtype=np.float64)))

    def scores(self, Z: Array, head: str) -> Array:
        """The predicted values."""
        A = Z.copy()
        activation(head).forward(A, Workspace())
        return A


@dataclass(frozen=True)
class MeanSquaredError(_Difference):
    """(prediction - y)^2, averaged over the outputs or, as `outputs="sum"`, added; `half` takes half of it, as textbooks do."""

    kind: ClassVar[str] = "mean_squared_error"
    half: bool = False
    outputs: str = "mean"
    skip_missing: bool = False

    def __post_init__(self) -> None:
        if self.outputs not in {"mean", "sum"}:
            raise ModelError(f"{self.kind}: outputs is {self.outputs!r}, expected 'mean' or 'sum'")

    def _scale(self, outputs: int) -> float:
        return (0.5 if self.half else 1.0) / (outputs if self.outputs == "mean" else 1)

    def _losses(self, D: Array, L: Array) -> None:
        np.square(D, out=L)
        np.multiply(D, 2, out=D)


@dataclass(frozen=True)
class MeanAbsoluteError(_Difference):
    """|prediction - y|, averaged over the outputs; its derivative at 0 is 0."""

    kind: ClassVar[str] = "mean_absolute_error"
    skip_missing: bool = False

    def _scale(self, outputs: int) -> float:
        return 1 / outputs

    def _losses(self, D: Array, L: Array) -> None:
        np.abs(D, out=L)
        np.sign(D, out=D)


@dataclass(frozen=True)
class Huber(_Difference):
    """d^2 / 2 up to |d| = delta and a straight line beyond, averaged over the outputs.

    Source: Huber 1964.
    """

    kind: ClassVar[str] = "huber"
    delta: float = 1.0
    skip_missing: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.delta < float("inf"):
            raise ModelError(
                f"huber: delta is {self.delta!r}, expected a positive number; errors beyond it count linearly"
            )

    def _scale(self, outputs: int) -> float:
        return 1 / outputs

    def _losses(self, D: Array, L: Array) -> None:
        np.copyto(L, D)
        np.clip(D, -self.delta, self.delta, out=D)
        # with c = clip(d): c (d - c / 2) is d^2 / 2 inside and delta (|d| - delta / 2) outside
        np.multiply(D, -0.5, out=D)
        np.add(L, D, out=L)
        np.multiply(D, -2, out=D)
        np.multiply(L, D, out=L)
