"""Cross-validation and the search for settings: the same folds for all candidates, spread over the workers of a cluster.

    found = search(build, {"units": [8, 32], "rate": Range(1e-4, 1e-1, log=True)}, X, y, count=20, client=client)
    found[0].settings, found[0].mean

`build(settings)` gives a compiled Sequential. A fold of a candidate is one task, computed with one BLAS thread on its own data and seed: so
the scores do not depend on how many workers there are, nor on their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import ModelError, NonFinite
from dlflow.nn import Sequential, Stream
from dlflow.nn.callbacks import rises
from dlflow.nn.choice import suggestion
from dlflow.training.numerics import one_blas_thread

__all__ = ["Range", "Trial", "candidates", "cut_folds", "search"]

Array = NDArray[Any]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, drawn evenly, or evenly in their logarithm; whole ones if both ends are whole."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ModelError(f"{self!r}: expected low < high, and low above 0 for a logarithm; correct it")

    def at(self, share: float) -> float | int:
        """The number at this share of the way, from 0 to below 1."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = (self.low, self.high + 1) if whole else (self.low, self.high)
        value = exp(log(low) + share * (log(high) - log(low))) if self.log else low + share * (high - low)
        return min(int(value), int(self.high)) if whole else value


@dataclass(frozen=True)
class Trial:
    """A candidate and its scores on the folds; `error` says why it has none."""

    settings: Settings
    scores: tuple[float, ...]
    error: str = ""

    @property
    def mean(self) -> float:
        """Mean of the scores; nan if there are none."""
        return float(np.mean(self.scores)) if self.scores else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation of the scores over the folds."""
        return float(np.std(self.scores)) if self.scores else float("nan")


def candidates(
    space: Mapping[str, Sequence[Any] | Range], *, count: int | None = None, seed: int = 0
) -> list[Settings]:
    """All combinations of the values, or `count` random ones.

    Raises: ModelError for an empty list of values, or a Range where all combinations are asked for.
    """
    for name, values in space.items():
        if not isinstance(values, Range) and not len(values):
            raise ModelError(f"{name!r} has no values, expected at least one")
        if count is None and isinstance(values, Range):
            raise ModelError(f"{name!r} is a range, which has no end of values; give count, or a list")
    if count is None:
        lists = [values for values in space.values() if not isinstance(values, Range)]
        return [dict(zip(space, values, strict=True)) for values in product(*lists)]
    made = []
    for number in range(count):
        shares = Stream(seed, "sample", step=number).uniform((len(space),)).tolist()
        drawn = zip(space.items(), shares, strict=True)
        made.append({name: _drawn(values, share) for (name, values), share in drawn})
    return made


def cut_folds(rows: int, count: int, *, seed: int = 0, labels: Array | None = None) -> Array:
    """The number of each row's fold. Folds differ by one row at most; with labels (n,), by one row of each class.

    Shapes: (rows,), int64.
    Raises: ModelError for fewer rows than folds, or fewer than 2 folds.
    """
    if not 2 <= count <= rows:
        raise ModelError(f"{count!r} folds of {rows} rows, expected from 2 folds to one for each row")
    order = Stream(seed, "shuffle").permutation(rows)
    if labels is not None:
        order = order[np.argsort(np.asarray(labels).reshape(rows)[order], kind="stable")]
    made = np.empty(rows, np.int64)
    made[order] = np.arange(rows) % count
    return made


def search(
    build: Callable[[Settings], Sequential],
    space: Mapping[str, Sequence[Any] | Range] | Sequence[Settings],
    X: Array,
    y: Array,
    *,
    count: int | None = None,
    folds: int | Array = 5,
    stratify: bool = False,
    monitor: str = "loss",
    fit: Mapping[str, Any] | Callable[[Settings], Mapping[str, Any]] | None = None,
    seed: int = 0,
    client: Any = None,
) -> list[Trial]:
    """Every candidate's scores, the best first.

    `monitor` is a number that `evaluate` of the model gives. `fit` are settings of `Sequential.fit`, for all, or by a function for
    each candidate. `folds` may be the number of each row's fold; -1: it only trains.

    A candidate whose training diverges is told with its error, last. `client` is a Dask client; without one all is done here.

    Shapes: X (n, ...); y (n, ...); with `stratify` y (n,); folds as an array (n,).
    Raises: ModelError for an unknown monitor, and for data that do not fit.
    """
    chosen = list(space) if isinstance(space, Sequence) else candidates(space, count=count, seed=seed)
    if not chosen:
        raise ModelError("there are no candidates, expected at least one; give values or a count")
    if isinstance(folds, int):
        places = cut_folds(len(y), folds, seed=seed, labels=y if stratify else None)
    else:
        places, folds = folds, int(folds.max(initial=-1)) + 1
        if places.shape != (len(y),) or not folds:
            raise ModelError(
                f"folds have shape {places.shape!r} for {len(y)} rows, expected one each, some from 0; correct them"
            )
    settings = fit or {}
    work = [(candidate, fold) for candidate in chosen for fold in range(folds)]
    if client is None:
        found = [_score(build, *each, X, y, places, settings, monitor) for each in work]
    else:
        data = client.scatter([X, y, places], broadcast=True, hash=False)
        tasks = [client.submit(_score, build, *each, *data, settings, monitor, pure=False) for each in work]
        found = client.gather(tasks)
    trials = []
    for number, candidate in enumerate(chosen):
        scores = found[number * folds : (number + 1) * folds]
        errors = [score for score in scores if isinstance(score, str)]
        numbers = tuple(score for score in scores if not isinstance(score, str))
        trials.append(Trial(candidate, () if errors else numbers, errors[0] if errors else ""))
    sign = -1 if rises(monitor) else 1
    return sorted(trials, key=lambda trial: (bool(trial.error), sign * trial.mean if trial.scores else 0))


def _score(
    build: Callable[[Settings], Sequential],
    candidate: Settings,
    fold: int,
    X: Array,
    y: Array,
    places: Array,
    fit: Mapping[str, Any] | Callable[[Settings], Mapping[str, Any]],
    monitor: str,
) -> float | str:
    """The score of one fold, or why there is none."""
    held = places == fold
    with one_blas_thread():
        model = build(dict(candidate))
        try:
            model.fit(X[~held], y[~held], **(fit(dict(candidate)) if callable(fit) else fit))
        except NonFinite as error:
            return f"fold {fold}: {error}"
        line = model.evaluate(X[held], y[held])
    if monitor not in line:
        raise ModelError(
            f"unknown monitor {monitor!r}; {suggestion(monitor, line)}; choose it in compile(metrics=...)"
        )
    value = line[monitor]
    return f"fold {fold}: {monitor} is not defined there" if value is None else float(value)


def _drawn(values: Sequence[Any] | Range, share: float) -> Any:
    return values.at(share) if isinstance(values, Range) else values[int(share * len(values))]
