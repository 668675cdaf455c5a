"""The optimizers: what each does to a block of weights.

All have these settings too: `clip_value`, `clip_norm` and `clip_global_norm` (see `clipping`), and `average`, the decay of an
exponential moving average of the weights, which evaluation and the finished model then use in place of the last weights. `lazy` is for
tables: see `optimizer`.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.optimizer import Optimizer
from dlflow.nn.params import Array
from dlflow.nn.schedules import Schedule

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= learning_rate * g; with momentum v = momentum * v + g takes the place of g, with nesterov momentum * v + g.

    Source: Sutskever et al. 2013, in the form of PyTorch, whose state does not depend on the learning rate.
    """

    kind: ClassVar[str] = "sgd"
    learning_rate: float | Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        self._check()
        self._check_share("momentum")
        if self.nesterov and not self.momentum:
            raise ModelError("sgd: nesterov without momentum changes nothing; give momentum, for example 0.9")

    @property
    def own_slots(self) -> int:
        """One value of velocity, none without momentum."""
        return 1 if self.momentum else 0

    @property
    def rests(self) -> bool:
        """Without momentum."""
        return not self.momentum

    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        del t
        if self.momentum:
            V = state[0]
            np.multiply(V, self.momentum, out=V)
            np.add(V, G, out=V)
            G = np.add(np.multiply(V, self.momentum, out=T), G, out=T) if self.nesterov else V
        np.multiply(G, rate, out=T)
        np.subtract(W, T, out=W)


@dataclass(frozen=True)
class Adam(Optimizer):
    """w -= learning_rate * m' / (sqrt(v') + epsilon), with m', v' the bias-corrected means of g and g^2.

    The state is M = m / (1 - beta_1), then V = v / (1 - beta_2): two passes fewer.

    Source: Kingma & Ba 2015, algorithm 1.
    """

    kind: ClassVar[str] = "adam"
    learning_rate: float | Schedule = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        self._check()
        self._check_share("beta_1", "beta_2")
        self._check_epsilon(self.epsilon)

    @property
    def own_slots(self) -> int:
        """M and V."""
        return 2

    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        _adam(self, W, G, state, T, rate, t)


@dataclass(frozen=True)
class AdamW(Optimizer):
    """Adam, and w -= learning_rate * weight_decay * w of all parameters: the decay is not part of the gradient.

    Source: Loshchilov & Hutter 2019, algorithm 2, in the form of PyTorch.
    """

    kind: ClassVar[str] = "adamw"
    learning_rate: float | Schedule = 1e-3
    weight_decay: float = 0.01
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        self._check()
        self._check_share("beta_1", "beta_2")
        self._check_epsilon(self.epsilon)
        if not 0 <= self.weight_decay < inf:
            raise ModelError(
                f"adamw: weight_decay is {self.weight_decay!r}, expected 0 or a small positive number"
            )

    @property
    def own_slots(self) -> int:
        """M and V, as in Adam."""
        return 2

    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        np.multiply(W, 1 - rate * self.weight_decay, out=W)
        _adam(self, W, G, state, T, rate, t)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """w -= learning_rate * g / (sqrt(v) + epsilon), with v the mean of g^2; `centered` takes the variance in its place.

    Source: Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013. Momentum in the form of PyTorch.
    """

    kind: ClassVar[str] = "rmsprop"
    learning_rate: float | Schedule = 1e-3
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    def __post_init__(self) -> None:
        self._check()
        self._check_share("rho", "momentum")
        self._check_epsilon(self.epsilon)

    @property
    def own_slots(self) -> int:
        """The mean of g^2; then, if they are used, velocity and the mean of g."""
        return 1 + bool(self.momentum) + self.centered

    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        del t
        V = state[0]
        np.multiply(V, self.rho, out=V)
        np.square(G, out=T)
        np.multiply(T, 1 - self.rho, out=T)
        np.add(V, T, out=V)
        if self.centered:
            A = state[1 + bool(self.momentum)]
            np.subtract(G, A, out=T)
            np.multiply(T, 1 - self.rho, out=T)
            np.add(A, T, out=A)
            np.square(A, out=T)
            np.subtract(V, T, out=T)
            np.maximum(T, 0, out=T)  # rounding may take a variance of 0 below it
            np.sqrt(T, out=T)
        else:
            np.sqrt(V, out=T)
        np.add(T, self.epsilon, out=T)
        np.divide(G, T, out=T)
        if self.momentum:
            velocity = state[1]
            np.multiply(velocity, self.momentum, out=velocity)
            np.copyto(T, np.add(velocity, T, out=velocity))
        np.multiply(T, rate, out=T)
        np.subtract(W, T, out=W)


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """w -= learning_rate * g / (sqrt(v) + epsilon), with v = start + the sum of all g^2.

    Source: Duchi, Hazan & Singer 2011.
    """

    kind: ClassVar[str] = "adagrad"
    learning_rate: float | Schedule = 0.01
    start: float = 0.0
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        self._check()
        self._check_epsilon(self.epsilon)
        if not 0 <= self.start < inf:
            raise ModelError(f"adagrad: start is {self.start!r}, expected 0 or a positive number")

    @property
    def own_slots(self) -> int:
        """The sum of g^2."""
        return 1

    @property
    def rests(self) -> bool:
        """Always."""
        return True

    def new_state(self, size: int, dtype: type = np.float32, arrays: Any = None) -> Array:
        """`start` everywhere. Shapes: (slots * size,)."""
        state = super().new_state(size, dtype, arrays)
        state[:size] = self.start
        return state

    def _block(self, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int) -> None:
        del t
        V = state[0]
        np.square(G, out=T)
        np.add(V, T, out=V)
        np.sqrt(V, out=T)
        np.add(T, self.epsilon, out=T)
        np.divide(G, T, out=T)
        np.multiply(T, rate, out=T)
        np.subtract(W, T, out=W)


def _adam(
    settings: Adam | AdamW, W: Array, G: Array, state: list[Array], T: Array, rate: float, t: int
) -> None:
    """Ten passes per block."""
    M, V = state[:2]
    scale = sqrt((1 - settings.beta_2) / (1 - settings.beta_2**t))
    np.multiply(M, settings.beta_1, out=M)
    np.add(M, G, out=M)
    np.multiply(V, settings.beta_2, out=V)
    np.square(G, out=T)
    np.add(V, T, out=V)
    np.sqrt(V, out=T)
    np.add(T, settings.epsilon / scale, out=T)
    np.divide(M, T, out=T)
    np.multiply(T, rate * (1 - settings.beta_1) / (1 - settings.beta_1**t) / scale, out=T)
    np.subtract(W, T, out=W)
