"""Losses, gradients and optimizer paths against PyTorch (tests/reference/make_nn.py)."""

from pathlib import Path

import numpy as np
import pytest

from dlflow.nn import (
    SGD,
    Adam,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Dense,
    MeanSquaredError,
    Model,
    SparseCategoricalCrossEntropy,
)

REFERENCE = np.load(Path(__file__).parent / "reference" / "nn.npz")
CASES = {
    "mse": ([Dense(7, "tanh"), Dense(3)], MeanSquaredError()),
    "bce": ([Dense(6, "relu"), Dense(1, "sigmoid")], BinaryCrossEntropy()),
    "cce": ([Dense(8, "elu"), Dense(4, "softmax")], CategoricalCrossEntropy()),
    "scce": (
        [Dense(8, "sigmoid"), Dense(6, "softplus"), Dense(4, "softmax")],
        SparseCategoricalCrossEntropy(class_weights=(0.5, 2.0, 1.0, 3.0)),
    ),
}
OPTIMIZERS = {
    "sgd": SGD(learning_rate=0.1),
    "momentum": SGD(learning_rate=0.05, momentum=0.9),
    "nesterov": SGD(learning_rate=0.05, momentum=0.9, nesterov=True),
    "adam": Adam(learning_rate=0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-7),
}
STEPS = 25


def case_of(name, dtype):
    layers, loss = CASES[name]
    model = Model(layers, 5, dtype=dtype)
    model.w[...] = REFERENCE[f"{name}/w"]
    X, y, weights = (REFERENCE[f"{name}/{part}"] for part in ("X", "y", "weights"))
    return model, loss, X, y, weights


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_loss_and_gradient_are_those_of_pytorch(name, dtype, tolerance):
    model, loss, X, y, weights = case_of(name, dtype)

    model.gradient(loss, X, y, weights=weights)
    mean = model.finish()

    np.testing.assert_allclose(mean, REFERENCE[f"{name}/loss"], rtol=tolerance)
    np.testing.assert_allclose(model.g[:-2], REFERENCE[f"{name}/gradient"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-11), (np.float32, 2e-5)])
def test_twenty_five_steps_lead_where_pytorch_goes(name, optimizer, dtype, tolerance):
    model, loss, X, y, weights = case_of(name, dtype)
    chosen = OPTIMIZERS[optimizer]
    state = chosen.new_state(model.parameters, dtype)

    for t in range(1, STEPS + 1):
        model.gradient(loss, X, y, weights=weights)
        model.finish()
        chosen.step(model.w, model.g[:-2], state, t)

    np.testing.assert_allclose(model.w, REFERENCE[f"{name}/{optimizer}"], rtol=0, atol=tolerance)
