"""Why a model says what it says: how much each feature matters to it, and what of one answer is due to which value.

    permutation_importance    how much the loss rises when one feature's values are dealt out to other rows
    integrated_gradients      the parts of Z(x) - Z(baseline) that are due to each value of x; they add up to it

Letters: n rows, F features, K outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import Embedding, Loss, Model, Stream
from dlflow.nn.evaluation import measure
from dlflow.nn.params import Array

__all__ = ["Importance", "integrated_gradients", "permutation_importance"]

ROWS = 1024  # of one pass


@dataclass(frozen=True)
class Importance:
    """By how much the loss rises without a feature: the mean over the repeats, and their standard deviation."""

    name: str
    rise: float
    deviation: float


def permutation_importance(
    model: Model,
    loss: Loss,
    X: Array,
    y: Array,
    *,
    names: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    repeats: int = 5,
    seed: int = 0,
) -> list[Importance]:
    """Every feature's importance, largest first; the same for the same seed.

    `groups` names places of values that are one feature: the columns of a one-hot category are permuted together.

    Shapes: X (n, F); y as the loss wants it.
    Raises: ModelError for rows that are no vectors, or for names that do not fit.
    Source: Breiman 2001; Fisher, Rudin & Dominici 2019.
    """
    X = np.array(model.cast(X))  # its columns are overwritten in turn
    if X.ndim != 2 or len(X) < 2 or repeats < 1:
        raise ModelError(
            f"X has shape {X.shape!r} and repeats is {repeats!r}, expected at least 2 rows of features and 1 repeat"
        )
    y = loss.labels(y, model.out_shape, model.dtype)
    chosen = _groups(X.shape[1], names, groups)
    usual = _loss(model, loss, X, y)
    made = []
    for number, (name, places) in enumerate(chosen.items()):
        before = X[:, places].copy()
        rises = []
        for repeat in range(repeats):
            order = Stream(seed, "shuffle", step=repeat, layer=number).permutation(len(X))
            X[:, places] = before[order]
            rises.append(_loss(model, loss, X, y) - usual)
        X[:, places] = before
        made.append(Importance(name, float(np.mean(rises)), float(np.std(rises))))
    return sorted(made, key=lambda each: -each.rise)


def integrated_gradients(
    model: Model, X: Any, *, baseline: Any = None, output: int | None = None, steps: int = 64
) -> tuple[Array, ...]:
    """What of Z(x) - Z(baseline) is due to each value: one array like X for each input of the model.

    Z is the output before the last activation: the logit. `output` is its place on the last axis; by default each row's largest.
    `baseline` is one sample for each input, zeros by default. More steps make the sum more exact.

    Raises: ModelError for an input of tokens, which has no gradient.
    Source: Sundararajan, Taly & Yan 2017, by the midpoint rule.
    """
    for name, layer in zip(model.inputs, model.first, strict=True):
        if isinstance(layer, Embedding):
            raise ModelError(
                f"input {name!r} has no gradient: it holds tokens, expected numbers; explain the rest"
            )
    given = model.cast(X)
    inputs = given if isinstance(given, tuple) else (given,)
    if steps < 1:
        raise ModelError(f"steps is {steps!r}, expected at least 1; 64 is a good choice")
    bases = _baseline(model, baseline)
    which = model.outputs(X).reshape(len(inputs[0]), -1).argmax(axis=1) if output is None else None
    outputs = int(np.prod(model.out_shape))
    if output is not None and not 0 <= output < outputs:
        raise ModelError(f"output is {output!r}, expected a place from 0 to {outputs - 1}")
    totals = [np.zeros(each.shape, np.float64) for each in inputs]
    message = model.new_message()
    for start in range(0, len(inputs[0]), ROWS):
        at = slice(start, start + ROWS)
        for step in range(steps):
            share = model.dtype.type((step + 0.5) / steps)
            mixed = tuple(base + share * (each[at] - base) for each, base in zip(inputs, bases, strict=True))
            Z, tape = model.forward(mixed if isinstance(given, tuple) else mixed[0])
            dZ = np.zeros((len(Z), outputs), Z.dtype)
            dZ[np.arange(len(Z)), output if which is None else which[at]] = 1
            gradients = model.backward(dZ.reshape(Z.shape), tape, into=message, to_inputs=True)
            for total, dX in zip(totals, gradients, strict=True):
                total[at] += 0 if dX is None else dX
    return tuple(
        (total / steps * (each - base)).astype(np.float32)
        for total, each, base in zip(totals, inputs, bases, strict=True)
    )


def _loss(model: Model, loss: Loss, X: Array, y: Array) -> float:
    return float(measure(loss, model.outputs(X), y, None, model.head)["loss"])


def _groups(
    features: int, names: Sequence[str] | None, groups: Mapping[str, Sequence[int]] | None
) -> dict[str, list[int]]:
    """The places of each feature."""
    if groups is not None:
        for name, places in groups.items():
            if not places or not all(0 <= place < features for place in places):
                raise ModelError(
                    f"group {name!r} has places {list(places)!r}, expected some from 0 to {features - 1}"
                )
        return {name: list(places) for name, places in groups.items()}
    chosen = [str(place) for place in range(features)] if names is None else list(names)
    if len(set(chosen)) != features:
        raise ModelError(f"{len(set(chosen))} different names for {features} features; give one for each")
    return {name: [place] for place, name in enumerate(chosen)}


def _baseline(model: Model, baseline: Any) -> tuple[Array, ...]:
    if baseline is None:
        return tuple(np.zeros(shape, model.dtype) for shape in model.in_shapes)
    given = baseline if isinstance(baseline, (tuple, list)) else (baseline,)
    made = tuple(np.asarray(each, model.dtype) for each in given)
    if tuple(each.shape for each in made) != model.in_shapes:
        shapes = [each.shape for each in made]
        raise ModelError(
            f"baseline has shapes {shapes!r}, expected one sample of each input: {model.in_shapes!r}"
        )
    return made
