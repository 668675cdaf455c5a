"""Rows of a training set: their weights by class, and the last ones kept aside to validate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.door import Inputs
from dlflow.nn.model import Model
from dlflow.nn.params import Array

__all__ = ["balanced", "class_weights", "split_rows"]


def balanced(counts: Array) -> tuple[float, ...]:
    """Weights by which every class counts as much as any other, 1 on average over the rows. Shapes: counts (classes,) of their rows.

    >>> balanced(np.array([90, 10]))
    (0.5555555555555556, 5.0)

    Raises: ModelError for a class without rows.
    """
    for number, count in enumerate(counts):
        if not count:
            raise ModelError(
                f"class {number} has no row among {int(counts.sum())}, expected some; balanced weights need every class: give weights"
            )
    return tuple(float(counts.sum()) / (len(counts) * float(count)) for count in counts)


def class_weights(classes: Mapping[int, float] | str, y: Array, model: Model) -> Array:
    """The weight of each position's class; 1 for classes that are not named. "balanced" makes all classes count alike.

    Raises: ModelError for weights that are none, or a class without rows.
    """
    if y.ndim == len(model.out_shape) + 1:  # one-hot rows, or a column of 0 and 1
        y = y[..., 0] if y.shape[-1] == 1 else y.argmax(axis=-1)
    if isinstance(classes, str):
        if classes != "balanced":
            raise ModelError(f"class_weight is {classes!r}, expected 'balanced' or a weight for each class")
        found = np.bincount(y[y >= 0].astype(np.intp), minlength=max(model.out_shape[-1], 2))
        classes = dict(enumerate(balanced(found)))
    made = np.ones(y.shape, model.dtype)
    for number, weight in classes.items():
        if not 0 <= weight < float("inf"):
            raise ModelError(f"class_weight of class {number!r} is {weight!r}, expected 0 or more")
        made[y == number] = weight
    return made


def split_rows(
    X: Inputs, y: Array, weights: Array | None, share: float, given: object
) -> tuple[Inputs, Array, Array | None, tuple[Any, ...]]:
    """The first rows to train on, the last ones to validate.

    Raises: ModelError for a share that is none, or beside validation data.
    """
    if given is not None or not 0 < share < 1:
        raise ModelError(
            f"validation_split is {share!r}, expected a share between 0 and 1 and no validation_data beside it"
        )
    rows = len(y)
    cut = rows - int(rows * share)
    if cut == rows:
        raise ModelError(f"validation_split {share!r} of {rows} rows is no row; give more")
    first, last = (
        tuple(each[part] for each in X) if isinstance(X, tuple) else X[part]
        for part in (slice(cut), slice(cut, None))
    )
    if weights is None:
        return first, y[:cut], None, (last, y[cut:])
    return first, y[:cut], weights[:cut], (last, y[cut:], weights[cut:])
