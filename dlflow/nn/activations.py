"""Activation functions, each with its derivative; both work in place.

Almost every derivative is written in terms of the output Y alone, so the input need not be kept: `backward` turns dY into dZ.
What else a derivative needs, `forward` leaves in the Workspace.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from dlflow.nn.choice import choose
from dlflow.nn.params import Array, Workspace

__all__ = ["ACTIVATIONS", "Nonlinearity", "activation", "sigmoid"]


@dataclass(frozen=True)
class Nonlinearity:
    """A function of an array and its derivative.

    `forward(Z, space)` overwrites Z with Y. `backward(dY, Y, space)` overwrites dY with dZ.
    """

    forward: Callable[[Array, Workspace], None]
    backward: Callable[[Array, Array, Workspace], None]
    elementwise: bool = True  # each number alone, whatever its place
    rising: bool = True  # never falls, so it may be taken after a maximum instead of before


def activation(name: str | None) -> Nonlinearity:
    """The activation of this name; None is "linear".

    Raises: ModelError with a "did you mean".
    """
    return choose("linear" if name is None else name, ACTIVATIONS, "activation")


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-Z)), exact also for very small probabilities; a new array.

    Layers use the tanh form, which is three times faster but is 0 below Z = -17 in float32. Probabilities that are shown
    or ranked come from here.
    """
    small = np.exp(-np.abs(Z))
    return np.where(np.signbit(Z), small, np.ones((), Z.dtype)) / (small + 1)


def _linear(_Z: Array, _space: Workspace) -> None:
    pass


def _linear_backward(_dY: Array, _Y: Array, _space: Workspace) -> None:
    pass


def _relu(Z: Array, space: Workspace) -> None:
    # an array of zeros: with a scalar operand NumPy does not vectorise maximum (0.11 against 0.44 ns per element)
    zeros = space.array("relu zeros", Z.shape[-1:], Z.dtype)
    zeros.fill(0)
    np.maximum(Z, zeros, out=Z)


def _relu_backward(dY: Array, Y: Array, space: Workspace) -> None:
    # a product with a mask: where= and boolean indexing are 15 to 25 times slower
    positive = np.greater(Y, 0, out=space.array("relu mask", Y.shape, np.bool_))
    np.multiply(dY, positive, out=dY)


LEAK = 0.01


def _leaky_relu(Z: Array, space: Workspace) -> None:
    np.maximum(Z, np.multiply(Z, LEAK, out=space.array("leak", Z.shape, Z.dtype)), out=Z)


def _leaky_relu_backward(dY: Array, Y: Array, space: Workspace) -> None:
    slope = np.greater(Y, 0, out=space.array("leak", Y.shape, Y.dtype), casting="unsafe")
    np.maximum(slope, LEAK, out=slope)
    np.multiply(dY, slope, out=dY)


def _elu(Z: Array, space: Workspace) -> None:
    low = np.minimum(Z, 0, out=space.array("elu", Z.shape, Z.dtype))
    np.expm1(low, out=low)
    np.maximum(Z, low, out=Z)


def _elu_backward(dY: Array, Y: Array, space: Workspace) -> None:
    slope = np.minimum(Y, 0, out=space.array("elu", Y.shape, Y.dtype))
    slope += 1
    np.multiply(dY, slope, out=dY)


def _softplus(Z: Array, _space: Workspace) -> None:
    np.logaddexp(Z, 0, out=Z)


def _softplus_backward(dY: Array, Y: Array, space: Workspace) -> None:
    slope = np.negative(Y, out=space.array("softplus", Y.shape, Y.dtype))
    np.expm1(slope, out=slope)
    np.multiply(dY, np.negative(slope, out=slope), out=dY)


def _tanh(Z: Array, _space: Workspace) -> None:
    np.tanh(Z, out=Z)


def _tanh_backward(dY: Array, Y: Array, space: Workspace) -> None:
    slope = np.square(Y, out=space.array("tanh", Y.shape, Y.dtype))
    np.subtract(1, slope, out=slope)
    np.multiply(dY, slope, out=dY)


def _sigmoid(Z: Array, _space: Workspace) -> None:
    Z *= 0.5
    np.tanh(Z, out=Z)
    Z *= 0.5
    Z += 0.5


def _sigmoid_backward(dY: Array, Y: Array, space: Workspace) -> None:
    slope = np.subtract(1, Y, out=space.array("sigmoid", Y.shape, Y.dtype))
    slope *= Y
    np.multiply(dY, slope, out=dY)


def _gelu(Z: Array, space: Workspace) -> None:
    # 0.5 z (1 + tanh(c (z + a z^3))): Hendrycks & Gimpel 2016; NumPy has no erf, which the exact form needs
    a, c = 0.044715, sqrt(2 / pi)
    square = np.square(Z, out=space.array("gelu square", Z.shape, Z.dtype))
    bend = np.multiply(square, a, out=space.array("gelu", Z.shape, Z.dtype))
    bend += 1
    bend *= Z
    bend *= c
    np.tanh(bend, out=bend)
    slope = np.multiply(square, 3 * a * c, out=space.array("gelu slope", Z.shape, Z.dtype))
    slope += c
    slope *= Z
    np.square(bend, out=square)
    np.subtract(1, square, out=square)
    slope *= square
    bend += 1
    slope += bend
    slope *= 0.5
    Z *= bend
    Z *= 0.5


def _gelu_backward(dY: Array, Y: Array, space: Workspace) -> None:
    np.multiply(dY, space.array("gelu slope", Y.shape, Y.dtype), out=dY)


def _softmax(Z: Array, _space: Workspace) -> None:
    Z -= Z.max(axis=-1, keepdims=True)
    np.exp(Z, out=Z)
    Z /= Z.sum(axis=-1, keepdims=True)


def _softmax_backward(dY: Array, Y: Array, space: Workspace) -> None:
    product = np.multiply(dY, Y, out=space.array("softmax", Y.shape, Y.dtype))
    dY -= product.sum(axis=-1, keepdims=True)
    dY *= Y


ACTIVATIONS = {
    "elu": Nonlinearity(_elu, _elu_backward),
    "gelu": Nonlinearity(_gelu, _gelu_backward, rising=False),
    "leaky_relu": Nonlinearity(_leaky_relu, _leaky_relu_backward),
    "linear": Nonlinearity(_linear, _linear_backward),
    "relu": Nonlinearity(_relu, _relu_backward),
    "sigmoid": Nonlinearity(_sigmoid, _sigmoid_backward),
    "softmax": Nonlinearity(_softmax, _softmax_backward, elementwise=False, rising=False),
    "softplus": Nonlinearity(_softplus, _softplus_backward),
    "tanh": Nonlinearity(_tanh, _tanh_backward),
}
