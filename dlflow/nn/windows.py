"""Windows over images with the samples innermost: what convolutions and pooling share.

Arrays of images have the shape (B, H, W, C) and lie in memory as (C, H, W, B): so each slice of a window is a run of B or more
numbers, and a copy or a sum of slices runs at the speed of the memory. Series (B, T, C) are images of height 1.

Letters: B samples, H height, W width, C channels.
"""

from dataclasses import dataclass

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.layers import at_least_one
from dlflow.nn.params import Array, Shape, Workspace

__all__ = [
    "PADDINGS",
    "Axis",
    "axis_of",
    "check_padding",
    "images",
    "inside",
    "padded",
    "pair",
    "samples_inner",
]

PADDINGS = ("valid", "same")


@dataclass(frozen=True)
class Axis:
    """Windows along one axis: `outputs` of them, each `stride` further, over `before + length + after` numbers."""

    length: int
    outputs: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def padded(self) -> int:
        """Length with the padding."""
        return self.before + self.length + self.after


def axis_of(kind: str, length: int, kernel: int, stride: int, dilation: int, padding: str) -> Axis:
    """The windows along an axis of this length.

    Raises: ModelError if not even one fits.
    Source: "same" as in Keras: ceil(length / stride) outputs, the odd number of zeros at the end.
    """
    reach = (kernel - 1) * dilation + 1
    if padding == "same":
        outputs = -(-length // stride)
        missing = max((outputs - 1) * stride + reach - length, 0)
        return Axis(length, outputs, kernel, stride, dilation, missing // 2, missing - missing // 2)
    if length < reach:
        raise ModelError(
            f"{kind}: a window of {reach} does not fit into {length}; take a smaller one, or padding 'same'"
        )
    return Axis(length, (length - reach) // stride + 1, kernel, stride, dilation, 0, 0)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else value


def check_padding(kind: str, padding: str, **settings: int | tuple[int, int]) -> None:
    """Raises: ModelError for an unknown padding, or a setting that is no whole number of at least 1, or no pair of them."""
    if padding not in PADDINGS:
        raise ModelError(f"{kind}: padding is {padding!r}, expected 'valid' or 'same'")
    for name, value in settings.items():
        if isinstance(value, tuple) and len(value) != 2:
            raise ModelError(f"{kind}: {name} is {value!r}, expected one number or two; height first")
        for number in value if isinstance(value, tuple) else (value,):
            at_least_one(kind, **{name: number})


def images(kind: str, shape: Shape) -> tuple[int, int, int]:
    """Height, width and channels of one sample.

    Raises: ModelError if it is no image.
    """
    if len(shape) == 2:
        raise ModelError(
            f"{kind}: samples have shape {shape!r}, expected (height, width, channels); the channel axis is missing, add it with "
            "X[..., None] or Reshape"
        )
    if len(shape) != 3:
        raise ModelError(f"{kind}: samples have shape {shape!r}, expected (height, width, channels)")
    return shape[0], shape[1], shape[2]


def samples_inner(X: Array, space: Workspace, name: str) -> Array:
    """(B, H, W, C) as a contiguous (C, H, W, B): a view if it lies so, else a copy."""
    return space.contiguous(name, X.transpose(3, 1, 2, 0))


def padded(X: Array, high: Axis, wide: Axis, space: Workspace, name: str, fill: float = 0.0) -> Array:
    """(C, H, W, B) with the padding of both axes around; X itself if there is none."""
    if high.padded == high.length and wide.padded == wide.length:
        return X
    made = space.array(name, (len(X), high.padded, wide.padded, X.shape[3]), X.dtype)
    made.fill(fill)
    np.copyto(inside(made, high, wide), X)
    return made


def inside(X: Array, high: Axis, wide: Axis) -> Array:
    """What is within the padding of (C, H, W, B)."""
    return X[:, high.before : high.before + high.length, wide.before : wide.before + wide.length]
