"""Inputs checked at the door: each is given the form its model computes with, once, or told how to become right.

A model of one input takes an array; a model of several takes a tuple of arrays in their order, or a dict by their names.
"""

import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.choice import suggestion
from dlflow.nn.params import Array, Shape

__all__ = [
    "Inputs",
    "buffers_of",
    "first_bad_row",
    "in_order",
    "rows_of",
    "shaped",
    "take_rows",
    "warn_of_pixels",
]

Inputs: TypeAlias = Array | tuple[Array, ...]


def in_order(X: Any, names: Sequence[str]) -> tuple[Any, ...]:
    """The inputs as a tuple, in the order of the model's names.

    Raises: ModelError for inputs that are missing, or not of this model.
    """
    if isinstance(X, Mapping):
        for name in X:
            if name not in names:
                raise ModelError(f"input {name!r} is none of this model; {suggestion(name, names)}")
        missing = [name for name in names if name not in X]
        if missing:
            raise ModelError(f"input {missing[0]!r} is missing, expected {list(names)!r}; give all of them")
        return tuple(X[name] for name in names)
    if len(names) == 1 and not isinstance(X, tuple):
        return (X,)
    if not isinstance(X, (tuple, list)) or len(X) != len(names):
        got = f"{len(X)} arrays" if isinstance(X, (tuple, list)) else f"a {type(X).__name__}"
        raise ModelError(f"X is {got}, expected {len(names)}: {list(names)!r}; give a tuple in this order")
    return tuple(X)


def shaped(X: Any, expected: Shape, name: str, *, shorter: bool = False) -> Array:
    """X as an array of numbers whose samples have the expected shape; with `shorter` also less along their first axis.

    Raises: ModelError that says how to reshape X.
    """
    X = np.asarray(X)
    if shorter and X.ndim > 1 and 0 < X.shape[1] < expected[0]:
        expected = (X.shape[1], *expected[1:])
    if X.shape[1:] != expected or X.ndim == 0:
        raise ModelError(_shape_problem(X.shape, expected, name))
    if X.dtype.kind not in "biuf":
        raise ModelError(f"{name} is of type {X.dtype}, expected numbers; encode texts and dates first")
    return X


def rows_of(X: Inputs) -> int:
    """How many samples there are.

    Raises: ModelError for inputs of different lengths.
    """
    if not isinstance(X, tuple):
        return len(X)
    lengths = [len(each) for each in X]
    if len(set(lengths)) != 1:
        raise ModelError(
            f"inputs have {lengths!r} rows, expected as many in each; they are read side by side"
        )
    return lengths[0]


def buffers_of(X: Inputs, rows: int) -> Inputs:
    """Arrays to take batches of up to so many rows into."""
    if isinstance(X, tuple):
        return tuple(np.empty((rows, *each.shape[1:]), each.dtype) for each in X)
    return np.empty((rows, *X.shape[1:]), X.dtype)


def take_rows(X: Inputs, at: Array, into: Inputs) -> Inputs:
    """The rows at these places, in the buffers."""
    if isinstance(X, tuple):
        return tuple(
            np.take(each, at, axis=0, out=buffer[: len(at)], mode="clip")
            for each, buffer in zip(X, into, strict=True)
        )
    if isinstance(into, tuple):
        raise TypeError("buffers of several inputs for one")
    return np.take(X, at, axis=0, out=into[: len(at)], mode="clip")


def first_bad_row(X: Inputs) -> tuple[int, int] | None:
    """The first row with nan or inf, and how many there are."""
    bad = np.zeros(rows_of(X), np.bool_)
    for each in X if isinstance(X, tuple) else (X,):
        bad |= ~np.isfinite(each).all(axis=tuple(range(1, each.ndim)))
    return (int(bad.argmax()), int(bad.sum())) if bad.any() else None


def warn_of_pixels(X: Array, name: str) -> None:
    """Warn of images whose pixels go up to 255: training on them is slow or fails, and does not say why."""
    if X.dtype.kind in "uif" and X.ndim >= 3 and len(X):
        some = X[:64]
        if some.min() >= 0 and 100 < some.max() <= 255:
            warnings.warn(
                f"{name} looks like pixels from 0 to 255 (largest of the first rows: {some.max():g}), expected about 0 to 1; "
                "divide by 255, or begin the model with Rescaling(1 / 255)",
                stacklevel=4,
            )


def _shape_problem(shape: Shape, expected: Shape, name: str) -> str:
    """What to do about an input of a wrong shape."""
    rows, sample = shape[:1], shape[1:]
    wanted = f"({', '.join(['n', *map(str, expected)])})"
    if shape == expected:
        advice = f"this is one sample; add the batch axis with {name}[None]"
    elif (*sample, 1) == expected:
        advice = f"the channel axis is missing; add it with {name}[..., None]"
    elif rows and sample == (*expected, 1):
        advice = f"there is an axis too many; take {name}[..., 0]"
    elif rows and len(expected) == 3 and sample == (expected[2], *expected[:2]):
        advice = f"the channels come last here; move them with {name}.transpose(0, 2, 3, 1)"
    elif rows and prod(sample) == prod(expected) and len(expected) == 1:
        advice = f"begin the model with Flatten() or reshape {name} with {name}.reshape(len({name}), -1)"
    elif rows and prod(sample) == prod(expected):
        advice = f"the number of values fits; reshape {name} with {name}.reshape(-1, {', '.join(map(str, expected))})"
    else:
        advice = "give the columns the model was built for, or build it for these"
    return f"{name} has shape {shape!r}, expected {wanted}; {advice}"
