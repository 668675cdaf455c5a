"""How good a model is: metrics of every set and of slices of the test rows, charts, baselines, and a verdict in words."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlflow.data import Dataset, TableFile
from dlflow.errors import ModelError
from dlflow.nn.curves import charts
from dlflow.nn.metrics import State, merge, merge_slices, numbers, slices, state_of
from flows.baselines import Baseline, compare
from flows.beside import beside
from pipelines.access import store_of
from pipelines.features import SPLIT, TEST, TRAIN, VALIDATION
from pipelines.storage import TableRef

__all__ = ["Scores", "Sets", "evaluation", "sets_of", "verdict"]

SHOWN = {"binary": "auc", "classes": "accuracy", "regression": "r2"}  # the metric that says most, by task
OVERFIT = 0.05  # gap of that metric between training and validation rows from which we speak of over-fitting
SLICES = 50  # values of a column that are told apart, the most frequent first; the others together

Scores = Callable[[np.ndarray], np.ndarray]
"""Inputs (n, *shape) to what the metrics take: probabilities (n,) or (n, classes), values (n,)."""


@dataclass(frozen=True)
class Sets:
    """The rows of the feature table, by their part in training."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None

    def all(self) -> dict[str, Dataset]:
        """Those that have rows."""
        found = {TRAIN: self.train, VALIDATION: self.validation, TEST: self.test}
        return {name: dataset for name, dataset in found.items() if dataset is not None}


def sets_of(ref: TableRef) -> Sets:
    """The rows of a table of features.

    Raises: ModelError if there are no training rows, or a file of no part.
    """
    files: dict[str, list[TableFile]] = {part: [] for part in (TRAIN, VALIDATION, TEST)}
    for file in ref.files:
        part = file.partition(SPLIT)
        if part not in files:
            raise ModelError(
                f"table {ref.name!r}: a file has {SPLIT} = {part!r}, expected one of {', '.join(files)}; "
                f'add the step {{ do = "split", ... }} before features, and partition_by = ["{SPLIT}"]'
            )
        files[part].append(TableFile(file.path, file.row_groups, store_of(file.path), file.file.sha256))
    if not files[TRAIN]:
        raise ModelError(f"table {ref.name!r} has no row with {SPLIT} = {TRAIN!r}; correct the split step")
    found = {part: Dataset(tuple(each)) if each else None for part, each in files.items()}
    train = found[TRAIN]
    if train is None:
        raise AssertionError(ref.name)
    return Sets(train, found[VALIDATION], found[TEST])


def evaluation(
    scores: Scores,
    task: str,
    sets: Sets,
    *,
    baselines: tuple[Baseline, ...],
    sliced: tuple[str, ...],
    outputs: int,
) -> dict[str, Any]:
    """Metrics on every set, charts and slices of the test rows (or the best that there is), baselines on the test rows.

    Raises: ModelError for a column that is not there, and as `compare`.
    """
    states = {part: _state(scores, task, dataset) for part, dataset in sets.all().items()}
    shown = TEST if sets.test is not None else VALIDATION if sets.validation is not None else TRAIN
    drawn = charts(states[shown])
    compared = sets.test or sets.validation
    metrics = {part: numbers(state) for part, state in states.items()}
    return {
        "task": task,
        "metrics": metrics,
        "confusion": drawn.get("confusion"),
        "roc": drawn.get("roc"),
        "calibration": drawn.get("calibration"),
        "baselines": compare(baselines, task, sets.train, compared, outputs) if compared is not None else [],
        "slices": {column: _slices(scores, task, sets.all()[shown], column) for column in sliced},
        "verdict": verdict(metrics, task),
    }


def _state(scores: Scores, task: str, dataset: Dataset) -> State:
    total: State | None = None
    for number, file in enumerate(dataset.files):
        for group in range(len(file.row_groups)):
            X, y = dataset.group(number, group)
            state = state_of(task, scores(X), y)
            total = state if total is None else merge(total, state)
    if total is None:
        raise ModelError("there are no rows to evaluate; look at the split")
    return total


def _slices(scores: Scores, task: str, dataset: Dataset, column: str) -> list[dict[str, Any]]:
    """`{"value", ...metrics}` of the rows with each value of a column, the most frequent first."""
    values = beside(dataset, column)
    keys = np.array(["(missing)" if value is None or value != value else str(value) for value in values])  # noqa: PLR0124 - nan
    total: dict[Any, State] = {}
    first = 0
    for number, file in enumerate(dataset.files):
        for group in range(len(file.row_groups)):
            X, y = dataset.group(number, group)
            part = slices(task, scores(X), y, keys[first : first + len(y)])
            total, first = merge_slices(total, part), first + len(y)
    made = {value: numbers(state) for value, state in total.items()}
    order = sorted(made, key=lambda value: (-(made[value]["rows"] or 0), value))
    lines = [{"value": value, **made[value]} for value in order[:SLICES]]
    if rest := order[SLICES:]:
        others = functools.reduce(merge, (total[value] for value in rest))
        lines.append({"value": f"({len(rest)} others)", **numbers(others)})
    return lines


def verdict(metrics: Mapping[str, Mapping[str, Any]], task: str) -> str:
    """Whether the model does better on the rows it was trained on, in words."""
    held = metrics.get(VALIDATION) or metrics.get(TEST)
    name = SHOWN[task]
    if held is None or metrics[TRAIN].get(name) is None or held.get(name) is None:
        return "no validation rows: over-fitting cannot be judged"
    gap = metrics[TRAIN][name] - held[name]
    if gap > OVERFIT:
        return f"over-fitting (gap {gap:+.3f}): add l2 or dropout, or stop earlier"
    return f"no over-fitting (gap {gap:+.3f})"
