"""Optimizers: frozen settings whose `step` updates a flat vector in place; all their state is one flat array.

Every operation is elementwise and correctly rounded, so a step on [lo, hi) gives the bits that a step on the whole gives there:
ranks can each own a segment. Work goes through blocks that stay in the cache.

Letters: P parameters, t number of the step, from 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.params import Array, aligned

__all__ = ["SGD", "Adam", "Optimizer"]

BLOCK = (
    1 << 14
)  # floats: 64 KiB of each of w, g, m, v and scratch fit the 1 MiB L2. 407k parameters: 0.38 ms per Adam step


class Optimizer(ABC):
    """How a gradient changes the weights."""

    kind: ClassVar[str]
    learning_rate: float

    @property
    @abstractmethod
    def slots(self) -> int:
        """State values per parameter."""

    @abstractmethod
    def step(self, w: Array, g: Array, state: Array, t: int, *, lo: int = 0, hi: int | None = None) -> None:
        """Update w and state in place on [lo, hi), from the mean gradient g.

        Shapes: w (P,); g (P,), unchanged; state (slots * P,), as `new_state` made it.
        """

    def new_state(self, size: int, dtype: type = np.float32) -> Array:
        """The state before the first step: zeros. Shapes: (slots * size,)."""
        return aligned(self.slots * size, dtype)


def _blocks(size: int, lo: int, hi: int | None) -> Iterator[slice]:
    stop = size if hi is None else hi
    return (slice(start, min(start + BLOCK, stop)) for start in range(lo, stop, BLOCK))


def _check_rate(kind: str, rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise ModelError(f"{kind}: learning_rate is {rate!r}, expected a small positive number such as 0.001")


def _check(kind: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value < high:
        raise ModelError(f"{kind}: {name} is {value!r}, expected {low} <= {name} < {high}")


@dataclass(frozen=True)
class SGD(Optimizer):
    """w -= learning_rate * g; with momentum v = momentum * v + g takes the place of g, with nesterov momentum * v + g.

    Source: Sutskever et al. 2013, in the form of PyTorch, whose state does not depend on the learning rate.
    """

    kind: ClassVar[str] = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.learning_rate)
        _check(self.kind, "momentum", self.momentum, 0, 1)
        if self.nesterov and not self.momentum:
            raise ModelError("sgd: nesterov without momentum changes nothing; give momentum, for example 0.9")

    @property
    def slots(self) -> int:
        """One value of velocity, none without momentum."""
        return 1 if self.momentum else 0

    def step(self, w: Array, g: Array, state: Array, t: int, *, lo: int = 0, hi: int | None = None) -> None:
        """In place on [lo, hi)."""
        del t
        scratch = np.empty(min(len(w), BLOCK), w.dtype)
        for at in _blocks(len(w), lo, hi):
            W, G = w[at], g[at]
            T = scratch[: len(W)]
            if self.momentum:
                V = state[at]
                np.multiply(V, self.momentum, out=V)
                np.add(V, G, out=V)
                G = np.add(np.multiply(V, self.momentum, out=T), G, out=T) if self.nesterov else V
            np.multiply(G, self.learning_rate, out=T)
            np.subtract(W, T, out=W)


@dataclass(frozen=True)
class Adam(Optimizer):
    """w -= learning_rate * m' / (sqrt(v') + epsilon), with m', v' the bias-corrected means of g and g^2.

    The state is M = m / (1 - beta_1), then V = v / (1 - beta_2): two passes fewer.

    Source: Kingma & Ba 2015, algorithm 1.
    """

    kind: ClassVar[str] = "adam"
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        _check_rate(self.kind, self.learning_rate)
        _check(self.kind, "beta_1", self.beta_1, 0, 1)
        _check(self.kind, "beta_2", self.beta_2, 0, 1)
        if not 0 < self.epsilon < float("inf"):
            raise ModelError(
                f"adam: epsilon is {self.epsilon!r}, expected a small positive number such as 1e-7"
            )

    @property
    def slots(self) -> int:
        """M and V."""
        return 2

    def step(self, w: Array, g: Array, state: Array, t: int, *, lo: int = 0, hi: int | None = None) -> None:
        """In place on [lo, hi), ten passes per block."""
        first, second = state[: len(w)], state[len(w) :]
        scale = sqrt((1 - self.beta_2) / (1 - self.beta_2**t))
        rate = self.learning_rate * (1 - self.beta_1) / (1 - self.beta_1**t) / scale
        epsilon = self.epsilon / scale
        scratch = np.empty(min(len(w), BLOCK), w.dtype)
        for at in _blocks(len(w), lo, hi):
            W, G, M, V = w[at], g[at], first[at], second[at]
            T = scratch[: len(W)]
            np.multiply(M, self.beta_1, out=M)
            np.add(M, G, out=M)
            np.multiply(V, self.beta_2, out=V)
            np.square(G, out=T)
            np.add(V, T, out=V)
            np.sqrt(V, out=T)
            np.add(T, epsilon, out=T)
            np.divide(M, T, out=T)
            np.multiply(T, rate, out=T)
            np.subtract(W, T, out=W)
