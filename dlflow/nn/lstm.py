"""Long short-term memory.

    i, f, o = sigmoid of their gates, g = tanh of its        gates in the order i, f, o, g
    C[t] = f C[t-1] + i g
    H[t] = o tanh(C[t])

sigmoid(z) is 0.5 tanh(0.5 z) + 0.5, and the inner half is folded into W, U and b once per batch: so one tanh does all four gates.

Source: Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 (forget gate, whose bias begins at 1: Jozefowicz et al. 2015).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.nn.params import Array, Views
from dlflow.nn.recurrent import Loop, Recurrent
from dlflow.nn.streams import Stream

__all__ = ["LSTM"]


@dataclass(frozen=True)
class LSTM(Recurrent):
    """Long short-term memory; settings, shapes and states as in `recurrent`."""

    kind: ClassVar[str] = "lstm"
    gates: ClassVar[int] = 4
    states: ClassVar[int] = 2

    def init(self, p: Views, rng: Stream) -> None:
        """As all recurrent layers; it remembers at first."""
        super().init(p, rng)
        p["b"][1] = 1

    def run(
        self, loop: Loop, state: Array | None
    ) -> tuple[Array, Callable[[Array, Views, bool], tuple[Array | None, Array]]]:
        """Ten calls a step forward, about twenty back, all on runs of memory."""
        dtype = loop.dtype
        loop.start(state, np.array([0.5, 0.5, 0.5, 1], dtype).reshape(4, 1, 1))
        half, one = np.array(0.5, dtype), np.array(1, dtype)
        Z, (H, C) = loop.Z, loop.S
        tanh_C = loop.space.array("tanh C", (loop.T, loop.B, loop.H), dtype)
        t1 = loop.space.array("t1", (loop.B, loop.H), dtype)
        t3 = loop.space.array("t3", (3, loop.B, loop.H), dtype)
        for t in range(loop.T):
            if loop.skip(t):
                continue
            z = Z[:, t]
            np.tanh(loop.product(t), out=z)
            gates = z[:3]
            np.multiply(gates, half, out=gates)
            np.add(gates, half, out=gates)
            i, f, o, g = z
            c = C[t + 1]
            np.multiply(f, C[t], out=c)
            np.multiply(i, g, out=t1)
            np.add(c, t1, out=c)
            np.multiply(o, np.tanh(c, out=tanh_C[t]), out=H[t + 1])
            loop.keep(t)

        def cell(t: int, dz: Array, dS: list[Array]) -> None:
            dH, dC = dS
            z, c = Z[:, t], tanh_C[t]
            i, f, o, g = z
            di, df, do, dg = dz
            # dC += dH o (1 - tanh(C)^2), where o tanh(C) is H; of padding dH is 0
            np.multiply(H[t + 1], c, out=t1)
            np.subtract(o, t1, out=t1)
            np.multiply(t1, dH, out=t1)
            np.add(dC, t1, out=dC)
            np.multiply(dC, g, out=di)
            np.multiply(dC, C[t], out=df)
            np.multiply(dH, c, out=do)
            np.multiply(dC, i, out=dg)
            np.subtract(one, z[:3], out=t3)
            np.multiply(t3, z[:3], out=t3)
            np.multiply(dz[:3], t3, out=dz[:3])
            np.multiply(g, g, out=t1)
            np.subtract(one, t1, out=t1)
            np.multiply(dg, t1, out=dg)
            np.multiply(dC, f, out=dC)
            loop.through(dz, dH)

        return loop.output(), lambda dY, dp, need_dX: loop.backward(dY, dp, cell, need_dX=need_dX)
