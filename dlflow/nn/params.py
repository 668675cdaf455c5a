"""All parameters of a model in one flat, aligned vector, named by views; and work arrays that are made once.

    w = |  W (784, 512)  |  b (512,)  |  W (512, 10)  |  b (10,)  |          parameters (P,)
    g = | dW             | db         | dW            | db        | loss sum | weight sum |    message (P + 2,)

So to send, average, update, save or compare a model is one operation on one array.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALIGNMENT",
    "Array",
    "Shape",
    "Slot",
    "Views",
    "Workspace",
    "Zeros",
    "aligned",
    "memory_order",
    "slots_of",
    "views",
]

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Views: TypeAlias = dict[str, Array]
Zeros: TypeAlias = Callable[[int, npt.DTypeLike], Array]
"""Makes an aligned vector of so many zeros, as `aligned` does, but where somebody wants it."""

ALIGNMENT = 64  # bytes: a cache line, and the widest vector register


def aligned(size: int, dtype: npt.DTypeLike = np.float32, arrays: Any = None) -> Array:
    """A vector of zeros that starts on a 64-byte boundary, so that every process computes with the same alignment.

    `arrays` is the module that makes it, None for NumPy; where another one aligns is its own affair.
    """
    if arrays is not None and arrays is not np:
        made: Array = arrays.zeros(size, dtype)
        return made
    n_bytes = size * np.dtype(dtype).itemsize
    raw = np.zeros(n_bytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + n_bytes].view(dtype)


def memory_order(X: Array) -> tuple[int, ...]:
    """The axes of X, the one with the largest stride first."""
    return tuple(sorted(range(X.ndim), key=lambda axis: (-X.strides[axis], axis)))


@dataclass(frozen=True)
class Slot:
    """Where one parameter lies in the flat vector: `w[start:stop].reshape(shape)` is `name` of layer `layer`."""

    layer: int
    name: str
    shape: Shape
    start: int
    stop: int


def slots_of(needs: Sequence[Mapping[str, Shape]]) -> tuple[Slot, ...]:
    """The places of all parameters, layer by layer, in the order of each layer's dict, without gaps."""
    slots, start = [], 0
    for layer, need in enumerate(needs):
        for name, shape in need.items():
            slots.append(Slot(layer, name, tuple(shape), start, start + prod(shape)))
            start += prod(shape)
    return tuple(slots)


def views(flat: Array, slots: Sequence[Slot], n_layers: int) -> tuple[Views, ...]:
    """One dict of named, reshaped views of `flat` per layer; no copies."""
    named: tuple[Views, ...] = tuple({} for _ in range(n_layers))
    for slot in slots:
        named[slot.layer][slot.name] = flat[slot.start : slot.stop].reshape(slot.shape)
    return named


class Workspace:
    """Work arrays by name, made once and reused: a training step then allocates nothing large.

    An array is made for the largest size asked for; smaller requests (a tail batch) get the beginning of it. Its content is
    what was left there. Whoever asks again for the same name gets the same memory: a value lives until the next forward pass.

    `mask` comes with the input of a layer: which time steps count, (B, T) bool, or None for all; `masks` with its several inputs.
    `carried` is what a stateful layer hands on to the next batch. `rows` goes with the gradient of its
    tables (see `Layer.tables`): by parameter name, the rows that the last backward pass has written.

    `arrays` is the module that makes the arrays, None for NumPy: a module cannot be pickled, and models are.
    """

    def __init__(self, arrays: Any = None) -> None:
        self.arrays = arrays
        self.mask: Array | None = None
        self.masks: tuple[Array | None, ...] = ()
        self.carried: Array | None = None
        self.rows: dict[str, Array] = {}
        self._flat: dict[str, Array] = {}
        self._shaped: dict[str, Array] = {}
        self._parts: dict[str, Workspace] = {}
        self._ones = (arrays or np).ones(0)

    def part(self, name: str) -> "Workspace":
        """The workspace of a layer within this layer."""
        return self._parts.setdefault(name, Workspace(self.arrays))

    def like(self, name: str, X: Array, shape: Shape | None = None) -> Array:
        """A work array of the shape of X (or another of as many axes) with its axes in memory as those of X lie."""
        shape = X.shape if shape is None else shape
        if X.flags.c_contiguous:
            return self.array(name, shape, X.dtype)
        return self.ordered(name, shape, memory_order(X), X.dtype)

    def ordered(self, name: str, shape: Shape, order: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """A work array of this shape whose axes lie in memory in this order, the last one innermost."""
        made = self.array(name, tuple(shape[axis] for axis in order), dtype)
        return made.transpose(np.argsort(order))

    def contiguous(self, name: str, X: Array) -> Array:
        """X itself if its memory is in the order of its axes and without gaps, else a copy that is."""
        if X.flags.c_contiguous:
            return X
        made = self.array(name, X.shape, X.dtype)
        np.copyto(made, X)
        return made

    def array(self, name: str, shape: Shape, dtype: npt.DTypeLike = np.float32) -> Array:
        """The work array of this name; its content is arbitrary."""
        last = self._shaped.get(name)
        if last is not None and last.shape == shape and last.dtype == dtype:
            return last
        size, flat = prod(shape), self._flat.get(name)
        if flat is None or flat.size < size or flat.dtype != dtype:
            flat = self._flat[name] = aligned(size, dtype, self.arrays)
        made = self._shaped[name] = flat[:size].reshape(shape)
        return made

    def ones(self, size: int, dtype: npt.DTypeLike = np.float32) -> Array:
        """A vector of ones: `ones @ dY` is the bias gradient, twice as fast as `dY.sum(0)`."""
        if self._ones.size < size or self._ones.dtype != dtype:
            self._ones = (self.arrays or np).ones(size, dtype)
        return self._ones[:size]
