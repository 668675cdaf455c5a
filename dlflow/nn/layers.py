"""Layers: frozen settings that hold no array. `forward` gives the output and a closure for the backward pass.

Letters: B samples, I inputs, O outputs. A capital is a matrix, d is "gradient of".

Who may overwrite what: `forward` never changes X; `backward` may overwrite dY, which is its own, and nothing else. Arrays made
by either live in the layer's Workspace until the next forward pass.

The first axis of every array is the sample. How the axes lie in memory is free: convolutions work with the samples innermost
and hand on a view, so a layer takes X and dY with any strides.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dlflow.errors import ModelError
from dlflow.nn.activations import activation
from dlflow.nn.constraints import Constraint
from dlflow.nn.initializers import initializer
from dlflow.nn.params import Array, Shape, Views, Workspace, memory_order
from dlflow.nn.penalties import Penalized, Penalty
from dlflow.nn.streams import Stream

__all__ = [
    "Activation",
    "Backward",
    "Dense",
    "Dropout",
    "JoinedBackward",
    "Layer",
    "at_least_one",
    "check_rate",
    "dropout_mask",
]

Backward = Callable[[Array, Views, bool], Array | None]
"""`(dY, dp to fill, need_dX) -> dX`, or None if it is not needed."""

JoinedBackward = Callable[[Array, Views, bool], tuple[Array, ...] | None]
"""The same for a layer of several inputs: one dX for each, no two of them in the same memory."""


class Layer(ABC):
    """A step of a model. A value: comparable, hashable, picklable, usable in two models or threads at once."""

    kind: ClassVar[str]
    stateful: bool = False  # whether it hands its state on from batch to batch

    @abstractmethod
    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """Shapes of the parameters, and of the output of one sample.

        Raises: ModelError if samples of this shape do not fit.
        """

    @abstractmethod
    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Output, and what computes the gradients. An `rng` means training."""

    def init(self, p: Views, rng: Stream) -> None:
        """Fill the parameters with initial values; zero them if the layer has no better idea."""
        del rng
        for parameter in p.values():
            parameter.fill(0)

    def penalties(self) -> dict[str, Penalty]:
        """What the loss gains for the size of its parameters, by name."""
        return {}

    def constraints(self) -> dict[str, Constraint]:
        """What its parameters must satisfy after every update, by name."""
        return {}

    def statistics(self) -> dict[str, float]:
        """Parameters that follow what is seen instead of a gradient, each with the share of the new value.

        `backward` writes what this batch shows into dp, and after a step the model moves p that share of the way to it.
        """
        return {}

    def tables(self) -> tuple[str, ...]:
        """Parameters of which a batch touches some rows: `backward` finds their gradient 0, writes these rows, and leaves which, rising, in `space.rows`."""
        return ()

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """Which time steps of the output count, from those of the input. Shapes: (B, T), bool, or None for all."""
        del X
        return mask

    def accept(self, X: Array, dtype: npt.DTypeLike) -> Array:
        """The model's input as this layer reads it, when it is the first.

        Raises: ModelError for values that the layer cannot take.
        """
        return np.ascontiguousarray(X, dtype)

    def followed_by(self, layer: "Layer") -> "Layer | None":
        """One layer that does this and then the next, on the parameters of this one; None if there is none."""
        del layer
        return None

    def build_joined(self, in_shapes: tuple[Shape, ...]) -> tuple[dict[str, Shape], Shape]:
        """As `build`, for a layer of several inputs.

        Raises: ModelError if the layer takes one.
        """
        raise ModelError(f"{self.kind}: {len(in_shapes)} inputs, expected one; join them with Concatenate")

    def mask_joined(self, Xs: tuple[Array, ...], masks: tuple[Array | None, ...]) -> Array | None:
        """As `mask`, for a layer of several inputs: the steps that count in all of them."""
        del Xs
        known = [mask for mask in masks if mask is not None]
        return np.logical_and.reduce(known) if known else None

    def forward_joined(
        self, p: Views, Xs: tuple[Array, ...], rng: Stream | None, space: Workspace
    ) -> tuple[Array, JoinedBackward]:
        """As `forward`, for a layer of several inputs.

        Raises: ModelError if the layer takes one.
        """
        del p, rng, space
        raise ModelError(f"{self.kind}: {len(Xs)} inputs, expected one; join them with Concatenate")


def at_least_one(kind: str, **settings: int) -> None:
    """Raises: ModelError for a setting that is no whole number of at least 1."""
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(
                f"{kind}: {name} is {value!r}, expected a whole number of at least 1; correct it"
            )


