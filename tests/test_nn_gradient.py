"""The gradient is the finite difference (float64), for every activation, loss and layer."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.nn import (
    ACTIVATIONS,
    Activation,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MeanSquaredError,
    SparseCategoricalCrossEntropy,
    Stream,
    gradient_check,
)

RNG = np.random.default_rng(3)
X = RNG.standard_normal((9, 5))


def one_hot(classes, rows=9):
    return np.eye(classes)[np.arange(rows) % classes]


LOSSES = {
    "mse": (MeanSquaredError(), 3, None, RNG.standard_normal((9, 3))),
    "mse of sigmoid": (MeanSquaredError(), 3, "sigmoid", RNG.uniform(size=(9, 3))),
    "mse of softmax": (MeanSquaredError(), 3, "softmax", RNG.uniform(size=(9, 3))),
    "binary from sigmoid": (BinaryCrossEntropy(class_weights=(1.0, 4.0)), 1, "sigmoid", np.arange(9) % 2),
    "binary from logits": (BinaryCrossEntropy(), 1, None, np.linspace(0, 1, 9)),
    "several binary": (BinaryCrossEntropy(), 4, "sigmoid", RNG.integers(0, 2, (9, 4))),
    "categorical": (CategoricalCrossEntropy(class_weights=(1.0, 0.5, 2.0)), 3, "softmax", one_hot(3)),
    "categorical, soft": (CategoricalCrossEntropy(), 3, None, RNG.dirichlet(np.ones(3), 9)),
    "sparse": (SparseCategoricalCrossEntropy(class_weights=(1.0, 0.0, 2.0)), 3, "softmax", np.arange(9) % 3),
    "sparse from logits": (SparseCategoricalCrossEntropy(), 3, None, np.arange(9) % 3),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_every_loss_is_the_finite_difference(name):
    loss, units, head, y = LOSSES[name]
    weights = np.linspace(0, 2, 9)

    check = gradient_check([Dense(6, "tanh"), Dense(units, head)], 5, loss, X, y, weights=weights)

    assert check.error < 1e-7, check
    assert check.checked == 6 * 6 + 7 * units


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("separate", [False, True])
def test_the_gradient_of_every_activation_is_the_finite_difference(name, separate):
    hidden = [Dense(6), Activation(name)] if separate else [Dense(6, name)]

    check = gradient_check([*hidden, Dense(3)], 5, MeanSquaredError(), X, X[:, :3])

    assert check.error < 1e-7, check


@pytest.mark.parametrize("head", ACTIVATIONS)
def test_the_gradient_through_every_last_activation_is_the_finite_difference(head):
    for layers in ([Dense(4, "tanh"), Dense(3, head)], [Dense(3), Activation(head)]):
        check = gradient_check(layers, 5, MeanSquaredError(), X, X[:, :3])

        assert check.error < 1e-7, check


def test_the_gradient_with_dropout_on_is_the_finite_difference():
    layers = [Dropout(0.2), Dense(6, "tanh"), Dropout(0.5), Dense(1)]

    check = gradient_check(
        layers, 5, MeanSquaredError(), X, X[:, 0], rng=Stream(1, "dropout", step=4, shard=2)
    )

    assert check.error < 1e-7, check


def test_weight_decay_is_in_the_loss_and_in_its_gradient():
    layers = [Dense(6, "tanh", l2=0.3), Dense(1, use_bias=False, l2=0.01)]

    check = gradient_check(layers, 5, MeanSquaredError(), X, X[:, 0])

    assert check.error < 1e-7, check


def test_dense_works_on_the_last_axis_and_flatten_joins_the_others():
    images = RNG.standard_normal((9, 2, 3, 4))

    check = gradient_check(
        [Dense(3, "tanh"), Flatten(), Dense(2)], (2, 3, 4), MeanSquaredError(), images, X[:, :2]
    )

    assert check.error < 1e-7, check


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    inputs=st.integers(1, 4),
    rows=st.integers(1, 6),
    names=st.lists(
        st.sampled_from(["tanh", "sigmoid", "softplus", "softmax", "linear"]), min_size=4, max_size=4
    ),
    seed=st.integers(0, 2**64 - 1),
)
def test_the_gradient_of_any_dense_stack_is_the_finite_difference(sizes, inputs, rows, names, seed):
    rng = np.random.default_rng(seed)
    layers = [Dense(size, name) for size, name in zip(sizes, names, strict=False)]
    batch, y = rng.standard_normal((rows, inputs)), rng.standard_normal((rows, sizes[-1]))

    check = gradient_check(layers, inputs, MeanSquaredError(), batch, y, seed=seed)

    assert check.error < 1e-7, check


@dataclass(frozen=True)
class WrongScale(Layer):
    """A layer whose backward pass forgets a factor."""

    kind: ClassVar[str] = "wrong_scale"

    def build(self, in_shape):
        return {}, in_shape

    def forward(self, p, X, rng, space):
        return 2 * X, lambda dY, dp, need_dX: dY


def test_a_wrong_backward_pass_is_found_and_named():
    check = gradient_check([Dense(3), WrongScale(), Dense(1)], 5, MeanSquaredError(), X, X[:, 0])

    assert check.error > 0.1
    assert check.where.startswith("layer 0 (dense)")


def test_a_large_model_is_checked_by_a_sample_of_its_parameters():
    check = gradient_check([Dense(50, "tanh"), Dense(1)], 5, MeanSquaredError(), X, X[:, 0], at_most=20)

    assert check.checked == 20
    assert check.error < 1e-7
