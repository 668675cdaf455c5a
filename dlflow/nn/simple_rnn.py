"""The simple recurrent layer (Elman 1990)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.activations import activation
from dlflow.nn.params import Array, Views
from dlflow.nn.recurrent import Loop, Recurrent

__all__ = ["SimpleRNN"]


@dataclass(frozen=True)
class SimpleRNN(Recurrent):
    """H[t] = activation(X[t] W + H[t-1] U + b)."""

    kind: ClassVar[str] = "simple_rnn"
    activation: str = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not activation(self.activation).elementwise or self.activation == "gelu":
            raise ModelError(
                f"simple_rnn: activation is {self.activation!r}, expected one whose slope follows from its value: 'tanh' or 'relu'"
            )

    def run(
        self, loop: Loop, state: Array | None
    ) -> tuple[Array, Callable[[Array, Views, bool], tuple[Array | None, Array]]]:
        """One gate."""
        function, space = activation(self.activation), loop.space.part("activation")
        loop.start(state, np.ones((1, 1, 1), loop.dtype))
        made = loop.space.array("made", (loop.T, loop.B, loop.H), loop.dtype)
        (H,) = loop.S
        for t in range(loop.T):
            if loop.skip(t):
                continue
            np.copyto(made[t], loop.product(t)[0])
            function.forward(made[t], space)
            np.copyto(H[t + 1], made[t])
            loop.keep(t)

        def cell(t: int, dZ: Array, dS: list[Array]) -> None:
            np.copyto(dZ[0], dS[0])
            function.backward(dZ[0], made[t], space)
            loop.through(dZ, dS[0])

        return loop.output(), lambda dY, dp, need_dX: loop.backward(dY, dp, cell, need_dX=need_dX)
