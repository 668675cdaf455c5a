"""Penalties and constraints of weights: which parameters, how much, and what holds after an update."""

import numpy as np
import pytest

from dlflow.errors import ModelError
from dlflow.nn import (
    SGD,
    Dense,
    MaxNorm,
    MeanSquaredError,
    Model,
    NonNegative,
    Sequential,
    UnitNorm,
    gradient_check,
)
from dlflow.nn.initializers import INITIALIZERS
from dlflow.nn.streams import Stream

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 3)), RNG.standard_normal((20, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"l1": 0.3},
        {"l1": 0.1, "l2": 0.2},
        {"l1": 0.1, "l2": 0.2, "penalize": ("W", "b")},
        {"l2": 1, "penalize": ("b",)},
    ],
)
def test_the_gradient_of_penalties_is_that_of_the_loss(settings):
    assert gradient_check([Dense(4, "tanh", **settings), Dense(2)], 3, MeanSquaredError(), X, Y).error < 1e-7


def test_penalties_are_sums_over_the_named_parameters():
    model = Model([Dense(2, l1=0.5, l2=0.25, penalize=("W", "b")), Dense(1, l2=2.0)], 2)
    model.w[...] = [1, -2, 3, -4, 5, -6, 7, 8, 9]

    assert model.penalty() == pytest.approx(0.5 * 21 + 0.25 * 91 + 2 * (49 + 64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dense(1, l1=-1), "dense: l1 is -1, expected 0 or a small positive number"),
        (lambda: Dense(1, l2=float("nan")), "l2 is nan"),
        (lambda: Dense(1, penalize=("b",)), "without a penalty"),
        (lambda: Model([Dense(1, l1=1.0, penalize=("w",))], 2), r"layer 0 \(dense\): no parameter 'w'"),
        (lambda: MaxNorm(0), "limit is 0, expected a positive number"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def columns(W):
    return np.linalg.norm(W, axis=0)


@pytest.mark.parametrize(
    ("constraint", "holds"),
    [
        (MaxNorm(0.5), lambda W: (columns(W) <= 0.5 + 1e-6).all()),
        (NonNegative(), lambda W: (W >= 0).all()),
        (UnitNorm(), lambda W: np.allclose(columns(W), 1, atol=1e-5)),
    ],
)
def test_constraints_hold_after_every_update_and_leave_biases_free(constraint, holds):
    model = Sequential([Dense(2, constraint=constraint)], 3, seed=1)
    model.compile(optimizer=SGD(0.5), loss="mean_squared_error")
    seen = []

    model.fit(X, Y - 3, epochs=5, report=lambda line: seen.append(holds(model.model.p[0]["W"])))

    assert seen == [True] * 5
    assert (model.model.p[0]["b"] < 0).all()


def test_short_columns_are_left_as_they_are():
    W = np.array([[3.0, 0.1], [4.0, 0.1]])

    MaxNorm(1.0).apply(W)

    np.testing.assert_allclose(W, [[0.6, 0.1], [0.8, 0.1]])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (3, 3, 2, 7), (4, 4)])
def test_orthogonal_weights_keep_lengths(shape):
    W = INITIALIZERS["orthogonal"](shape, Stream(0, "weights")).reshape(-1, shape[-1])

    product = W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T

    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("glorot_uniform", 2 / 500),
        ("glorot_normal", 2 / 500),
        ("he_uniform", 2 / 200),
        ("he_normal", 2 / 200),
        ("lecun_normal", 1 / 200),
        ("lecun_uniform", 1 / 200),
    ],
)
def test_initial_weights_have_the_variance_of_their_source(name, variance):
    W = INITIALIZERS[name]((200, 300), Stream(0, "weights"))

    assert W.var() == pytest.approx(variance, rel=0.03)
    assert abs(W.mean()) < 4 * np.sqrt(variance / W.size)
