"""Normalisation: mean 0 and variance 1, then a learned scale and shift.

BatchNormalization under data-parallel training: every logical shard of a batch normalises with its own mean and variance (Hoffer et
al. 2017 call it ghost batch normalisation), so no shard waits for another in the middle of a step, and the bits are the same
on any number of workers, because the shards are. The running mean and variance are parameters in w that no gradient moves: each
shard's statistics ride in the message in the place of their gradient, are averaged there with all others, and every worker
then moves them by the same amount. So they are sent, saved, resumed and compared with w, and nothing else needs to know.
"""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.layers import Backward, Layer
from dlflow.nn.params import Array, Shape, Views, Workspace, memory_order
from dlflow.nn.streams import Stream

__all__ = ["BatchNormalization", "LayerNormalization"]


def _check_epsilon(kind: str, epsilon: float) -> None:
    if not 0 < epsilon < 1:
        raise ModelError(f"{kind}: epsilon is {epsilon!r}, expected a small positive number such as 1e-5")


@dataclass(frozen=True)
class BatchNormalization(Layer):
    """Each channel (last axis) with mean 0 and variance 1 over the shard in training, over what was seen so far else.

    `momentum` is the share of the old running value that a step keeps. Running variances are of the unbiased kind, so
    that they do not depend on how small the shards are.

    Source: Ioffe & Szegedy 2015.
    """

    kind: ClassVar[str] = "batch_normalization"
    momentum: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_epsilon(self.kind, self.epsilon)
        if not 0 <= self.momentum < 1:
            raise ModelError(f"{self.kind}: momentum is {self.momentum!r}, expected 0 <= momentum < 1")

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """scale, shift, running mean and variance, all (C,); same shape."""
        if not in_shape:
            raise ModelError(
                f"{self.kind}: samples are single numbers, expected vectors; reshape X to (n, 1)"
            )
        each = in_shape[-1:]
        return {"scale": each, "shift": each, "mean": each, "variance": each}, in_shape

    def init(self, p: Views, rng: Stream) -> None:
        """Changes nothing at first."""
        del rng
        for name, value in {"scale": 1, "shift": 0, "mean": 0, "variance": 1}.items():
            p[name].fill(value)

    def statistics(self) -> dict[str, float]:
        """The running mean and variance."""
        return {"mean": 1 - self.momentum, "variance": 1 - self.momentum}

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Over all axes but the last."""
        # numbers in the order of the memory: the channels lie first there (after a convolution) or last
        order, last = memory_order(X), X.ndim - 1
        if last not in {order[0], order[-1]}:
            order = tuple(range(X.ndim))
        first = order[0] == last
        flat = space.contiguous("X", X.transpose(order))
        C, N = X.shape[-1], prod(X.shape[:-1])
        rows = flat.reshape((C, N) if first else (N, C))
        scale, shift = (p[name][:, None] if first else p[name] for name in ("scale", "shift"))

        def total(M: Array) -> Array:
            ones = space.ones(N, M.dtype)
            return (M @ ones)[:, None] if first else ones @ M

        H, Y = (space.array(name, rows.shape, X.dtype) for name in ("H", "Y"))
        if rng is None or not N:
            mean, variance = p["mean"], p["variance"]
            seen = {"mean": mean, "variance": variance} if N else {}
            if first:
                mean, variance = mean[:, None], variance[:, None]
            np.subtract(rows, mean, out=H)
        else:
            mean = total(rows) / N
            np.subtract(rows, mean, out=H)
            variance = total(np.square(H, out=Y)) / N
            seen = {"mean": mean.ravel(), "variance": variance.ravel() * (N / max(N - 1, 1))}
        inverse = 1 / np.sqrt(variance + X.dtype.type(self.epsilon))
        H *= inverse
        np.multiply(H, scale, out=Y)
        Y += shift

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            for name in ("mean", "variance"):
                dp[name][...] = seen.get(name, 0)
            d = space.contiguous("dY", dY.transpose(order)).reshape(rows.shape)
            product = np.multiply(d, H, out=space.array("dH", rows.shape, X.dtype))
            d_scale, d_shift = total(product), total(d)
            dp["scale"][...], dp["shift"][...] = d_scale.ravel(), d_shift.ravel()
            if not need_dX:
                return None
            if rng is not None and N:  # the mean and the variance move with X, too
                d -= d_shift / N
                d -= np.multiply(H, d_scale / N, out=product)
            d *= scale * inverse
            return d.reshape(flat.shape).transpose(np.argsort(order))

        return Y.reshape(flat.shape).transpose(np.argsort(order)), backward


@dataclass(frozen=True)
class LayerNormalization(Layer):
    """Each vector (last axis) of each sample with mean 0 and variance 1.

    Source: Ba, Kiros & Hinton 2016.
    """

    kind: ClassVar[str] = "layer_normalization"
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        _check_epsilon(self.kind, self.epsilon)

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """Scale and shift (C,); same shape."""
        if not in_shape:
            raise ModelError(
                f"{self.kind}: samples are single numbers, expected vectors; reshape X to (n, 1)"
            )
        return {"scale": in_shape[-1:], "shift": in_shape[-1:]}, in_shape

    def init(self, p: Views, rng: Stream) -> None:
        """Scale 1, shift 0."""
        del rng
        p["scale"].fill(1)
        p["shift"].fill(0)

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """Over the last axis."""
        del rng
        C = X.shape[-1]
        rows = space.contiguous("X", X).reshape(-1, C)
        ones = space.ones(C, X.dtype)
        H = np.subtract(rows, (rows @ ones / C)[:, None], out=space.array("H", rows.shape, X.dtype))
        square = np.square(H, out=space.array("dH", rows.shape, X.dtype))
        inverse = (1 / np.sqrt(square @ ones / C + X.dtype.type(self.epsilon)))[:, None]
        H *= inverse
        Y = np.multiply(H, p["scale"], out=space.array("Y", rows.shape, X.dtype))
        Y += p["shift"]

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            d = space.contiguous("dY", dY).reshape(rows.shape)
            product = np.multiply(d, H, out=space.array("dH", rows.shape, X.dtype))
            over_rows = space.ones(len(rows), X.dtype)
            np.matmul(over_rows, product, out=dp["scale"])
            np.matmul(over_rows, d, out=dp["shift"])
            if not need_dX:
                return None
            d *= p["scale"]
            np.multiply(d, H, out=product)
            means = space.ones(C, X.dtype)
            along = (product @ means / C)[:, None]
            d -= (d @ means / C)[:, None]
            d -= np.multiply(H, along, out=product)
            d *= inverse
            return d.reshape(X.shape)

        return Y.reshape(X.shape), backward
