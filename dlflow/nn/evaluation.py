"""What a model's outputs are worth on labelled rows: the loss, and metrics by their names."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.choice import suggestion
from dlflow.nn.losses import Loss, position_weights
from dlflow.nn.metrics import Classes, numbers, state_of, top_k
from dlflow.nn.params import Array, Workspace

__all__ = ["check_metrics", "measure"]

Line = dict[str, Any]
TOP = re.compile(r"top_([1-9]\d*)_accuracy")
KNOWN = {
    task: [name for name in numbers(state_of(task, scores, np.zeros(0))) if name != "rows"]
    for task, scores in {
        "binary": np.zeros(0),
        "classes": np.zeros((0, 2)),
        "regression": np.zeros(0),
    }.items()
}


def check_metrics(names: Sequence[str], task: str) -> None:
    """Raises: ModelError for a metric that this task does not have."""
    for name in names:
        if name not in KNOWN[task] and not (task == "classes" and TOP.fullmatch(name)):
            more = [*KNOWN[task], "top_3_accuracy"] if task == "classes" else KNOWN[task]
            raise ModelError(f"unknown metric {name!r} for this loss; {suggestion(name, more)}")


def measure(
    loss: Loss, Z: Array, y: Array, weights: Array | None, head: str, names: Sequence[str] = ()
) -> Line:
    """Mean loss without penalties, the accuracy of classes, and the named metrics.

    Loss and accuracy are weighted; the other metrics count every position whose weight and label are not missing or 0 alike.
    """
    made = loss(Z, y, weights, head, Workspace())
    if not made.weight:
        raise ModelError("no row counts: all weights are 0 or all labels missing; give others to evaluate")
    line: Line = {"loss": made.total / made.weight}
    hits = loss.hits(Z, y, weights, head)
    if hits is not None:
        line["accuracy"] = hits.right / hits.counted
    rest = [name for name in names if name not in line]
    if not rest:
        return line
    scores, y, kept = _flat(loss, loss.scores(Z, head), y, position_weights(weights, Z.shape))
    state = state_of(loss.task, scores[kept], y[kept])
    known = numbers(state)
    for name in rest:
        top = TOP.fullmatch(name)
        line[name] = top_k(state, int(top[1])) if top and isinstance(state, Classes) else known[name]
    return line


def _flat(loss: Loss, scores: Array, y: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """Scores, labels and which of them count, one for each number or class vector that is judged."""
    outputs = scores.shape[-1]
    if loss.task == "classes":
        scores = scores.reshape(-1, outputs)
        y = y.reshape(len(scores), -1) if y.size > len(scores) else y.reshape(-1)
        kept = y >= 0 if y.ndim == 1 else np.ones(len(y), np.bool_)
        ignored = getattr(loss, "ignored", None)
        if ignored is not None:
            kept &= y != ignored
    else:
        scores, y = scores.reshape(-1), y.reshape(-1)
        kept = np.isfinite(y)
        weights = None if weights is None else np.repeat(weights, outputs)
    return scores, y, kept if weights is None else kept & (weights > 0)