@dataclass(frozen=True)
class Dense(Penalized, Layer):
    """Y = activation(X W + b), on the last axis."""

    kind: ClassVar[str] = "dense"
    units: int
    activation: str | None = None
    use_bias: bool = True
    initializer: str = "glorot_uniform"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ModelError(
                f"dense: units is {self.units!r}, expected at least 1; give the number of outputs"
            )
        self.check_penalties()
        activation(self.activation)
        initializer(self.initializer)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W (I, O) and b (O,); the last axis becomes O."""
        if not in_shape:
            raise ModelError("dense: samples are single numbers, expected vectors; reshape X to (n, 1)")
        need: dict[str, Shape] = {"W": (in_shape[-1], self.units)}
        if self.use_bias:
            need["b"] = (self.units,)
        return need, (*in_shape[:-1], self.units)

    def init(self, p: Views, rng: Stream) -> None:
        """W as the initializer says, b zero."""
        p["W"][...] = initializer(self.initializer)(p["W"].shape, rng)
        if self.use_bias:
            p["b"][...] = 0

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """One product, bias and activation in place on its result."""
        del rng
        function, W = activation(self.activation), p["W"]
        rows = X if X.ndim == 2 else space.contiguous("X", X).reshape(-1, X.shape[-1])
        Y = np.matmul(rows, W, out=space.array("Y", (len(rows), self.units), X.dtype))
        if self.use_bias:
            np.add(Y, p["b"], out=Y)
        function.forward(Y, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            dZ = space.contiguous("dY", dY).reshape(Y.shape)
            function.backward(dZ, Y, space)
            np.matmul(rows.T, dZ, out=dp["W"])
            if self.use_bias:
                np.matmul(space.ones(len(dZ), dZ.dtype), dZ, out=dp["b"])
            if not need_dX:
                return None
            if (
                not rows.flags.c_contiguous
            ):  # samples innermost, as a convolution gave them and wants them back
                return np.matmul(W, dZ.T, out=space.array("dX", rows.T.shape, dZ.dtype)).T
            return np.matmul(dZ, W.T, out=space.array("dX", rows.shape, dZ.dtype)).reshape(X.shape)

        return Y.reshape(*X.shape[:-1], self.units), backward

    def followed_by(self, layer: Layer) -> Layer | None:
        """Takes an activation over."""
        if isinstance(layer, Activation) and self.activation in {None, "linear"}:
            return replace(self, activation=layer.function)
        return None


@dataclass(frozen=True)
class Activation(Layer):
    """Y = function(X). After a Dense or a convolution it costs no copy: the two become one."""

    kind: ClassVar[str] = "activation"
    function: str

    def __post_init__(self) -> None:
        activation(self.function)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters, same shape."""
        return {}, in_shape

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """In place on a copy of X."""
        del p, rng
        function = activation(self.function)
        # what is done to each number alone runs fastest in the order of the memory
        order = memory_order(X) if function.elementwise else tuple(range(X.ndim))
        back = np.argsort(order)
        Y = space.array("Y", X.transpose(order).shape, X.dtype)
        np.copyto(Y, X.transpose(order))
        function.forward(Y, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            del dp, need_dX
            dZ = space.contiguous("dY", dY.transpose(order))
            function.backward(dZ, Y, space)
            return dZ.transpose(back)

        return Y.transpose(back), backward


@dataclass(frozen=True)
class Dropout(Layer):
    """In training each value is zero with probability `rate` and the others are scaled up; else nothing happens.

    Source: Srivastava et al. 2014, in the inverted form of Keras and PyTorch.
    """

    kind: ClassVar[str] = "dropout"
    rate: float

    def __post_init__(self) -> None:
        check_rate(self.kind, "rate", self.rate)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters, same shape."""
        return {}, in_shape

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """X times a mask that is a function of the stream's place alone."""
        del p
        if rng is None or not self.rate:
            return X, lambda dY, _dp, _need_dX: dY
        order = memory_order(X)
        back = np.argsort(order)
        mask = dropout_mask(X.transpose(order).shape, self.rate, rng, space, X.dtype).transpose(back)
        Y = np.multiply(X, mask, out=space.ordered("Y", X.shape, order, X.dtype))
        return Y, lambda dY, _dp, _need_dX: np.multiply(dY, mask, out=dY)


def check_rate(kind: str, name: str, rate: float) -> None:
    """Raises: ModelError for a share of dropped values outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ModelError(
            f"{kind}: {name} is {rate!r}, expected 0 <= {name} < 1; it is the share that is dropped"
        )


def dropout_mask(
    shape: Shape, rate: float, rng: Stream, space: Workspace, dtype: npt.DTypeLike, name: str = "mask"
) -> Array:
    """0 with probability `rate`, else 1 / (1 - rate): a work array, a function of the stream's place alone."""
    # 16 random bits per value: the rate is kept to 1/65,536, for a fifth of the cost of floats
    dropped = min(round(rate * 65536), 65535)
    size = int(np.prod(shape))
    bits = rng.bits(-(-size // 4)).view(np.uint16)[:size].reshape(shape)
    keep = np.greater_equal(bits, dropped, out=space.array(f"{name} keep", shape, np.bool_))
    scale = np.array(65536 / (65536 - dropped), dtype)
    return np.multiply(keep, scale, out=space.array(name, shape, dtype))
