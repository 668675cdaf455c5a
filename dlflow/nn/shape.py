"""Layers that move or join numbers without learning: Flatten, Reshape, Rescaling, Concatenate, Add."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.layers import Backward, JoinedBackward, Layer
from dlflow.nn.params import Array, Shape, Views, Workspace
from dlflow.nn.streams import Stream

__all__ = ["Add", "Concatenate", "Flatten", "Rescaling", "Reshape"]


def _vectors(X: Array, space: Workspace) -> Array:
    """X as (B, values): a view, or a copy that keeps the samples innermost where they are."""
    if X.flags.c_contiguous or X.ndim == 2:
        return X.reshape(len(X), prod(X.shape[1:]))
    if X.strides[0] != X.itemsize:
        return space.contiguous("Y", X).reshape(len(X), prod(X.shape[1:]))
    inner = X.transpose(*range(1, X.ndim), 0)
    return space.contiguous("Y", inner).reshape(prod(X.shape[1:]), len(X)).T


def _unflattened(dY: Array, shape: Shape) -> Array:
    """A gradient (B, values) as (B, *shape); a view where the samples or the values lie together."""
    if dY.flags.c_contiguous or not dY.flags.f_contiguous:
        return dY.reshape(len(dY), *shape)
    return dY.T.reshape(*shape, len(dY)).transpose(len(shape), *range(len(shape)))


@dataclass(frozen=True)
class Flatten(Layer):
    """Each sample as one vector."""

    kind: ClassVar[str] = "flatten"

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters; all axes become one."""
        return {}, (prod(in_shape),)

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """Time is no axis any more."""
        del X, mask
        return None

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A view of X where its memory allows it."""
        del p, rng
        return _vectors(X, space), lambda dY, _dp, _need_dX: _unflattened(dY, X.shape[1:])


@dataclass(frozen=True)
class Reshape(Layer):
    """Each sample in another shape of as many numbers; one length may be -1."""

    kind: ClassVar[str] = "reshape"
    shape: tuple[int, ...]

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters."""
        known = prod(length for length in self.shape if length != -1)
        shape = self.shape
        if shape.count(-1) == 1 and known > 0 and prod(in_shape) % known == 0:
            shape = tuple(prod(in_shape) // known if length == -1 else length for length in shape)
        if any(length < 1 for length in shape) or prod(shape) != prod(in_shape):
            raise ModelError(
                f"reshape: {prod(in_shape)} numbers of shape {in_shape!r} do not fit {self.shape!r}; correct the shape"
            )
        return {}, shape

    def mask(self, X: Array, mask: Array | None) -> Array | None:
        """Time is not the same axis any more."""
        del X, mask
        return None

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """A view of X where its memory allows it."""
        del p, rng
        flat = _vectors(X, space)
        Y = _unflattened(flat, self.build(X.shape[1:])[1])

        def backward(dY: Array, dp: Views, need_dX: bool) -> Array:
            del dp, need_dX
            return _unflattened(_vectors(dY, space.part("backward")), X.shape[1:])

        return Y, backward


@dataclass(frozen=True)
class Rescaling(Layer):
    """Y = X scale + offset: for pixels from 0 to 255, `Rescaling(1 / 255)` is the first layer."""

    kind: ClassVar[str] = "rescaling"
    scale: float
    offset: float = 0.0

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """No parameters, same shape."""
        return {}, in_shape

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """One product and, if it is not 0, one sum."""
        del p, rng
        Y = np.multiply(X, X.dtype.type(self.scale), out=space.like("Y", X))
        if self.offset:
            Y += X.dtype.type(self.offset)
        return Y, lambda dY, _dp, _need_dX: np.multiply(dY, dY.dtype.type(self.scale), out=dY)


@dataclass(frozen=True)
class Concatenate(Layer):
    """Several inputs side by side on the last axis: for branches of a graph."""

    kind: ClassVar[str] = "concatenate"

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """One input alone stays as it is."""
        return self.build_joined((in_shape,))

    def build_joined(self, in_shapes: tuple[Shape, ...]) -> tuple[dict[str, Shape], Shape]:
        """No parameters; the last axes add up, the others are equal."""
        if not all(in_shapes) or len({shape[:-1] for shape in in_shapes}) != 1:
            raise ModelError(
                f"concatenate: inputs have shapes {', '.join(map(repr, in_shapes))}, expected equal ones but for the last axis; "
                "put Flatten() before it, or a Dense"
            )
        return {}, (*in_shapes[0][:-1], sum(shape[-1] for shape in in_shapes))

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """X itself."""
        del p, rng, space
        return X, lambda dY, _dp, _need_dX: dY

    def forward_joined(
        self, p: Views, Xs: tuple[Array, ...], rng: Stream | None, space: Workspace
    ) -> tuple[Array, JoinedBackward]:
        """One copy."""
        del p, rng
        stops = np.cumsum([X.shape[-1] for X in Xs]).tolist()
        Y = space.array("Y", (*Xs[0].shape[:-1], stops[-1]), Xs[0].dtype)
        for X, stop in zip(Xs, stops, strict=True):
            np.copyto(Y[..., stop - X.shape[-1] : stop], X)

        def backward(dY: Array, dp: Views, need_dX: bool) -> tuple[Array, ...]:
            del dp, need_dX
            made = []
            for number, (X, stop) in enumerate(zip(Xs, stops, strict=True)):
                dX = space.array(f"dX {number}", X.shape, X.dtype)
                np.copyto(dX, dY[..., stop - X.shape[-1] : stop])
                made.append(dX)
            return tuple(made)

        return Y, backward


@dataclass(frozen=True)
class Add(Layer):
    """The sum of several inputs of one shape: for the residual connections of a graph."""

    kind: ClassVar[str] = "add"

    def build(self, in_shape: Shape) -> tuple[dict[str, Shape], Shape]:
        """One input alone stays as it is."""
        return {}, in_shape

    def build_joined(self, in_shapes: tuple[Shape, ...]) -> tuple[dict[str, Shape], Shape]:
        """No parameters, same shape."""
        if len(set(in_shapes)) != 1:
            raise ModelError(
                f"add: inputs have shapes {', '.join(map(repr, in_shapes))}, expected equal ones; bring them to one with Dense"
            )
        return {}, in_shapes[0]

    def forward(self, p: Views, X: Array, rng: Stream | None, space: Workspace) -> tuple[Array, Backward]:
        """X itself."""
        del p, rng, space
        return X, lambda dY, _dp, _need_dX: dY

    def forward_joined(
        self, p: Views, Xs: tuple[Array, ...], rng: Stream | None, space: Workspace
    ) -> tuple[Array, JoinedBackward]:
        """From left to right."""
        del p, rng
        Y = np.add(Xs[0], Xs[1], out=space.like("Y", Xs[0]))
        for X in Xs[2:]:
            np.add(Y, X, out=Y)

        def backward(dY: Array, dp: Views, need_dX: bool) -> tuple[Array, ...]:
            del dp, need_dX
            copies = [space.like(f"dX {number}", dY) for number in range(1, len(Xs))]
            for copy in copies:
                np.copyto(copy, dY)
            return (dY, *copies)

        return Y, backward
