"""Labels checked at the door: each function gives the labels in the form its loss computes with, or says what is wrong.

Letters: B samples, O outputs.
"""

from math import prod

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.params import Array, Shape

__all__ = ["class_numbers", "distributions", "probabilities", "targets"]


def class_numbers(y: Array, out_shape: Shape, *, ignored: int | None = None) -> Array:
    """Whole numbers from 0 to classes - 1, where classes is the last length of `out_shape`; or `ignored`.

    Shapes: (B, *out_shape[:-1]), intp; from that or with one more axis of length 1, of integers or of floats that are whole.
    Raises: ModelError with the first bad row.
    """
    y, classes, positions = _numbers(y), out_shape[-1], out_shape[:-1]
    if y.shape[1:] == (*positions, 1):
        y = y[..., 0]
    if y.shape[1:] != positions:
        advice = (
            "use loss 'categorical_cross_entropy' for one-hot labels"
            if y.shape[1:] == out_shape
            else "give one per position, or add Flatten before the last layer"
            if positions
            else "give one per row"
        )
        raise ModelError(
            f"labels have shape {y.shape!r}, expected class numbers of shape {(len(y), *positions)!r}; {advice}"
        )
    expected = f"a whole number from 0 to {classes - 1}"
    if y.dtype.kind == "f":
        _refuse(y, y != np.floor(y), expected, "for measured values use 'mean_squared_error'")
        _refuse(y, ~np.isfinite(y), expected, "drop or correct the row")
    if y.size and not (y.min() >= 0 and y.max() < classes):
        advice = f"number the classes from 0, or give the last layer more than {classes} units"
        wrong = (y < 0) | (y >= classes)
        if ignored is not None:
            wrong &= y != ignored
        _refuse(y, wrong, f"a class from 0 to {classes - 1}", advice)
    return y.astype(np.intp, copy=False)


def probabilities(y: Array, out_shape: Shape, dtype: np.dtype, *, missing: bool = False) -> Array:
    """Numbers from 0 to 1; nan too if labels may be `missing`.

    Shapes: (B, O); from (B, O), or (B,) if O is 1.
    Raises: ModelError with the first bad row.
    """
    y = _like_outputs(
        _numbers(y), out_shape, dtype, "0 or 1 for each output; for one of several classes use another loss"
    )
    if y.size and not (y.min() >= 0 and y.max() <= 1):
        advice = (
            "map -1 to 0" if y.min() == -1 else "for class numbers use 'sparse_categorical_cross_entropy'"
        )
        wrong = ~((y >= 0) & (y <= 1))
        if missing:
            wrong &= ~np.isnan(y)
        _refuse(y, wrong, "a number from 0 to 1", advice)
    return y


def distributions(y: Array, out_shape: Shape, dtype: np.dtype) -> Array:
    """One-hot rows, or probabilities that sum to 1.

    Shapes: (B, O).
    Raises: ModelError with the first bad row.
    """
    y, classes = _numbers(y), out_shape[-1]
    if y.shape[1:] != out_shape and y.shape[1:] in {(), (1,)} and y.dtype.kind in "iu":
        raise ModelError(
            f"labels are class numbers of shape {y.shape!r}, expected one-hot rows of shape ({len(y)}, {classes}); "
            f"use loss 'sparse_categorical_cross_entropy' or numpy.eye({classes})[y]"
        )
    y = _like_outputs(
        y, out_shape, dtype, "one-hot rows; use loss 'sparse_categorical_cross_entropy' for class numbers"
    )
    _refuse(y, ~(y >= 0), "a share from 0 to 1", "make the rows one-hot")
    sums = y.sum(axis=-1)
    _refuse(
        sums,
        ~(np.abs(sums - 1) < 1e-3),
        "a row that sums to 1",
        "use 'binary_cross_entropy' for several labels per row",
    )
    return y


def targets(y: Array, out_shape: Shape, dtype: np.dtype, *, missing: bool = False) -> Array:
    """Any finite numbers; nan too if labels may be `missing`.

    Shapes: (B, *out_shape); from that, or (B,) if there is one output.
    Raises: ModelError with the first bad row.
    """
    y = _like_outputs(
        _numbers(y), out_shape, dtype, "one number for each output; change the units of the last layer"
    )
    if not np.isfinite(y).all():
        wrong = np.isinf(y) if missing else ~np.isfinite(y)
        _refuse(y, wrong, "a finite number", "drop or correct the row")
    return y


def _numbers(y: Array) -> Array:
    y = np.asarray(y)
    if y.dtype.kind not in "biuf":
        first = y.reshape(-1)[0] if y.size else None
        raise ModelError(
            f"labels are of type {y.dtype} (first {first!r}), expected numbers; number the classes from 0"
        )
    if y.ndim == 0:
        raise ModelError(f"labels are one number ({y!r}), expected an array with one label per row of X")
    return y


def _like_outputs(y: Array, out_shape: Shape, dtype: np.dtype, expected: str) -> Array:
    if y.shape[1:] == out_shape or (y.ndim == 1 and prod(out_shape) == 1):
        return y.astype(dtype, copy=False).reshape(len(y), *out_shape)
    outputs = (len(y), *out_shape)
    raise ModelError(f"labels have shape {y.shape!r}, the model's output {outputs!r}; expected {expected}")


def _refuse(y: Array, bad: Array, expected: str, advice: str) -> None:
    if not bad.any():
        return
    row = int(np.argwhere(bad)[0][0])
    value = y[row][bad[row]].reshape(-1)[0].item() if y.ndim > 1 else y[row].item()
    raise ModelError(
        f"label of row {row} is {value!r} ({int(bad.sum())} such), expected {expected}; {advice}"
    )
