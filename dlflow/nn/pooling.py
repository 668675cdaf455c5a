"""Pooling over windows of images and series, and over all of them.

Each number of the output is the maximum or the mean of a window; windows may overlap, and with padding "same" they may reach
over the edge: what is outside counts neither for the maximum nor for the mean. Letters: as in `windows`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.layers import Backward, Layer
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.streams import Stream
from dlflow.nn.windows import Axis, axis_of, check_padding, images, inside, padded, pair, samples_inner

__all__ = [
    "AveragePooling1D",
    "AveragePooling2D",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "MaxPooling1D",
    "MaxPooling2D",
]


def _slices(X: Array, high: Axis, wide: Axis) -> list[Array]:
    """X (C, H, W, B) once for each place of a window: the numbers that all windows have there."""
    return [
        X[
            :,
            i : i + (high.outputs - 1) * high.stride + 1 : high.stride,
            j : j + (wide.outputs - 1) * wide.stride + 1 : wide.stride,
        ]
        for i in range(high.kernel)
        for j in range(wide.kernel)
    ]


def _maximum(X: Array, high: Axis, wide: Axis, space: Workspace) -> tuple[Array, Backward]:
    """Maxima of the windows of images; the gradient goes to the first that has the maximum."""
    whole = padded(samples_inner(X, space, "X"), high, wide, space, "padded", -np.inf)
    parts = _slices(whole, high, wide)
    Y = space.array("Y", parts[0].shape, X.dtype)
    np.copyto(Y, parts[0])
    for part in parts[1:]:
        np.maximum(Y, part, out=Y)

    def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
        del dp
        if not need_dX:
            return None
        rest = samples_inner(dY, space, "dY")
        dX = space.array("dX", whole.shape, X.dtype)
        dX.fill(0)
        here = space.array("here", Y.shape, np.bool_)
        won = space.array("won", Y.shape, X.dtype)
        for part, to in zip(parts, _slices(dX, high, wide), strict=True):
            np.equal(part, Y, out=here)
            np.multiply(rest, here, out=won)
            np.subtract(rest, won, out=rest)  # exact: each gradient goes to one place whole
            np.add(to, won, out=to)
        return inside(dX, high, wide).transpose(3, 1, 2, 0)

    return Y.transpose(3, 1, 2, 0), backward


def _mean(X: Array, high: Axis, wide: Axis, space: Workspace) -> tuple[Array, Backward]:
    """Means of the windows of images, over what is inside."""
    whole = padded(samples_inner(X, space, "X"), high, wide, space, "padded")
    parts = _slices(whole, high, wide)
    Y = space.array("Y", parts[0].shape, X.dtype)
    np.copyto(Y, parts[0])
    for part in parts[1:]:
        np.add(Y, part, out=Y)
    counts = np.outer(_counts(high), _counts(wide))[None, :, :, None]
    share = (1 / counts).astype(X.dtype)
    np.multiply(Y, share, out=Y)

    def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
        del dp
        if not need_dX:
            return None
        d = samples_inner(dY, space, "dY")
        np.multiply(d, share, out=d)
        dX = space.array("dX", whole.shape, X.dtype)
        dX.fill(0)
        for to in _slices(dX, high, wide):
            np.add(to, d, out=to)
        return inside(dX, high, wide).transpose(3, 1, 2, 0)

    return Y.transpose(3, 1, 2, 0), backward


def _counts(axis: Axis) -> Array:
    """How many numbers of each window are inside."""
    starts = np.arange(axis.outputs) * axis.stride - axis.before
    return np.minimum(starts + axis.kernel, axis.length) - np.maximum(starts, 0)


@dataclass(frozen=True)
class _Pooling2D(Layer):
    """Windows of `size`, each `stride` (by default `size`) further."""

    size: int | tuple[int, int] = 2
    stride: int | tuple[int, int] | None = None
    padding: str = "valid"

    def __post_init__(self) -> None:
        check_padding(
            self.kind,
            self.padding,
            size=self.size,
            stride=self.size if self.stride is None else self.stride,
        )

    @property
    def apart(self) -> bool:
        """No two windows meet, and none reaches over the edge."""
        stride = self.size if self.stride is None else self.stride
        return pair(self.size) == pair(stride) and self.padding == "valid"

    def axes(self, in_shape: Shape) -> tuple[Axis, Axis]:
        """The windows along the height and along the width."""
        height, width, _ = images(self.kind, in_shape)
        (k1, k2), (s1, s2) = pair(self.size), pair(self.size if self.stride is None else self.stride)
        return (
            axis_of(self.kind, height, k1, s1, 1, self.padding),
            axis_of(self.kind, width, k2, s2, 1, self.padding),
        )

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters; as many channels."""
        high, wide = self.axes(in_shape)
        return {}, (high.outputs, wide.outputs, in_shape[2])


@dataclass(frozen=True)
class MaxPooling2D(_Pooling2D):
    """The maximum of each window of images (height, width, channels)."""

    kind: ClassVar[str] = "max_pooling2d"

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """After a convolution it costs no pass of its own: the two become one."""
        del p, rng
        return _maximum(X, *self.axes(X.shape[1:]), space)


