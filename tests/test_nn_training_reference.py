"""Losses, optimizers, clipping and schedules against PyTorch (tests/reference/make_training.py)."""

from pathlib import Path

import numpy as np
import pytest

from dlflow.nn import (
    SGD,
    Adagrad,
    AdamW,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Cosine,
    Dense,
    Exponential,
    Huber,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    Model,
    RMSprop,
    SparseCategoricalCrossEntropy,
    Step,
)
from dlflow.nn.clipping import Clipping
from dlflow.nn.params import Workspace

REFERENCE = np.load(Path(__file__).parent / "reference" / "training.npz")
LOSSES = {
    "mse_half_sum": MeanSquaredError(half=True, outputs="sum"),
    "mae": MeanAbsoluteError(),
    "huber": Huber(delta=0.7),
    "kl": KLDivergence(),
    "bce_smooth": BinaryCrossEntropy(label_smoothing=0.2),
    "cce_smooth": CategoricalCrossEntropy(label_smoothing=0.1),
    "scce_smooth": SparseCategoricalCrossEntropy(label_smoothing=0.1),
    "scce_ignored": SparseCategoricalCrossEntropy(ignored=-1),
}
OPTIMIZERS = {
    "adamw": AdamW(0.01, weight_decay=0.1, beta_2=0.99),
    "rmsprop": RMSprop(0.01),
    "rmsprop_momentum": RMSprop(0.01, momentum=0.8),
    "rmsprop_centered": RMSprop(0.01, momentum=0.8, centered=True),
    "adagrad": Adagrad(0.1, start=0.5),
}
SCHEDULES = {
    "step": Step(0.1, every=7, factor=0.5),
    "exponential": Exponential(0.1, every=1, factor=0.9),
    "cosine": Cosine(0.1, updates=59, floor=0.01),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_losses_and_gradients_are_those_of_pytorch(name, dtype, tolerance):
    loss, y, Z = LOSSES[name], REFERENCE[f"{name}/y"], REFERENCE["Z"].astype(dtype)
    if name == "scce_ignored":
        Z = Z.reshape(3, 3, 4)  # 3 sequences of 3 steps
    before = Z.copy()

    y = loss.labels(y, Z.shape[1:], Z.dtype)
    made = loss(Z, y, None, "linear", Workspace())

    assert made.total / made.weight == pytest.approx(REFERENCE[f"{name}/loss"].item(), rel=10 * tolerance)
    found = made.gradient.reshape(9, 4) / made.weight
    np.testing.assert_allclose(found, REFERENCE[f"{name}/gradient"], rtol=0, atol=tolerance)
    assert np.array_equal(Z, before)


@pytest.mark.parametrize(
    ("name", "loss", "function"),
    [
        ("bce_probabilities", BinaryCrossEntropy(from_probabilities=True), "sigmoid"),
        ("scce_probabilities", SparseCategoricalCrossEntropy(from_probabilities=True), "softmax"),
    ],
)
def test_losses_of_probabilities_are_those_of_pytorch(name, loss, function):
    Z = REFERENCE["Z"]
    P = 1 / (1 + np.exp(-Z)) if function == "sigmoid" else np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    y = loss.labels(REFERENCE[f"{name}/y"], (4,), P.dtype)

    made = loss(P, y, None, "linear", Workspace())
    dP = made.gradient / made.weight
    dZ = dP * P * (1 - P) if function == "sigmoid" else P * (dP - (dP * P).sum(1, keepdims=True))

    assert made.total / made.weight == pytest.approx(REFERENCE[f"{name}/loss"].item())
    np.testing.assert_allclose(dZ, REFERENCE[f"{name}/gradient"], rtol=0, atol=1e-12)
    assert np.array_equal(loss.scores(P, "linear"), P)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 3e-6)])
def test_twenty_five_gradients_lead_where_pytorch_goes(name, dtype, tolerance):
    optimizer, w = OPTIMIZERS[name], REFERENCE["w"].astype(dtype)
    state = optimizer.new_state(len(w), dtype)

    for t, g in enumerate(REFERENCE["G"].astype(dtype), 1):
        optimizer.step(w, g, state, t)

    np.testing.assert_allclose(w, REFERENCE[f"path/{name}"], rtol=0, atol=tolerance)


def test_the_average_of_the_weights_is_that_of_pytorch():
    optimizer, w = SGD(0.1, average=0.9), REFERENCE["w"].copy()
    state = optimizer.new_state(len(w), np.float64)

    for t, g in enumerate(REFERENCE["G"], 1):
        optimizer.step(w, g, state, t)

    np.testing.assert_allclose(optimizer.averaged(w, state, 25), REFERENCE["path/average"], atol=1e-12)


def test_clipping_by_the_global_norm_is_that_of_pytorch():
    slots = Model([Dense(10)], 3).slots
    for name, limit in (("clipped", 2.0), ("unclipped", 1000.0)):
        g = REFERENCE["G"][0].astype(np.float32)

        Clipping(slots, SGD(clip_global_norm=limit)).clip(g)

        np.testing.assert_allclose(g, REFERENCE[name], rtol=2e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_pytorch(name):
    rates = [SCHEDULES[name].at(t) for t in range(60)]

    np.testing.assert_allclose(rates, REFERENCE[f"rates/{name}"], rtol=1e-9)
