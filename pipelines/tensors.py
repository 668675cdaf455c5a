"""Tensor columns (images, windows of a series) as inputs of a model: as they are, or as scaled numbers.

A tensor is a fixed-size binary value whose field says dtype, shape and perhaps scale, what a reader multiplies with.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.errors import InputError, SpecError
from pipelines.fields import combined
from pipelines.stage import Sketch
from pipelines.sums import SCALE, exact_sum

__all__ = ["Channels", "Form", "Inputs", "Tensor", "numbers_of", "scaled"]


@dataclass(frozen=True)
class Form:
    """What the field of a tensor column says of its values."""

    dtype: str
    shape: tuple[int, ...]
    scale: float | None

    @staticmethod
    def of(field: pa.Field) -> "Form | None":
        """None if it is no column of tensors."""
        metadata = field.metadata or {}
        if not pa.types.is_fixed_size_binary(field.type) or b"shape" not in metadata:
            return None
        scale = metadata.get(b"scale")
        return Form(
            metadata[b"dtype"].decode(),
            tuple(json.loads(metadata[b"shape"])),
            None if scale is None else float(scale),
        )


@dataclass(frozen=True)
class Inputs:
    """What a model reads of some rows: `x` as stored, with dtype and scale, and the names of its numbers, if they have some."""

    x: np.ndarray  # (rows, *shape), float32, or as stored with `scale`, or int32 tokens
    names: tuple[str, ...] | None
    scale: float | None = None

    @property
    def field(self) -> pa.Field:
        """The column that holds them."""
        shape = list(self.x.shape[1:])
        metadata = {"dtype": self.x.dtype.name, "shape": json.dumps(shape)}
        if self.names is not None:
            metadata["names"] = json.dumps(list(self.names))
        if self.scale is not None:
            metadata["scale"] = repr(self.scale)
        width = self.x.dtype.itemsize * int(np.prod(shape))
        return pa.field("x", pa.binary(width), nullable=False, metadata=metadata)

    def column(self) -> pa.Array:
        """The values of that column."""
        buffer = pa.py_buffer(np.ascontiguousarray(self.x))
        return pa.FixedSizeBinaryArray.from_buffers(self.field.type, len(self.x), [None, buffer])


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """The tensor itself, its numbers times `scale` (default: what its column says); a row without one is set aside.

    scale = "standard": of each channel (the last axis; of a vector of the whole) the mean of the training rows is taken
    away, and its standard deviation divided by. As the only column it keeps its shape, else it becomes a row of numbers.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("tensor",)

    encode: Literal["tensor"] = "tensor"
    scale: float | Literal["standard"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.scale, float) and (self.scale == 0 or not np.isfinite(self.scale)):
            raise SpecError(f"tensor: scale = {self.scale}: expected a number other than 0")

    def sketch(self, column: str) -> Sketch | None:
        """Sums of each channel, for scale = "standard"."""
        return Channels(column) if self.scale == "standard" else None

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The scale, or mean and deviation of each channel."""
        made: dict[str, Any] = {"encode": "tensor", "column": column}
        if self.scale == "standard":
            if not fitted["count"]:
                raise InputError(
                    f"features: column {column!r} has no value in the training rows; take it out"
                )
            return {**made, "means": fitted["means"], "stds": [std or 1.0 for std in fitted["stds"]]}
        return {**made, "scale": self.scale}


@dataclass(frozen=True)
class Channels:
    """Mean and standard deviation of every channel of a tensor, in two rounds of exact sums."""

    column: str

    def sketch(self, table: pa.Table, request: Mapping[str, Any] | None) -> tuple[int, list[int]]:
        """Values of one channel, and its sum, or the sum of squared distances from the mean."""
        values, there = numbers_of(table, self.column)
        channels = _channels(values[there]).astype(np.float64)
        if request is not None:
            channels = np.square(channels - request["means"])
        return len(channels), [exact_sum(np.ascontiguousarray(one)) for one in channels.T]

    def merge(self, left: tuple[int, list[int]], right: tuple[int, list[int]]) -> tuple[int, list[int]]:
        """The sums of both."""
        return left[0] + right[0], [one + other for one, other in zip(left[1], right[1], strict=True)]

    def finish(self, state: tuple[int, list[int]], request: Mapping[str, Any] | None) -> tuple[bool, Any]:
        """{"count", "means", "stds"}."""
        count, sums = state
        if request is not None:
            stds = [sqrt(one / (max(count - 1, 1) << SCALE)) for one in sums]
            return True, {**request, "stds": stds}
        if not count:
            return True, {"count": 0, "means": [], "stds": []}
        return False, {"count": count, "means": [one / (count << SCALE) for one in sums]}


def _channels(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1]) if values.ndim > 2 else values.reshape(-1, 1)


def numbers_of(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The tensors as they are stored, 0 where one is missing, and where there is one. Shapes: (rows, *shape), (rows,)."""
    form = Form.of(table.schema.field(column))
    if form is None:
        raise AssertionError(column)
    values = combined(table[column])
    there = ~np.asarray(values.is_null().to_numpy(zero_copy_only=False))
    width = prod(form.shape)
    dtype = np.dtype(form.dtype).newbyteorder("<")
    if not len(values):
        return np.zeros((0, *form.shape), dtype), there
    flat = np.frombuffer(
        values.buffers()[1], dtype, len(values) * width, values.offset * width * dtype.itemsize
    )
    return flat.reshape(len(values), *form.shape), there


def scaled(table: pa.Table, recipe: Mapping[str, Any]) -> np.ndarray:
    """The tensors as float32 numbers, scaled. Shapes: (rows, *shape)."""
    values, _ = numbers_of(table, recipe["column"])
    if "means" in recipe:
        flat = _channels(values).astype(np.float64)
        made = (flat - np.array(recipe["means"])) / np.array(recipe["stds"])
        return made.reshape(values.shape).astype(np.float32)
    form = Form.of(table.schema.field(recipe["column"]))
    scale = recipe["scale"] or (form.scale if form is not None else None) or 1.0
    return np.multiply(values, np.float32(scale), dtype=np.float32, casting="unsafe")
