"""Multi-head attention: of a sequence to itself, or to another one.

    Q, K, V (B, T, h, k)  = X W + b, one product for all three and all heads
    A (B, h, T, T)        = softmax(Q K.T / sqrt(k)), over the steps that count, with `causal` over none that come later
    Y                     = (A V) of all heads side by side, times O, plus c

In a graph it may read two sequences: the steps of the first ask (Q = X W + b), those of the second answer (K, V = M N + n).

Letters: B samples, T steps, E units, h heads, k units of a head; S steps and F units of the second sequence M.

Source: Vaswani et al. 2017.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.initializers import initializer
from dlflow.nn.layers import Backward, JoinedBackward, Layer, at_least_one, check_rate, dropout_mask
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalized
from dlflow.nn.streams import Stream

__all__ = ["MultiHeadAttention"]


@dataclass(frozen=True)
class MultiHeadAttention(Penalized, Layer):
    """Each step looks at the others. `size` is that of one head, by default units / heads; `dropout` is of A.

    Shapes: X (B, T, E) -> (B, T, E); W (E, 3 h k), b (3 h k,), O (h k, E), c (E,). With a second sequence M (B, S, F): W (E, h k),
    b (h k,), N (F, 2 h k), n (2 h k,), O and c.
    """

    kind: ClassVar[str] = "multi_head_attention"
    kernels: ClassVar[tuple[str, ...]] = ("W", "O")
    heads: int
    size: int | None = None
    causal: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least_one(self.kind, heads=self.heads)
        self.check_penalties()
        if self.size is not None:
            at_least_one(self.kind, size=self.size)
        check_rate(self.kind, "dropout", self.dropout)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W, b, O and c; same shape."""
        inner = self._inner(in_shape)
        units = in_shape[1]
        need: dict[str, Shape] = {
            "W": (units, 3 * inner),
            "b": (3 * inner,),
            "O": (inner, units),
            "c": (units,),
        }
        return need, in_shape

    def build_joined(self, in_shapes: tuple[Shape, ...]) -> tuple[dict[str, Shape], Shape]:
        """W, b, N, n, O and c; the shape of the first sequence."""
        if len(in_shapes) != 2 or len(in_shapes[1]) != 2:
            raise ModelError(
                f"{self.kind}: inputs have shapes {', '.join(map(repr, in_shapes))}, expected two sequences (time, units): "
                "the one that asks, then the one that answers"
            )
        if self.causal:
            raise ModelError(
                f"{self.kind}: causal with two sequences, expected one; a step of the first has no place among those of the second"
            )
        inner, units = self._inner(in_shapes[0]), in_shapes[0][1]
        need: dict[str, Shape] = {
            "W": (units, inner),
            "b": (inner,),
            "N": (in_shapes[1][1], 2 * inner),
            "n": (2 * inner,),
            "O": (inner, units),
            "c": (units,),
        }
        return need, in_shapes[0]

    def init(self, p: Views, rng: Stream) -> None:
        """Glorot, for each of the products alone; biases zero."""
        inner, made = p["O"].shape[0], initializer("glorot_uniform")
        products = [
            p[name][:, at : at + inner]
            for name in "WN"
            if name in p
            for at in range(0, p[name].shape[1], inner)
        ]
        for part, product in enumerate([*products, p["O"]]):
            product[...] = made(
                product.shape, Stream(rng.seed, rng.purpose, rng.step, rng.shard, rng.layer + (part << 32))
            )
        for name in {"b", "n", "c"} & p.keys():
            p[name].fill(0)

    def mask_joined(self, Xs: tuple[Array, ...], masks: tuple[Array | None, ...]) -> Array | None:
        """That of the sequence that asks."""
        return self.mask(Xs[0], masks[0])

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Four products, and a softmax in place."""
        B, T, E = X.shape
        h, k = self.heads, len(p["O"]) // self.heads
        rows = space.contiguous("X", X).reshape(-1, E)
        made = np.matmul(rows, p["W"], out=space.array("QKV", (B * T, 3 * h * k), X.dtype))
        np.add(made, p["b"], out=made)
        Q, K, V = made.reshape(B, T, 3, h, k).transpose(2, 0, 3, 1, 4)
        Y, back = self._attend(p, Q, K, V, space.mask, rng, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            d_made = space.array("dQKV", made.shape, X.dtype)
            back(dY, dp, *d_made.reshape(B, T, 3, h, k).transpose(2, 0, 3, 1, 4))
            return _project_back(space, rows, p["W"], d_made, dp, ("W", "b"), X.shape if need_dX else None)

        return Y.reshape(X.shape), backward

    def forward_joined(
        self, p: Views, Xs: tuple[Array, ...], rng: Stream | None, space: Workspace
    ) -> tuple[Array, JoinedBackward]:
        """One product more: the sequences are two."""
        (X, M), (B, T, E) = Xs, Xs[0].shape
        S, h, k = M.shape[1], self.heads, len(p["O"]) // self.heads
        rows, others = (
            space.contiguous(name, each).reshape(-1, each.shape[2]) for name, each in (("X", X), ("M", M))
        )
        asked = np.matmul(rows, p["W"], out=space.array("Q", (B * T, h * k), X.dtype))
        np.add(asked, p["b"], out=asked)
        given = np.matmul(others, p["N"], out=space.array("KV", (B * S, 2 * h * k), X.dtype))
        np.add(given, p["n"], out=given)
        Q, (K, V) = (
            asked.reshape(B, T, h, k).transpose(0, 2, 1, 3),
            given.reshape(B, S, 2, h, k).transpose(2, 0, 3, 1, 4),
        )
        Y, back = self._attend(p, Q, K, V, space.masks[1], rng, space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> tuple[Array, ...] | None:
            d_asked, d_given = (
                space.array("dQ", asked.shape, X.dtype),
                space.array("dKV", given.shape, X.dtype),
            )
            dQ = d_asked.reshape(B, T, h, k).transpose(0, 2, 1, 3)
            back(dY, dp, dQ, *d_given.reshape(B, S, 2, h, k).transpose(2, 0, 3, 1, 4))
            dX = _project_back(space, rows, p["W"], d_asked, dp, ("W", "b"), X.shape if need_dX else None)
            dM = _project_back(space, others, p["N"], d_given, dp, ("N", "n"), M.shape if need_dX else None)
            return None if dX is None or dM is None else (dX, dM)

        return Y.reshape(B, T, E), backward

    def _inner(self, in_shape: Shape) -> int:
        """Units of all heads."""
        if len(in_shape) != 2:
            raise ModelError(
                f"{self.kind}: samples have shape {in_shape!r}, expected (time, units); put an Embedding or Dense before it"
            )
        units = in_shape[1]
        if self.size is None and units % self.heads:
            raise ModelError(
                f"{self.kind}: {units} units do not divide into {self.heads} heads; change one, or give size"
            )
        return self.heads * (units // self.heads if self.size is None else self.size)

    def _attend(
        self,
        p: Views,
        Q: Array,
        K: Array,
        V: Array,
        counts: Array | None,
        rng: Stream | None,
        space: Workspace,
    ) -> tuple[Array, Callable[[Array, Views, Array, Array, Array], None]]:
        """What the steps of K and V that count answer to Q, which is scaled in place; `back(dY, dp, dQ, dK, dV)` fills the last three.

        A lies with the step that answers first: a softmax over rows is twice as fast as one along them.

        Shapes: Q (B, h, T, k), K, V (B, h, S, k), counts (B, S); Y (B T, E).
        """
        (B, h, T, k), S, dtype = Q.shape, K.shape[2], Q.dtype
        scale = dtype.type(k**-0.5)
        np.multiply(Q, scale, out=Q)
        A = np.matmul(K, Q.transpose(0, 1, 3, 2), out=space.array("A", (B, h, S, T), dtype))
        lowest = dtype.type(np.finfo(dtype).min / 2)
        if self.causal:
            A += np.tril(np.full((T, T), lowest, dtype), -1)
        if counts is not None:
            A += np.where(counts, dtype.type(0), lowest)[:, None, :, None]
        A -= A.max(axis=2, keepdims=True)
        np.exp(A, out=A)
        A /= A.sum(axis=2, keepdims=True)
        seen, drop = A, None
        if rng is not None and self.dropout:
            drop = dropout_mask(A.shape, self.dropout, rng, space, dtype)
            seen = np.multiply(A, drop, out=space.array("A dropped", A.shape, dtype))
        joined = space.array("joined", (B, T, h, k), dtype)
        np.matmul(seen.transpose(0, 1, 3, 2), V, out=joined.transpose(0, 2, 1, 3))
        flat = joined.reshape(B * T, h * k)
        Y = np.matmul(flat, p["O"], out=space.array("Y", (B * T, p["O"].shape[1]), dtype))
        np.add(Y, p["c"], out=Y)

        def back(dY: Array, dp: Views, dQ: Array, dK: Array, dV: Array) -> None:
            d = space.contiguous("dY", dY).reshape(Y.shape)
            np.matmul(flat.T, d, out=dp["O"])
            np.matmul(space.ones(len(d), dtype), d, out=dp["c"])
            d_joined = np.matmul(d, p["O"].T, out=space.array("d joined", flat.shape, dtype))
            dO = d_joined.reshape(B, T, h, k).transpose(0, 2, 1, 3)
            np.matmul(seen, dO, out=dV)
            dA = np.matmul(V, dO.transpose(0, 1, 3, 2), out=space.array("dA", A.shape, dtype))
            if drop is not None:
                dA *= drop
            # the sum of dA A over the answering steps is that of dO O over the units: k numbers instead of S (Dao et al. 2022)
            product = np.multiply(d_joined, flat, out=space.array("dO O", flat.shape, dtype))
            along = product.reshape(-1, k) @ space.ones(k, dtype)
            dA -= along.reshape(B, T, h).transpose(0, 2, 1)[:, :, None]
            dA *= A
            np.matmul(dA.transpose(0, 1, 3, 2), K, out=dQ)
            dQ *= scale
            np.matmul(dA, Q, out=dK)

        return Y, back


def _project_back(
    space: Workspace, rows: Array, W: Array, d: Array, dp: Views, names: tuple[str, str], shape: Shape | None
) -> Array | None:
    """The gradients of rows W + b: of W and b into dp, of the rows (in this shape) if a shape is given."""
    weights, bias = names
    np.matmul(rows.T, d, out=dp[weights])
    np.matmul(space.ones(len(d), d.dtype), d, out=dp[bias])
    if shape is None:
        return None
    return np.matmul(d, W.T, out=space.array(f"d rows {weights}", rows.shape, d.dtype)).reshape(shape)
