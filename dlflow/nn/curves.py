"""What the report draws of a model: its confusion matrix, ROC curve and calibration, from the state of its metrics."""

from typing import Any

import numpy as np

from dlflow.nn.metrics import Binary, Classes, State, confusion

__all__ = ["charts"]


def charts(state: State) -> dict[str, Any]:
    """What the report draws, of plain numbers and lists.

    "confusion": rows are true labels, columns what the model says (label 1 from a score of 0.5);
    "roc": [[false positive rate, true positive rate], ...], at most 200 points, of a binary task with both labels;
    "calibration": [{"predicted", "observed", "rows"}, ...], ten bins of equal width, for "classes" of the first choice.
    """
    match state:
        case Binary():
            return {
                "confusion": confusion(state).tolist(),
                "roc": _roc(state),
                "calibration": _calibration(state),
            }
        case Classes():
            return {"confusion": state.confusion.tolist(), "calibration": _calibration(state.confidence)}
    return {}


def _roc(state: Binary, most: int = 200) -> list[list[float]]:
    falling = np.vstack([[0, 0], np.cumsum(state.counts[::-1], axis=0)])
    zeros, ones = falling[-1].tolist()
    if not zeros or not ones:
        return []
    step = np.diff(falling, axis=0)
    turns = (
        np.flatnonzero(step[1:, 0] * step[:-1, 1] != step[1:, 1] * step[:-1, 0]) + 1
    )  # points on a line add nothing
    kept = np.array([0, *turns.tolist(), len(falling) - 1])
    if len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).round().astype(np.intp)]
    return [[int(fp) / zeros, int(tp) / ones] for fp, tp in falling[kept]]


def _calibration(state: Binary, bins: int = 10) -> list[dict[str, float]]:
    place = np.minimum((state.scores * bins).astype(np.intp), bins - 1)
    rows = state.counts.sum(axis=1)
    totals, ones, scores = (
        np.bincount(place, each, bins) for each in (rows, state.counts[:, 1], rows * state.scores)
    )
    return [
        {
            "predicted": float(scores[b] / totals[b]),
            "observed": float(ones[b] / totals[b]),
            "rows": int(totals[b]),
        }
        for b in np.flatnonzero(totals)
    ]
