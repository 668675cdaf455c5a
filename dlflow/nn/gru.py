"""Gated recurrent unit, with the reset gate after the product, as PyTorch and Keras (reset_after) have it.

    r, z = sigmoid of their gates                        gates in the order r, z, n
    n = tanh(X W + b + r (H[t-1] U + c))                 c is a bias of its own, within the product with r
    H[t] = (1 - z) n + z H[t-1]

Source: Cho et al. 2014.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.nn.params import Array, Shape, Views
from dlflow.nn.recurrent import Loop, Recurrent
from dlflow.nn.streams import Stream

__all__ = ["GRU"]


@dataclass(frozen=True)
class GRU(Recurrent):
    """Gated recurrent unit; settings and shapes as in `recurrent`, one parameter more: c (H,)."""

    kind: ClassVar[str] = "gru"
    gates: ClassVar[int] = 3

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W, U, b and c."""
        need, shape = super().build(in_shape)
        return need | {"c": (self.units,)}, shape

    def init(self, p: Views, rng: Stream) -> None:
        """As all recurrent layers; c zero."""
        super().init(p, rng)
        p["c"].fill(0)

    def run(
        self, loop: Loop, state: Array | None
    ) -> tuple[Array, Callable[[Array, Views, bool], tuple[Array | None, Array]]]:
        """The recurrent product of n is kept, because r multiplies it."""
        dtype, c = loop.dtype, loop.p["c"]
        loop.start(state, np.array([0.5, 0.5, 1], dtype).reshape(3, 1, 1))
        half = np.array(0.5, dtype)
        Z, (H,) = loop.Z, loop.S
        recalled = loop.space.array("recalled", (loop.T, loop.B, loop.H), dtype)  # H[t-1] U + c of n
        t1 = loop.space.array("t1", (loop.B, loop.H), dtype)
        for t in range(loop.T):
            if loop.skip(t):
                continue
            step = np.matmul(loop.recall(t), loop.U, out=loop.step)
            gates, n = Z[:2, t], Z[2, t]
            np.add(gates, step[:2], out=gates)
            np.tanh(gates, out=gates)
            np.multiply(gates, half, out=gates)
            np.add(gates, half, out=gates)
            r, z = gates
            np.add(step[2], c, out=recalled[t])
            np.multiply(r, recalled[t], out=t1)
            np.add(n, t1, out=n)
            np.tanh(n, out=n)
            np.subtract(H[t], n, out=t1)  # (1 - z) n + z H = n + z (H - n)
            np.multiply(t1, z, out=t1)
            np.add(n, t1, out=H[t + 1])
            loop.keep(t)
        d_recalled = loop.space.array("d recalled", recalled.shape, dtype)
        cell = _cell(loop, recalled, d_recalled)

        def backward(dY: Array, dp: Views, need_dX: bool) -> tuple[Array | None, Array]:
            for t, skipped in enumerate(loop.none_counts):
                if skipped:
                    d_recalled[t] = 0
            made = loop.backward(dY, dp, cell, need_dX=need_dX)
            rows = d_recalled.reshape(-1, loop.H)
            before = H[:-1]
            if loop.drop_H is not None:
                before = np.multiply(before, loop.drop_H, out=loop.space.array("before", before.shape, dtype))
            np.matmul(before.reshape(-1, loop.H).T, rows, out=dp["U"][2])
            np.matmul(loop.space.ones(len(rows), dtype), rows, out=dp["c"])
            return made

        return loop.output(), backward


def _cell(loop: Loop, recalled: Array, d_recalled: Array) -> Callable[[int, Array, list[Array]], None]:
    """The backward pass of one step; fills `d_recalled`, too."""
    Z, (H,), one = loop.Z, loop.S, np.array(1, loop.dtype)
    t1 = loop.space.array("t1", (loop.B, loop.H), loop.dtype)
    t2 = loop.space.array("t2", (2, loop.B, loop.H), loop.dtype)
    through = loop.space.array("through", (3, loop.B, loop.H), loop.dtype)

    def cell(t: int, dZ: Array, dS: list[Array]) -> None:
        (dH,) = dS
        (r, z), n = Z[:2, t], Z[2, t]
        dr, dz, dn = dZ
        np.subtract(H[t], n, out=dz)
        np.multiply(dz, dH, out=dz)
        np.subtract(one, z, out=dn)
        np.multiply(dn, dH, out=dn)
        np.multiply(n, n, out=t1)
        np.subtract(one, t1, out=t1)
        np.multiply(dn, t1, out=dn)
        np.multiply(dn, recalled[t], out=dr)
        np.subtract(one, Z[:2, t], out=t2)
        np.multiply(t2, Z[:2, t], out=t2)
        np.multiply(dZ[:2], t2, out=dZ[:2])
        np.multiply(dn, r, out=d_recalled[t])
        np.copyto(through[:2], dZ[:2])
        np.copyto(through[2], d_recalled[t])
        np.multiply(dH, z, out=t1)
        loop.through(through, dH)
        np.add(dH, t1, out=dH)

    return cell
