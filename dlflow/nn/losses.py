"""Losses: sums over samples, not means, so that shards of any size, even empty ones, add up exactly.

A loss sees Z, the output before the last activation (the *head*), so cross-entropies are taken from logits whether the
last layer ends in sigmoid or softmax, or in nothing.

Letters: B samples, O outputs, Z (B, O) outputs before the head.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import labels
from dlflow.nn.activations import activation, sigmoid
from dlflow.nn.params import Array, Shape, Workspace

__all__ = [
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "Loss",
    "LossSum",
    "MeanSquaredError",
    "SparseCategoricalCrossEntropy",
]


class LossSum(NamedTuple):
    """Loss summed over samples, the gradient of that sum at Z, and the sum of the sample weights (their number if equal)."""

    total: float
    gradient: Array
    weight: float


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
        """Loss of labels that `labels` has seen. Shapes: weights (B,) or None for ones."""

    @abstractmethod
    def scores(self, Z: Array, head: str) -> Array:
        """What the model says, as a new array: probabilities, or values for a regression."""

    def right(self, Z: Array, y: Array) -> Array | None:
        """Which samples are classified right; None for a regression. Shapes: (B,), bool."""
        del Z, y
        return None


def _check_class_weights(weights: tuple[float, ...] | None, expected: int, kind: str) -> None:
    if weights is not None and len(weights) != expected:
        raise ModelError(
            f"{kind}: {len(weights)} class weights, expected {expected}; give one per class, class 0 first"
        )


def _check_each(weights: tuple[float, ...] | None, kind: str) -> None:
    for number, weight in enumerate(weights or ()):
        if not 0 <= weight < float("inf"):
            raise ModelError(f"{kind}: weight of class {number} is {weight!r}, expected 0 or more")


def _check_head(head: str, wanted: str, kind: str) -> None:
    if head in {wanted, "linear"}:
        return
    raise ModelError(
        f"{kind}: the last activation is {head!r}, expected {wanted!r} or none; correct the last layer"
    )


def _check_classes(out_shape: Shape, head: str, kind: str) -> None:
    if len(out_shape) != 1 or out_shape[0] < 2:
        advice = (
            "add Flatten before the last layer"
            if len(out_shape) > 1
            else "use 'binary_cross_entropy' for two classes"
        )
        raise ModelError(
            f"{kind}: one sample gives outputs of shape {out_shape!r}, expected (classes,); {advice}"
        )
    _check_head(head, "softmax", kind)


def _weighted(losses: Array, dZ: Array, weights: Array | None) -> LossSum:
    """Sums of one loss per sample; dZ is scaled in place. float64, because float32 sums of 10^6 losses drift."""
    if weights is None:
        return LossSum(float(losses.sum(dtype=np.float64)), dZ, float(len(losses)))
    dZ *= weights.reshape(-1, *[1] * (dZ.ndim - 1))
    return LossSum(
        float(np.multiply(losses, weights).sum(dtype=np.float64)), dZ, float(weights.sum(dtype=np.float64))
    )


def _times(weights: Array | None, more: Array | None) -> Array | None:
    if weights is None or more is None:
        return weights if more is None else more
    return weights * more


def _log_softmax(Z: Array, space: Workspace) -> tuple[Array, Array]:
    """Logarithm of softmax(Z) in the work array "log", softmax(Z) in "dZ"."""
    log = np.subtract(Z, Z.max(axis=1, keepdims=True), out=space.array("log", Z.shape, Z.dtype))
    P = np.exp(log, out=space.array("dZ", Z.shape, Z.dtype))
    total = P.sum(axis=1, keepdims=True)
    log -= np.log(total)
    P /= total
    return log, P


def _softmax(Z: Array) -> Array:
    return _log_softmax(Z, Workspace())[1]


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean over the outputs of (prediction - y)^2."""

    kind: ClassVar[str] = "mean_squared_error"
    task: ClassVar[str] = "regression"

    def check(self, out_shape: Shape, head: str) -> None:
        """Fits every model."""

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Finite numbers shaped like the output."""
        return labels.targets(y, out_shape, dtype)

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """The gradient is 2 (A - y) / O, times the derivative of the head."""
        A = space.array("A", Z.shape, Z.dtype)
        np.copyto(A, Z)
        activation(head).forward(A, space)
        dZ = np.subtract(A, y, out=space.array("dZ", Z.shape, Z.dtype))
        outputs = max(1, int(np.prod(Z.shape[1:])))
        losses = np.square(dZ).reshape(len(Z), outputs).sum(axis=1) / outputs
        dZ *= 2 / outputs
        activation(head).backward(dZ, A, space)
        return _weighted(losses, dZ, weights)

    def scores(self, Z: Array, head: str) -> Array:
        """The predicted values."""
        A = Z.copy()
        activation(head).forward(A, Workspace())
        return A


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-log of the probability given to the label; with several outputs their mean. class_weights are for label 0 and 1."""

    kind: ClassVar[str] = "binary_cross_entropy"
    task: ClassVar[str] = "binary"
    class_weights: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)
        _check_class_weights(self.class_weights, 2, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output, or one per label; head sigmoid or none."""
        if len(out_shape) != 1:
            raise ModelError(
                f"{self.kind}: one sample gives outputs of shape {out_shape!r}, expected (1,); add Flatten"
            )
        if self.class_weights is not None and out_shape != (1,):
            raise ModelError(
                f"{self.kind}: class weights with {out_shape[0]} outputs, expected one; use sample weights"
            )
        _check_head(head, "sigmoid", self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Numbers from 0 to 1."""
        return labels.probabilities(y, out_shape, dtype)

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """From logits: log(1 + exp(-|z|)) + max(z, 0) - z y, which neither overflows nor loses small values."""
        del head
        outputs = Z.shape[1]
        losses = np.log1p(np.exp(-np.abs(Z))) + np.maximum(Z, 0) - Z * y
        dZ = np.subtract(sigmoid(Z), y, out=space.array("dZ", Z.shape, Z.dtype))
        if outputs > 1:
            dZ /= outputs
        if self.class_weights is not None:
            zero, one = self.class_weights
            weights = _times(weights, (zero + (one - zero) * y)[:, 0])
        return _weighted(losses.sum(axis=1) / outputs, dZ, weights)

    def scores(self, Z: Array, head: str) -> Array:
        """Probabilities of label 1."""
        del head
        return sigmoid(Z)

    def right(self, Z: Array, y: Array) -> Array:
        """All outputs on the right side of one half."""
        return ((Z >= 0) == (y >= 0.5)).all(axis=1)


@dataclass(frozen=True)
class CategoricalCrossEntropy(Loss):
    """-log of the probability given to the class; labels are one-hot rows or distributions."""

    kind: ClassVar[str] = "categorical_cross_entropy"
    task: ClassVar[str] = "classes"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output per class; head softmax or none."""
        _check_classes(out_shape, head, self.kind)
        _check_class_weights(self.class_weights, out_shape[0], self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """One-hot rows."""
        return labels.distributions(y, out_shape, dtype)

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """The gradient is softmax(Z) - y."""
        del head
        log, dZ = _log_softmax(Z, space)
        losses = -(log * y).sum(axis=1)
        np.subtract(dZ, y, out=dZ)
        if self.class_weights is not None:
            weights = _times(weights, y @ np.array(self.class_weights, Z.dtype))
        return _weighted(losses, dZ, weights)

    def scores(self, Z: Array, head: str) -> Array:
        """Probabilities of the classes."""
        del head
        return _softmax(Z)

    def right(self, Z: Array, y: Array) -> Array:
        """The largest output is the label's."""
        return Z.argmax(axis=1) == y.argmax(axis=1)


@dataclass(frozen=True)
class SparseCategoricalCrossEntropy(Loss):
    """-log of the probability given to the class; labels are class numbers."""

    kind: ClassVar[str] = "sparse_categorical_cross_entropy"
    task: ClassVar[str] = "classes"
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output per class; head softmax or none."""
        _check_classes(out_shape, head, self.kind)
        _check_class_weights(self.class_weights, out_shape[0], self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Class numbers."""
        del dtype
        return labels.class_numbers(y, out_shape[0])

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """The gradient is softmax(Z), minus 1 at the class."""
        del head
        log, dZ = _log_softmax(Z, space)
        rows = np.arange(len(y))
        losses = -log[rows, y]
        dZ[rows, y] -= 1
        if self.class_weights is not None:
            weights = _times(weights, np.array(self.class_weights, Z.dtype)[y])
        return _weighted(losses, dZ, weights)

    def scores(self, Z: Array, head: str) -> Array:
        """Probabilities of the classes."""
        del head
        return _softmax(Z)

    def right(self, Z: Array, y: Array) -> Array:
        """The largest output is the label's."""
        return Z.argmax(axis=1) == y
