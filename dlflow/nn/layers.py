"""Layers: frozen settings that hold no array. `forward` gives the output and a closure for the backward pass.

Letters: B samples, I inputs, O outputs. A capital is a matrix, d is "gradient of".

Who may overwrite what: `forward` never changes X; `backward` may overwrite dY, which is its own, and nothing else. Arrays made
by either live in the layer's Workspace until the next forward pass.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.activations import activation
from dlflow.nn.constraints import Constraint
from dlflow.nn.initializers import initializer
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalized, Penalty
from dlflow.nn.streams import Stream

__all__ = ["Activation", "Backward", "Dense", "Dropout", "Flatten", "Layer"]

Backward = Callable[[Array, Views, bool], Array | None]
"""`(dY, dp to fill, need_dX) -> dX`, or None if it is not needed."""


class Layer(ABC):
    """A step of a model. A value: comparable, hashable, picklable, usable in two models or threads at once."""

    kind: ClassVar[str]

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
        rows = X.reshape(-1, X.shape[-1])
        Y = np.matmul(rows, W, out=space.array("Y", (len(rows), self.units), X.dtype))
        if self.use_bias:
            np.add(Y, p["b"], out=Y)
        function.forward(Y, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            dZ = dY.reshape(Y.shape)
            function.backward(dZ, Y, space)
            np.matmul(rows.T, dZ, out=dp["W"])
            if self.use_bias:
                np.matmul(space.ones(len(dZ), dZ.dtype), dZ, out=dp["b"])
            if not need_dX:
                return None
            return np.matmul(dZ, W.T, out=space.array("dX", rows.shape, dZ.dtype)).reshape(X.shape)

        return Y.reshape(*X.shape[:-1], self.units), backward


@dataclass(frozen=True)
class Activation(Layer):
    """Y = function(X). After a Dense, its own `activation` does the same without a copy."""

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
        Y = space.array("Y", X.shape, X.dtype)
        np.copyto(Y, X)
        function.forward(Y, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            del dp, need_dX
            function.backward(dY, Y, space)
            return dY

        return Y, backward


@dataclass(frozen=True)
class Dropout(Layer):
    """In training each value is zero with probability `rate` and the others are scaled up; else nothing happens.

    Source: Srivastava et al. 2014, in the inverted form of Keras and PyTorch.
    """

    kind: ClassVar[str] = "dropout"
    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ModelError(
                f"dropout: rate is {self.rate!r}, expected 0 <= rate < 1; it is the share that is dropped"
            )

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters, same shape."""
        return {}, in_shape

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """X times a mask that is a function of the stream's place alone."""
        del p
        # 16 random bits per value: the rate is kept to 1/65,536, for a fifth of the cost of floats
        dropped = min(round(self.rate * 65536), 65535)
        if rng is None or not dropped:
            return X, lambda dY, _dp, _need_dX: dY
        bits = rng.bits(-(-X.size // 4)).view(np.uint16)[: X.size].reshape(X.shape)
        keep = np.greater_equal(bits, dropped, out=space.array("keep", X.shape, np.bool_))
        mask = np.multiply(
            keep, X.dtype.type(65536 / (65536 - dropped)), out=space.array("mask", X.shape, X.dtype)
        )
        Y = np.multiply(X, mask, out=space.array("Y", X.shape, X.dtype))
        return Y, lambda dY, _dp, _need_dX: np.multiply(dY, mask, out=dY)


@dataclass(frozen=True)
class Flatten(Layer):
    """Each sample as one vector."""

    kind: ClassVar[str] = "flatten"

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters; all axes become one."""
        return {}, (prod(in_shape),)

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A view of X."""
        del p, rng, space
        return X.reshape(len(X), prod(X.shape[1:])), lambda dY, _dp, _need_dX: dY.reshape(X.shape)
