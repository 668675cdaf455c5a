"""Losses for probabilities: -log of what the model gives to the truth, taken from logits wherever there are any.

If the outputs are probabilities already and the model does not end in sigmoid or softmax (say, a Reshape comes after it),
`from_probabilities` says so; they are then clipped to [1e-7, 1 - 1e-7], as Keras does.

A class weight multiplies the weight of its positions, in the loss and in the mean; smoothing changes the labels alone.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import labels
from dlflow.nn.activations import sigmoid
from dlflow.nn.losses import Hits, Loss, LossSum, position_weights, summed
from dlflow.nn.params import Array, Shape, Workspace

__all__ = [
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "KLDivergence",
    "SparseCategoricalCrossEntropy",
]

SMALLEST = 1e-7  # probabilities that are given, not computed from logits, are clipped here


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """-log of the probability given to the label; with several outputs their mean. class_weights are for label 0 and 1.

    label_smoothing s makes labels y (1 - s) + s / 2. With skip_missing a label of nan does not count.
    """

    kind: ClassVar[str] = "binary_cross_entropy"
    task: ClassVar[str] = "binary"
    class_weights: tuple[float, float] | None = None
    label_smoothing: float = 0.0
    from_probabilities: bool = False
    skip_missing: bool = False

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)
        _check_class_weights(self.class_weights, 2, self.kind)
        _check_smoothing(self.label_smoothing, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output, or one per label; head sigmoid or none."""
        if self.class_weights is not None and out_shape[-1:] != (1,):
            raise ModelError(
                f"{self.kind}: class weights with {out_shape[-1]} outputs, expected one; use sample weights"
            )
        _check_head(head, "sigmoid", self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Numbers from 0 to 1."""
        return labels.probabilities(y, out_shape, dtype, missing=self.skip_missing)

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """From logits: log(1 + exp(-|z|)) + max(z, 0) - z y, which neither overflows nor loses small values."""
        outputs = Z.shape[-1]
        weights = position_weights(weights, Z.shape)
        share = None
        if self.skip_missing:
            present = np.isfinite(y)
            share = present.reshape(-1, outputs).mean(axis=1, dtype=Z.dtype)
            y = np.where(present, y, 0)
        T = y
        if self.label_smoothing:
            T = np.multiply(y, 1 - self.label_smoothing, out=space.array("T", Z.shape, Z.dtype))
            np.add(T, self.label_smoothing / 2, out=T)
        given = self.from_probabilities and head == "linear"
        L, dZ = (_of_probabilities if given else _of_logits)(Z, T, space)
        if share is not None:
            np.multiply(L, present, out=L)
            np.multiply(dZ, present, out=dZ)
        losses = L.reshape(-1, outputs).sum(axis=1)
        if outputs > 1:
            losses /= outputs
            np.multiply(dZ, 1 / outputs, out=dZ)
        if self.class_weights is not None:
            zero, one = self.class_weights
            weights = _times(weights, zero + (one - zero) * y.reshape(-1))
        made = summed(losses, dZ, weights)
        if share is None:
            return made
        counted = share if weights is None else share * weights
        return LossSum(made.total, dZ, float(counted.sum(dtype=np.float64)))

    def scores(self, Z: Array, head: str) -> Array:
        """Probabilities of label 1."""
        return Z.copy() if self.from_probabilities and head == "linear" else sigmoid(Z)

    def hits(self, Z: Array, y: Array, weights: Array | None, head: str) -> Hits:
        """All outputs of a position on the right side of one half; labels that are missing are on neither side."""
        half = 0.5 if self.from_probabilities and head == "linear" else 0.0
        right = (np.greater_equal(Z, half) == (y >= 0.5)) | np.isnan(y)
        counted = np.asarray(np.isfinite(y).any(axis=-1)) if self.skip_missing else None
        return _hits(right.all(axis=-1), position_weights(weights, Z.shape), counted)


class _Classes(Loss):
    """The losses of one distribution over K classes for each position."""

    task: ClassVar[str] = "classes"
    from_probabilities: bool

    def check(self, out_shape: Shape, head: str) -> None:
        """One output per class; head softmax or none."""
        if not out_shape or out_shape[-1] < 2:
            raise ModelError(
                f"{self.kind}: one sample gives outputs of shape {out_shape!r}, expected (classes,); "
                "use 'binary_cross_entropy' for two classes"
            )
        _check_head(head, "softmax", self.kind)

    def scores(self, Z: Array, head: str) -> Array:
        """Probabilities of the classes."""
        if self.from_probabilities and head == "linear":
            return Z.copy()
        return _log_softmax(Z, Workspace())[1]

    def __call__(self, Z: Array, y: Array, weights: Array | None, head: str, space: Workspace) -> LossSum:
        """From logits the gradient is softmax(Z) times the sum of the label (1), minus the label."""
        weights = position_weights(weights, Z.shape)
        if self.from_probabilities and head == "linear":
            P = np.clip(Z, SMALLEST, 1 - SMALLEST, out=space.array("P", Z.shape, Z.dtype))
            log, dZ = (
                np.log(P, out=space.array("log", Z.shape, Z.dtype)),
                space.array("dZ", Z.shape, Z.dtype),
            )
            dZ.fill(0)
        else:
            log, dZ = _log_softmax(Z, space)
            P = None
        K = Z.shape[-1]
        losses, more = self._losses(log.reshape(-1, K), dZ.reshape(-1, K), y, space)
        if P is not None:
            np.divide(dZ, P, out=dZ)
        return summed(losses, dZ, _times(weights, more))

    @abstractmethod
    def _losses(self, log: Array, dZ: Array, y: Array, space: Workspace) -> tuple[Array, Array | None]:
        """The losses, and weights of the positions by their label; takes the labels from dZ.

        Shapes: log, dZ (N, K); losses, weights (N,).
        """


@dataclass(frozen=True)
class CategoricalCrossEntropy(_Classes):
    """-log of the probability given to the class; labels are one-hot rows or distributions.

    label_smoothing s makes labels y (1 - s) + s / K.
    """

    kind: ClassVar[str] = "categorical_cross_entropy"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    from_probabilities: bool = False

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)
        _check_smoothing(self.label_smoothing, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output per class; head softmax or none."""
        super().check(out_shape, head)
        _check_class_weights(self.class_weights, out_shape[-1], self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """One-hot rows."""
        return labels.distributions(y, out_shape, dtype)

    def _losses(self, log: Array, dZ: Array, y: Array, space: Workspace) -> tuple[Array, Array | None]:
        y = T = y.reshape(log.shape)
        if self.label_smoothing:
            T = np.multiply(y, 1 - self.label_smoothing, out=space.array("T", log.shape, log.dtype))
            np.add(T, self.label_smoothing / log.shape[1], out=T)
        np.subtract(dZ, T, out=dZ)
        losses = np.multiply(log, T, out=log).sum(axis=1)
        weights = None if self.class_weights is None else y @ np.array(self.class_weights, log.dtype)
        return np.negative(losses, out=losses), weights

    def hits(self, Z: Array, y: Array, weights: Array | None, head: str) -> Hits:
        """The largest output is the label's."""
        del head
        return _hits(Z.argmax(axis=-1) == y.argmax(axis=-1), position_weights(weights, Z.shape), None)


@dataclass(frozen=True)
class SparseCategoricalCrossEntropy(_Classes):
    """-log of the probability given to the class; labels are class numbers.

    label_smoothing s gives every class s / K and the label 1 - s more. Labels that are `ignored` (padding) do not count.
    """

    kind: ClassVar[str] = "sparse_categorical_cross_entropy"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    from_probabilities: bool = False
    ignored: int | None = None

    def __post_init__(self) -> None:
        _check_each(self.class_weights, self.kind)
        _check_smoothing(self.label_smoothing, self.kind)

    def check(self, out_shape: Shape, head: str) -> None:
        """One output per class; head softmax or none."""
        super().check(out_shape, head)
        _check_class_weights(self.class_weights, out_shape[-1], self.kind)

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Class numbers."""
        del dtype
        return labels.class_numbers(y, out_shape, ignored=self.ignored)

    def _losses(self, log: Array, dZ: Array, y: Array, space: Workspace) -> tuple[Array, Array | None]:
        y, K, s = y.reshape(-1), log.shape[1], self.label_smoothing
        weights = None
        if self.ignored is not None:
            weights = (y != self.ignored).astype(log.dtype)
            y = np.where(y == self.ignored, 0, y)
        rows = np.arange(len(y))
        losses = log[rows, y]
        np.multiply(losses, s - 1, out=losses)
        if s:
            losses -= s / K * (log @ space.ones(K, log.dtype))
            np.subtract(dZ, s / K, out=dZ)
        dZ[rows, y] -= 1 - s
        if self.class_weights is not None:
            weights = _times(weights, np.array(self.class_weights, log.dtype)[y])
        return losses, weights

    def hits(self, Z: Array, y: Array, weights: Array | None, head: str) -> Hits:
        """The largest output is the label's."""
        del head
        counted = None if self.ignored is None else y != self.ignored
        return _hits(Z.argmax(axis=-1) == y, position_weights(weights, Z.shape), counted)


@dataclass(frozen=True)
class KLDivergence(_Classes):
    """How far the distribution of the model is from that of the label: the sum of y log(y / probability).

    Source: Kullback & Leibler 1951.
    """

    kind: ClassVar[str] = "kl_divergence"
    from_probabilities: bool = False

    def labels(self, y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
        """Distributions."""
        return labels.distributions(y, out_shape, dtype)

    def _losses(self, log: Array, dZ: Array, y: Array, space: Workspace) -> tuple[Array, Array | None]:
        del space
        y = y.reshape(log.shape)
        np.subtract(dZ, y, out=dZ)
        tiny = np.finfo(y.dtype).tiny  # 0 log 0 is 0
        return (y * (np.log(np.maximum(y, tiny)) - log)).sum(axis=1), None

    def hits(self, Z: Array, y: Array, weights: Array | None, head: str) -> Hits:
        """The largest output is the label's largest."""
        del head
        return _hits(Z.argmax(axis=-1) == y.argmax(axis=-1), position_weights(weights, Z.shape), None)


def _of_logits(Z: Array, T: Array, space: Workspace) -> tuple[Array, Array]:
    """Losses and their derivatives sigmoid(Z) - T."""
    E = np.abs(Z, out=space.array("E", Z.shape, Z.dtype))
    np.exp(np.negative(E, out=E), out=E)
    # sigmoid = exp(min(z, 0)) / (1 + exp(-|z|)), and the numerator is 1 or E
    dZ = np.greater_equal(Z, 0, out=space.array("dZ", Z.shape, Z.dtype), casting="unsafe")
    np.maximum(dZ, E, out=dZ)
    L = np.log1p(E, out=space.array("L", Z.shape, Z.dtype))
    np.divide(dZ, np.add(E, 1, out=E), out=dZ)
    np.subtract(dZ, T, out=dZ)
    np.add(L, np.maximum(Z, 0, out=E), out=L)
    np.subtract(L, np.multiply(Z, T, out=E), out=L)
    return L, dZ


def _of_probabilities(Z: Array, T: Array, space: Workspace) -> tuple[Array, Array]:
    """Losses -T log p - (1 - T) log(1 - p), and their derivatives (p - T) / (p (1 - p))."""
    P = np.clip(Z, SMALLEST, 1 - SMALLEST, out=space.array("P", Z.shape, Z.dtype))
    E, L = space.array("E", Z.shape, Z.dtype), space.array("L", Z.shape, Z.dtype)
    np.log1p(np.negative(P, out=L), out=L)
    np.multiply(L, np.subtract(T, 1, out=E), out=L)
    np.subtract(L, np.multiply(np.log(P, out=E), T, out=E), out=L)
    np.multiply(P, np.subtract(1, P, out=E), out=E)
    dZ = np.subtract(P, T, out=space.array("dZ", Z.shape, Z.dtype))
    return L, np.divide(dZ, E, out=dZ)


def _log_softmax(Z: Array, space: Workspace) -> tuple[Array, Array]:
    """Logarithm of softmax(Z) in the work array "log", softmax(Z) in "dZ"."""
    log = np.subtract(Z, Z.max(axis=-1, keepdims=True), out=space.array("log", Z.shape, Z.dtype))
    P = np.exp(log, out=space.array("dZ", Z.shape, Z.dtype))
    total = P.sum(axis=-1, keepdims=True)
    log -= np.log(total)
    P /= total
    return log, P


def _hits(right: Array, weights: Array | None, counted: Array | None) -> Hits:
    right = right.reshape(-1)
    if counted is not None:
        weights = _times(weights, counted.reshape(-1).astype(np.float64))
    if weights is None:
        return Hits(float(np.count_nonzero(right)), float(len(right)))
    return Hits(float(weights[right].sum(dtype=np.float64)), float(weights.sum(dtype=np.float64)))


def _times(weights: Array | None, more: Array | None) -> Array | None:
    if weights is None or more is None:
        return weights if more is None else more
    return weights * more


def _check_class_weights(weights: tuple[float, ...] | None, expected: int, kind: str) -> None:
    if weights is not None and len(weights) != expected:
        raise ModelError(
            f"{kind}: {len(weights)} class weights, expected {expected}; give one per class, class 0 first"
        )


def _check_each(weights: tuple[float, ...] | None, kind: str) -> None:
    for number, weight in enumerate(weights or ()):
        if not 0 <= weight < float("inf"):
            raise ModelError(f"{kind}: weight of class {number} is {weight!r}, expected 0 or more")


def _check_smoothing(smoothing: float, kind: str) -> None:
    if not 0 <= smoothing < 1:
        raise ModelError(f"{kind}: label_smoothing is {smoothing!r}, expected 0 <= label_smoothing < 1")


def _check_head(head: str, wanted: str, kind: str) -> None:
    if head in {wanted, "linear"}:
        return
    raise ModelError(
        f"{kind}: the last activation is {head!r}, expected {wanted!r} or none; correct the last layer"
    )
