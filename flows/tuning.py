"""The search for settings of a model of the pipeline file: candidates are trained on the same rows and compared on the same others.

    tune(project, "returns", {"optimizer.learning_rate": Range(1e-4, 1e-1, log=True), "layers.0.units": [8, 64]}, count=20)

The rows held out are the validation rows, as the pipeline file splits them: rows that belong together stay together, and the test
rows are never looked at. Nothing is registered: write the settings that won into the file.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import Sequential
from dlflow.training.search import Range, candidates, search
from flows.evaluation import sets_of
from flows.project import EstimatorSpec, ModelSpec, Project
from pipelines import warehouse
from pipelines.names import did_you_mean
from pipelines.storage import reference

__all__ = ["Space", "space_of", "tune"]

Space = Mapping[str, Sequence[Any] | Range]
MAY_CHANGE = ("layers", "loss", "optimizer", "batch", "epochs", "seed")


def space_of(pairs: Sequence[str]) -> dict[str, Sequence[Any] | Range]:
    """What `--try` says: NAME=8,32 (values), NAME=0.1..0.5 (a range), NAME=1e-4..1e-1:log.

    >>> space_of(["layers.0.units=8,32", "optimizer.learning_rate=0.001..0.1:log"])
    {'layers.0.units': [8, 32], 'optimizer.learning_rate': Range(low=0.001, high=0.1, log=True)}

    Raises: ModelError for anything else.
    """
    made: dict[str, Sequence[Any] | Range] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        low, dots, rest = text.partition("..")
        high, _, scale = rest.partition(":")
        if not (name and equals and text) or (dots and scale not in {"", "log"}):
            raise ModelError(
                f"--try {pair}: expected NAME=VALUE,VALUE or NAME=LOW..HIGH or NAME=LOW..HIGH:log"
            )
        if not dots:
            made[name] = [_value(each) for each in text.split(",")]
            continue
        ends = (_value(low), _value(high))
        if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
            raise ModelError(f"--try {pair}: the ends are {ends}, expected two numbers")
        made[name] = Range(ends[0], ends[1], log=scale == "log")
    return made


def tune(
    project: Project,
    name: str,
    space: Space,
    *,
    count: int | None = None,
    folds: int | None = None,
    monitor: str = "loss",
    seed: int = 0,
    client: Any = None,
) -> list[dict[str, Any]]:
    """Every candidate with its score on the held-out rows, the best first; the same for any number of workers.

    With `folds` training and validation rows together are cut into so many, row by row: for rows that are independent. A candidate
    trains all its epochs: patience and callbacks are left out.

    Raises: ModelError for a model or setting that is not there, a candidate that is no model, or no rows to hold out.
    """
    if name not in project.models:
        raise ModelError(f"there is no model {name!r}{did_you_mean(name, project.models)}")
    spec, given = project.models[name], project.pipeline.models[name]
    if isinstance(spec, EstimatorSpec):
        raise ModelError(
            f"model {name!r} is an estimator of scikit-learn, expected a network; use its own searches, such as GridSearchCV"
        )
    if spec.weight is not None:
        raise ModelError(
            f"model {name!r} weighs its rows by {spec.weight!r}, which the search does not; leave weight out while you search"
        )
    chosen = candidates(space, count=count, seed=seed)
    for settings in chosen:
        changed(given, settings)
    snapshot = warehouse.open_at(str(project.pipeline.warehouse), spec.table)
    sets = sets_of(reference(spec.table, snapshot))
    if sets.validation is None and folds is None:
        raise ModelError(
            f"table {spec.table!r} has no validation rows; set validation in the split, or give folds"
        )
    parts = [sets.train.read()] + ([sets.validation.read()] if sets.validation else [])
    X, y = (np.concatenate(each) for each in zip(*parts, strict=True))
    held = np.full(len(y), -1)
    held[len(parts[0][1]) :] = 0
    trials = search(
        partial(_build, given, X.shape[1:], monitor),
        chosen,
        X,
        y,
        folds=held if folds is None else folds,
        monitor=monitor,
        fit=partial(_fit, given),
        seed=seed,
        client=client,
    )
    return [
        {
            **one.settings,
            monitor: one.mean if one.scores else None,
            "deviation": one.deviation if one.scores else None,
            "error": one.error,
        }
        for one in trials
    ]


def changed(given: Mapping[str, Any], settings: Mapping[str, Any]) -> ModelSpec:
    """The model with other settings, named by their place: "layers.0.units", "optimizer.learning_rate", "epochs".

    Raises: ModelError for a place that is not there, or a model that is none.
    """
    value = copy.deepcopy(dict(given))
    for place, setting in settings.items():
        first, *rest = place.split(".")
        if first not in MAY_CHANGE:
            raise ModelError(
                f"--try {place}: {first!r} is not searched{did_you_mean(first, MAY_CHANGE)}; known: {', '.join(MAY_CHANGE)}"
            )
        if first in {"loss", "optimizer"} and rest and isinstance(value.get(first, "adam"), str):
            value[first] = {"kind": value.get(first, "adam")}
        target: Any = value
        for key in (first, *rest)[:-1]:
            target = _inside(target, key, place)
        last = (first, *rest)[-1]
        if isinstance(target, list):
            _inside(target, last, place)
            target[int(last)] = setting
        else:
            target[last] = setting
    made = ModelSpec(**{**value, "layers": tuple(value["layers"])})
    try:
        made.made()
    except ModelError as error:
        raise ModelError(f"candidate {dict(settings)}: {error}") from error
    for key in ("batch", "epochs"):
        number = getattr(made, key)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ModelError(
                f"candidate {dict(settings)}: {key} = {number!r}, expected a whole number from 1"
            )
    return made


def _inside(target: Any, key: str, place: str) -> Any:
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise ModelError(f"--try {place}: there is no {key!r}, expected a number below {len(target)}")
        return target[int(key)]
    if not isinstance(target, dict) or key not in target:
        known = list(target) if isinstance(target, dict) else []
        raise ModelError(
            f"--try {place}: there is no {key!r}{did_you_mean(key, known)}; it stands for a place in the file"
        )
    return target[key]


def _build(
    given: Mapping[str, Any], shape: tuple[int, ...], monitor: str, settings: dict[str, Any]
) -> Sequential:
    spec = changed(given, settings)
    layers, loss, optimizer = spec.made()
    model = Sequential(layers, shape, seed=spec.seed)
    told = () if monitor in {"loss", "accuracy"} else (monitor,)
    model.compile(optimizer=optimizer, loss=loss, metrics=told)
    return model


def _fit(given: Mapping[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    spec = changed(given, settings)
    weights = {} if spec.class_weights is None else {"class_weight": spec.class_weights}
    return {"epochs": spec.epochs, "batch_size": spec.batch, **weights}


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)