@dataclass(frozen=True)
class AveragePooling2D(_Pooling2D):
    """The mean of each window of images (height, width, channels)."""

    kind: ClassVar[str] = "average_pooling2d"

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A sum of slices."""
        del p, rng
        return _mean(X, *self.axes(X.shape[1:]), space)


def _series(kind: str, shape: Shape) -> None:
    if len(shape) != 2:
        raise ModelError(f"{kind}: samples have shape {shape!r}, expected (time, channels); reshape X")


@dataclass(frozen=True)
class _Pooling1D(Layer):
    """Windows of `size` steps, each `stride` (by default `size`) further."""

    size: int = 2
    stride: int | None = None
    padding: str = "valid"

    def __post_init__(self) -> None:
        check_padding(
            self.kind,
            self.padding,
            size=self.size,
            stride=self.size if self.stride is None else self.stride,
        )

    def axes(self, in_shape: Shape) -> tuple[Axis, Axis]:
        """The windows along a height of 1 and along time."""
        _series(self.kind, in_shape)
        stride = self.size if self.stride is None else self.stride
        return (
            axis_of(self.kind, 1, 1, 1, 1, "valid"),
            axis_of(self.kind, in_shape[0], self.size, stride, 1, self.padding),
        )

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters; as many channels."""
        return {}, (self.axes(in_shape)[1].outputs, in_shape[1])

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """A window sees several steps: all count."""
        del X, mask
        return None

    @abstractmethod
    def images(self, X: Array, space: Workspace) -> tuple[Array, Backward]:
        """The same on images of height 1."""

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """As images of height 1."""
        del p, rng
        Y, back = self.images(X[:, None], space)

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array | None:
            dX = back(dY[:, None], dp, need_dX)
            return None if dX is None else dX[:, 0]

        return Y[:, 0], backward


@dataclass(frozen=True)
class MaxPooling1D(_Pooling1D):
    """The maximum of each window of series (time, channels)."""

    kind: ClassVar[str] = "max_pooling1d"

    def images(self, X: Array, space: Workspace) -> tuple[Array, Backward]:
        """Maxima."""
        return _maximum(X, *self.axes(X.shape[2:]), space)


@dataclass(frozen=True)
class AveragePooling1D(_Pooling1D):
    """The mean of each window of series (time, channels)."""

    kind: ClassVar[str] = "average_pooling1d"

    def images(self, X: Array, space: Workspace) -> tuple[Array, Backward]:
        """Means."""
        return _mean(X, *self.axes(X.shape[2:]), space)


@dataclass(frozen=True)
class _Global(Layer):
    """One number for each channel, from all places."""

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters; (channels,)."""
        if self.kind.endswith("2d"):
            images(self.kind, in_shape)
        else:
            _series(self.kind, in_shape)
        return {}, in_shape[-1:]

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """Time is no axis any more."""
        del X, mask
        return None


@dataclass(frozen=True)
class _GlobalAverage(_Global):
    """The mean over all places; over the time steps that count, where a mask is given."""

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A sum over what counts, divided by how many."""
        del p, rng
        places = tuple(range(1, X.ndim - 1))
        if space.mask is None:
            weights: Array | np.floating = X.dtype.type(
                1 / max(np.prod([X.shape[axis] for axis in places]), 1)
            )
            Y = X.sum(axis=places)
            Y *= weights
        else:
            counted = space.mask.astype(X.dtype)
            shares = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1)
            weights = shares[:, :, None]
            Y = np.matmul(shares[:, None], X)[:, 0]

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array:
            del dp, need_dX
            dX = space.like("dX", X)
            np.multiply(np.expand_dims(dY, places), weights, out=dX)
            return dX

        return Y, backward


@dataclass(frozen=True)
class GlobalAveragePooling1D(_GlobalAverage):
    """The mean of series (time, channels) over the time steps that count."""

    kind: ClassVar[str] = "global_average_pooling1d"


@dataclass(frozen=True)
class GlobalAveragePooling2D(_GlobalAverage):
    """The mean of images (height, width, channels) over all places."""

    kind: ClassVar[str] = "global_average_pooling2d"


@dataclass(frozen=True)
class _GlobalMax(_Global):
    """The maximum over all places; over the time steps that count, where a mask is given."""

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """The gradient goes to the first place that has the maximum."""
        del p, rng
        seen = X
        if space.mask is not None:
            seen = space.array("seen", X.shape, X.dtype)
            np.copyto(seen, X)
            seen[~space.mask] = np.finfo(X.dtype).min
        flat = seen.reshape(len(X), -1, X.shape[-1])
        first = flat.argmax(axis=1)[:, None]
        Y = np.take_along_axis(flat, first, axis=1)[:, 0]

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array:
            del dp, need_dX
            dX = space.array("dX", flat.shape, X.dtype)
            dX.fill(0)
            np.put_along_axis(dX, first, dY[:, None], axis=1)
            return dX.reshape(X.shape)

        return Y, backward


@dataclass(frozen=True)
class GlobalMaxPooling1D(_GlobalMax):
    """The maximum of series (time, channels) over the time steps that count."""

    kind: ClassVar[str] = "global_max_pooling1d"


@dataclass(frozen=True)
class GlobalMaxPooling2D(_GlobalMax):
    """The maximum of images (height, width, channels) over all places."""

    kind: ClassVar[str] = "global_max_pooling2d"
