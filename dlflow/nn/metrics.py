"""Metrics of a model as mergeable states: each part of the rows makes one, and merged they are that of all rows.

    state = merge(state_of("binary", scores, y), state_of("binary", more_scores, more_y))
    numbers(state)                  {"auc": 0.91, "accuracy": 0.88, "log_loss": 0.3, ...}
    curves.charts(state)            {"roc": ..., "calibration": ..., "confusion": ...} for the report

Counts merge exactly. Sums of float64 merge to rounding; to have the same bits for any number of workers, cut the rows the
same way and merge in the order of the parts.

The area under the ROC curve needs all scores, so a binary state holds how many rows of each label have each distinct score.

Letters: n rows, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dlflow.errors import ModelError
from dlflow.nn.choice import choose

__all__ = [
    "Binary",
    "Classes",
    "Regression",
    "by_class",
    "confusion",
    "evaluate",
    "merge",
    "merge_slices",
    "numbers",
    "slices",
    "state_of",
    "top_k",
]

Array: TypeAlias = npt.NDArray[Any]
Numbers: TypeAlias = dict[str, float | None]

SMALLEST = float(
    np.finfo(np.float32).eps
)  # probabilities are clipped here for the log loss, as scikit-learn clips float32


@dataclass(frozen=True, eq=False)
class Binary:
    """Rows of label 0 and 1 at each distinct score; the scores are probabilities of label 1.

    Shapes: scores (m,) float64, rising; counts (m, 2) int64.
    """

    scores: Array
    counts: Array


@dataclass(frozen=True, eq=False)
class Classes:
    """The confusion matrix, the sum of the log losses, and more.

    `confidence` is a binary state of "was the first choice right?" for calibration, `ranks` how many rows have their class as
    first, second, ... choice.

    Shapes: confusion (K, K) int64, a row per true class; ranks (K,) int64.
    """

    confusion: Array
    log_loss: float
    confidence: Binary
    ranks: Array


@dataclass(frozen=True)
class Regression:
    """Sums over the rows from which mean errors and R2 follow; merged by the formulas of Chan et al. 1979."""

    rows: int
    squares: float  # sum of (score - y)^2
    absolutes: float  # sum of |score - y|
    mean: float  # of y
    spread: float  # sum of (y - mean)^2


State: TypeAlias = Binary | Classes | Regression


def evaluate(task: str, scores: Array, y: Array) -> Numbers:
    """The metrics of all rows at once.

    Shapes: scores (n,) or (n, 1) probabilities of label 1 for "binary", (n, K) probabilities for "classes", (n,) or (n, O)
        values for "regression"; y (n,), or (n, O).
    Raises: ModelError for an unknown task and for scores and labels that do not fit.
    """
    return numbers(state_of(task, scores, y))


def state_of(task: str, scores: Array, y: Array) -> State:
    """The state of some rows; of none too. Shapes and errors as `evaluate`."""
    makers: dict[str, Callable[[Array, Array], State]] = {
        "binary": _binary,
        "classes": _classes,
        "regression": _regression,
    }
    make = choose(task, makers, "task")
    scores, y = np.asarray(scores), np.asarray(y)
    if len(scores) != len(y):
        raise ModelError(f"{len(scores)} scores for {len(y)} labels; give one score per row")
    bad = ~np.isfinite(scores.astype(np.float64)).all(axis=tuple(range(1, scores.ndim)))
    if bad.any():
        raise ModelError(
            f"score of row {int(bad.argmax())} is not finite ({int(bad.sum())} rows); the model or its input holds nan"
        )
    return make(scores, y)


def merge(left: State, right: State) -> State:
    """The state of the rows of both.

    Raises: ModelError if they are of different tasks.
    """
    match left, right:
        case Binary(), Binary():
            return _join(
                np.concatenate([left.scores, right.scores]), np.concatenate([left.counts, right.counts])
            )
        case Classes(), Classes() if left.confusion.shape == right.confusion.shape:
            confusion, log_loss = left.confusion + right.confusion, left.log_loss + right.log_loss
            confidence = _both(left.confidence, right.confidence)
            return Classes(confusion, log_loss, confidence, left.ranks + right.ranks)
        case Regression(), Regression():
            return _add(left, right)
    raise ModelError(
        f"metrics of {type(left).__name__} and {type(right).__name__} cannot be merged; they are of different models"
    )


def numbers(state: State) -> Numbers:
    """The metrics by name; None where they are not defined (AUC of one class, anything of no rows)."""
    match state:
        case Binary():
            return _binary_numbers(state)
        case Classes():
            return _classes_numbers(state)
    return _regression_numbers(state)


def confusion(state: Binary) -> Array:
    """Rows are true labels, columns what the model says: label 1 from a score of 0.5. Shapes: (2, 2)."""
    split = int(np.searchsorted(state.scores, 0.5))
    below, above = state.counts[:split].sum(axis=0), state.counts[split:].sum(axis=0)
    return np.stack([below, above], axis=1)


def by_class(state: Classes) -> list[dict[str, float]]:
    """Precision, recall, F1 and true rows of each class, in order; 0 where nothing was said or true, as scikit-learn has it."""
    said, true = state.confusion.sum(axis=0), state.confusion.sum(axis=1)
    return [
        {
            "precision": right / max(s, 1),
            "recall": right / max(t, 1),
            "f1": 2 * right / max(s + t, 1),
            "rows": t,
        }
        for right, s, t in zip(np.diag(state.confusion).tolist(), said.tolist(), true.tolist(), strict=True)
    ]


def top_k(state: Classes, k: int) -> float | None:
    """Share of the rows whose class is among the k most probable; of equal ones the lower class comes first.

    Raises: ModelError for a k below 1.
    """
    if k < 1:
        raise ModelError(f"top_k: k is {k!r}, expected at least 1")
    return _share(int(state.ranks[:k].sum()), int(state.ranks.sum()))


def slices(task: str, scores: Array, y: Array, keys: Array) -> dict[Any, State]:
    """The states of the rows with each key: of a country, a device, an age group. Merge them key by key with `merge_slices`.

    Shapes: keys (n,).
    """
    keys = np.asarray(keys)
    if keys.shape != (len(scores),):
        raise ModelError(f"keys have shape {keys.shape!r}, expected ({len(scores)},); give one per row")
    return {key.item(): state_of(task, scores[keys == key], y[keys == key]) for key in np.unique(keys)}


def merge_slices(left: Mapping[Any, State], right: Mapping[Any, State]) -> dict[Any, State]:
    """The slices of the rows of both."""
    both = dict(left)
    for key, state in right.items():
        both[key] = merge(both[key], state) if key in both else state
    return both


def _binary(scores: Array, y: Array) -> Binary:
    if scores.size != y.size:
        raise ModelError(f"scores have shape {scores.shape!r}, labels {y.shape!r}; give one score per label")
    scores, y = scores.reshape(-1).astype(np.float64), y.reshape(-1)
    _refuse((scores < 0) | (scores > 1), scores, "score", "a probability from 0 to 1")
    _refuse((y != 0) & (y != 1), y, "label", "0 or 1")
    return _join(scores, np.stack([y == 0, y == 1], axis=1).astype(np.int64))


def _classes(scores: Array, y: Array) -> Classes:
    if scores.ndim != 2:
        raise ModelError(
            f"scores have shape {scores.shape!r}, expected (n, classes); give one probability per class"
        )
    classes = scores.shape[1]
    if y.shape == scores.shape:
        y = y.argmax(axis=1)
    y = y.reshape(-1)
    _refuse(~np.isin(y, np.arange(classes)), y, "label", f"a class from 0 to {classes - 1}")
    y = y.astype(np.intp)
    said, rows = scores.argmax(axis=1), np.arange(len(y))
    confusion = np.bincount(y * classes + said, minlength=classes * classes).reshape(classes, classes)
    given = np.clip(scores[rows, y].astype(np.float64), SMALLEST, 1)
    confidence = np.clip(scores[rows, said], 0, 1)
    truth = scores[rows, y][:, None]
    # ties go to the lower class, as argmax has them
    before = (scores > truth) | ((scores == truth) & (np.arange(classes) < y[:, None]))
    ranks = np.bincount(before.sum(axis=1), minlength=classes)
    return Classes(confusion, float(-np.log(given).sum()), _binary(confidence, said == y), ranks)


def _regression(scores: Array, y: Array) -> Regression:
    if scores.size != y.size:
        raise ModelError(f"scores have shape {scores.shape!r}, labels {y.shape!r}; give one score per label")
    scores, y = scores.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    _refuse(~np.isfinite(y), y, "label", "a finite number")
    if not len(y):
        return Regression(0, 0.0, 0.0, 0.0, 0.0)
    errors, mean = scores - y, float(y.mean())
    return Regression(
        len(y), float(errors @ errors), float(np.abs(errors).sum()), mean, float(np.square(y - mean).sum())
    )


def _refuse(bad: Array, values: Array, what: str, expected: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ModelError(
            f"{what} of row {row} is {values[row].item()!r} ({int(bad.sum())} such), expected {expected}; correct it"
        )


def _join(scores: Array, counts: Array) -> Binary:
    """Equal scores become one entry."""
    distinct, place = np.unique(scores, return_inverse=True)
    sums = np.zeros((len(distinct), 2), np.int64)
    for label in (0, 1):
        np.add.at(sums[:, label], place, counts[:, label])
    return Binary(distinct, sums)


def _both(left: Binary, right: Binary) -> Binary:
    return _join(np.concatenate([left.scores, right.scores]), np.concatenate([left.counts, right.counts]))


def _add(left: Regression, right: Regression) -> Regression:
    rows = left.rows + right.rows
    if not left.rows or not right.rows:
        return left if left.rows else right
    step = right.mean - left.mean
    return Regression(
        rows,
        left.squares + right.squares,
        left.absolutes + right.absolutes,
        left.mean + step * right.rows / rows,
        left.spread + right.spread + step * step * left.rows * right.rows / rows,
    )


def _binary_numbers(state: Binary) -> Numbers:
    (tn, fp), (fn, tp) = confusion(state).tolist()
    rows = tn + fp + fn + tp
    p = np.clip(state.scores, SMALLEST, 1 - SMALLEST)
    losses = state.counts[:, 0] @ -np.log1p(-p) + state.counts[:, 1] @ -np.log(p)
    squares = state.counts[:, 0] @ np.square(state.scores) + state.counts[:, 1] @ np.square(1 - state.scores)
    return {
        "auc": _auc(state),
        "accuracy": _share(tn + tp, rows),
        "log_loss": _share(float(losses), rows),
        "brier": _share(float(squares), rows),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "base_rate": _share(fn + tp, rows),
        "rows": rows,
    }


def _classes_numbers(state: Classes) -> Numbers:
    rows = int(state.confusion.sum())
    right = np.diag(state.confusion)
    each = by_class(state)
    return {
        "accuracy": _share(int(right.sum()), rows),
        "log_loss": _share(state.log_loss, rows),
        **{
            f"macro_{name}": float(np.mean([line[name] for line in each])) if rows else None
            for name in ("f1", "precision", "recall")
        },
        "base_rate": _share(int(state.confusion.sum(axis=1).max()), rows),
        "rows": rows,
    }


def _regression_numbers(state: Regression) -> Numbers:
    mse = _share(state.squares, state.rows)
    return {
        "mse": mse,
        "rmse": None if mse is None else sqrt(mse),
        "mae": _share(state.absolutes, state.rows),
        "r2": 1 - state.squares / state.spread if state.spread > 0 else None,
        "rows": state.rows,
    }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _auc(state: Binary) -> float | None:
    """How often a row of label 1 scores above a row of label 0, ties counting half; in whole numbers, so exact."""
    zeros, ones = state.counts[:, 0], state.counts[:, 1]
    pairs = int(zeros.sum()) * int(ones.sum())
    twice = int(ones @ (2 * np.cumsum(zeros) - zeros))
    return twice / (2 * pairs) if pairs else None
