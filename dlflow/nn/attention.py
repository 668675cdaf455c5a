"""Multi-head self-attention.

    Q, K, V (B, T, h, k)  = X W + b, one product for all three and all heads
    A (B, h, T, T)        = softmax(Q K.T / sqrt(k)), over the steps that count, with `causal` over none that come later
    Y                     = (A V) of all heads side by side, times O, plus c

Letters: B samples, T steps, E units, h heads, k units of a head.

Source: Vaswani et al. 2017.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.initializers import initializer
from dlflow.nn.layers import Backward, Layer, at_least_one, check_rate, dropout_mask
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.penalties import Penalized
from dlflow.nn.streams import Stream

__all__ = ["MultiHeadAttention"]


@dataclass(frozen=True)
class MultiHeadAttention(Penalized, Layer):
    """Each step looks at the others. `size` is that of one head, by default units / heads; `dropout` is of A.

    Shapes: X (B, T, E) -> (B, T, E); W (E, 3 h k), b (3 h k,), O (h k, E), c (E,).
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

    def _size(self, units: int) -> int:
        return units // self.heads if self.size is None else self.size

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """W, b, O and c; same shape."""
        if len(in_shape) != 2:
            raise ModelError(
                f"{self.kind}: samples have shape {in_shape!r}, expected (time, units); put an Embedding or Dense before it"
            )
        units = in_shape[1]
        if self.size is None and units % self.heads:
            raise ModelError(
                f"{self.kind}: {units} units do not divide into {self.heads} heads; change one, or give size"
            )
        inner = self.heads * self._size(units)
        need: dict[str, Shape] = {
            "W": (units, 3 * inner),
            "b": (3 * inner,),
            "O": (inner, units),
            "c": (units,),
        }
        return need, in_shape

    def init(self, p: Views, rng: Stream) -> None:
        """Glorot, for each of the products alone; biases zero."""
        units, inner = p["O"].shape[1], p["O"].shape[0]
        made = initializer("glorot_uniform")
        for part in range(4):
            stream = Stream(rng.seed, rng.purpose, rng.step, rng.shard, rng.layer + (part << 32))
            if part == 3:
                p["O"][...] = made((inner, units), stream)
            else:
                p["W"][:, part * inner : (part + 1) * inner] = made((units, inner), stream)
        p["b"].fill(0)
        p["c"].fill(0)

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Four products, and a softmax in place."""
        B, T, E = X.shape
        h, k = self.heads, self._size(E)
        rows = space.contiguous("X", X).reshape(-1, E)
        made = np.matmul(rows, p["W"], out=space.array("QKV", (B * T, 3 * h * k), X.dtype))
        np.add(made, p["b"], out=made)
        Q, K, V = made.reshape(B, T, 3, h, k).transpose(2, 0, 3, 1, 4)
        scale = X.dtype.type(k**-0.5)
        A = np.matmul(Q, K.transpose(0, 1, 3, 2), out=space.array("A", (B, h, T, T), X.dtype))
        A *= scale
        lowest = np.finfo(X.dtype).min / 2
        if self.causal:
            A += np.triu(np.full((T, T), lowest, X.dtype), 1)
        if space.mask is not None:
            A += np.where(space.mask, X.dtype.type(0), X.dtype.type(lowest))[:, None, None, :]
        A -= A.max(axis=-1, keepdims=True)
        np.exp(A, out=A)
        A /= A.sum(axis=-1, keepdims=True)
        seen, drop = A, None
        if rng is not None and self.dropout:
            drop = dropout_mask(A.shape, self.dropout, rng, space, X.dtype)
            seen = np.multiply(A, drop, out=space.array("A dropped", A.shape, X.dtype))
        joined = space.array("joined", (B, T, h, k), X.dtype)
        np.matmul(seen, V, out=joined.transpose(0, 2, 1, 3))
        flat = joined.reshape(B * T, h * k)
        Y = np.matmul(flat, p["O"], out=space.array("Y", rows.shape, X.dtype))
        np.add(Y, p["c"], out=Y)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            d = space.contiguous("dY", dY).reshape(rows.shape)
            ones = space.ones(len(d), X.dtype)
            np.matmul(flat.T, d, out=dp["O"])
            np.matmul(ones, d, out=dp["c"])
            d_joined = np.matmul(d, p["O"].T, out=space.array("d joined", flat.shape, X.dtype))
            dO = d_joined.reshape(B, T, h, k).transpose(0, 2, 1, 3)
            d_made = space.array("dQKV", made.shape, X.dtype)
            dQ, dK, dV = d_made.reshape(B, T, 3, h, k).transpose(2, 0, 3, 1, 4)
            np.matmul(seen.transpose(0, 1, 3, 2), dO, out=dV)
            dA = np.matmul(dO, V.transpose(0, 1, 3, 2), out=space.array("dA", A.shape, X.dtype))
            if drop is not None:
                dA *= drop
            product = np.multiply(dA, A, out=space.array("A dA", A.shape, X.dtype))
            dA -= product.sum(axis=-1, keepdims=True)
            dA *= A
            dA *= scale
            np.matmul(dA, K, out=dQ)
            np.matmul(dA.transpose(0, 1, 3, 2), Q, out=dK)
            np.matmul(rows.T, d_made, out=dp["W"])
            np.matmul(ones, d_made, out=dp["b"])
            if not need_dX:
                return None
            dX = np.matmul(d_made, p["W"].T, out=space.array("dX", rows.shape, X.dtype))
            return dX.reshape(X.shape)

        return Y.reshape(X.shape), backward
