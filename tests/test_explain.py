"""What explains a model: importances of features that matter, and attributions that add up."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.inspection import permutation_importance as sk_importance

from dlflow.errors import ModelError
from dlflow.explain import integrated_gradients, permutation_importance
from dlflow.nn import (
    LSTM,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    Graph,
    Input,
    MaxPooling2D,
    MeanSquaredError,
    Model,
    join,
)

RNG = np.random.default_rng(0)


def linear(weights):
    model = Model([Dense(1)], len(weights))
    model.w[:-1] = weights
    return model


def test_the_importance_of_a_feature_is_what_its_weight_makes_of_it():
    """Of independent features the squared error rises by 2 w^2 variance."""
    X = RNG.standard_normal((4000, 3))
    model = linear([2, 0, -1])
    y = model.predict(X)[:, 0]

    found = permutation_importance(model, MeanSquaredError(), X, y, names=["a", "b", "c"])

    assert [each.name for each in found] == ["a", "c", "b"]
    assert [each.rise for each in found] == pytest.approx([8, 2, 0], rel=0.1, abs=1e-9)
    assert found == permutation_importance(model, MeanSquaredError(), X, y, names=["a", "b", "c"])


def test_importances_agree_with_scikit_learn():
    X = RNG.standard_normal((500, 3))
    model = linear([1, 0.5, 0.1])
    y = model.predict(X)[:, 0] + RNG.standard_normal(500)

    class Wrapped(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            return self

        def predict(self, X):
            return model.predict(X)[:, 0]

    expected = sk_importance(Wrapped(), X, y, scoring="neg_mean_squared_error", n_repeats=30, random_state=0)
    found = permutation_importance(model, MeanSquaredError(), X, y, repeats=30)

    by_name = {int(each.name): each.rise for each in found}
    assert [by_name[i] for i in range(3)] == pytest.approx(expected.importances_mean, rel=0.1, abs=0.02)


def test_columns_of_one_feature_are_permuted_together():
    category = np.eye(3)[RNG.integers(0, 3, 300)]
    model = linear([1, 2, 3])

    (found,) = permutation_importance(
        model, MeanSquaredError(), category, model.predict(category), groups={"category": [0, 1, 2]}
    )

    assert found.rise == pytest.approx(2 * np.var([1, 2, 3]), rel=0.2)


def image_model():
    model = Model(
        [Conv2D(4, 3, activation="tanh"), MaxPooling2D(2), BatchNormalization(), Flatten(), Dense(3)],
        (6, 6, 2),
    )
    model.init(1)
    return model


@pytest.mark.parametrize("output", [None, 1])
def test_attributions_add_up_to_the_change_of_the_output(output):
    model, X = image_model(), RNG.standard_normal((5, 6, 6, 2)).astype(np.float32)
    base = np.full((6, 6, 2), 0.1, np.float32)

    (parts,) = integrated_gradients(model, X, baseline=base, output=output, steps=300)

    Z, at_base = model.outputs(X), model.outputs(base[None])
    which = Z.argmax(axis=1) if output is None else np.full(5, output)
    change = Z[np.arange(5), which] - at_base[0, which]
    np.testing.assert_allclose(parts.sum(axis=(1, 2, 3)), change, atol=5e-3)


def test_of_a_linear_model_each_part_is_weight_times_value():
    X = RNG.standard_normal((4, 3)).astype(np.float32)

    (parts,) = integrated_gradients(linear([2, 0, -1]), X, steps=1)

    np.testing.assert_allclose(parts, X * [2, 0, -1], rtol=1e-5)


def test_every_input_of_a_graph_has_its_parts():
    a, b = Input(2, "a"), Input(3, "b")
    model = Model(Graph.of(join((join(a, Dense(4, "tanh")), b), Concatenate(), Dense(1))))
    model.init(0)
    X = {"a": RNG.standard_normal((4, 2)), "b": RNG.standard_normal((4, 3))}

    first, second = integrated_gradients(model, X, steps=200)

    zero = model.outputs({name: np.zeros_like(each) for name, each in X.items()})
    change = (model.outputs(X) - zero)[:, 0]
    np.testing.assert_allclose(first.sum(axis=1) + second.sum(axis=1), change, atol=1e-4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: integrated_gradients(m, np.ones((2, 3)), steps=0), "steps is 0"),
        (
            lambda m: integrated_gradients(m, np.ones((2, 3)), output=1),
            "output is 1, expected a place from 0 to 0",
        ),
        (
            lambda m: integrated_gradients(m, np.ones((2, 3)), baseline=np.ones(2)),
            r"expected one sample .*\(3,\)",
        ),
        (
            lambda m: permutation_importance(m, MeanSquaredError(), np.ones((4, 3)), np.ones(4), names=["a"]),
            "1 different names for 3 features",
        ),
        (
            lambda m: permutation_importance(
                m, MeanSquaredError(), np.ones((4, 3)), np.ones(4), groups={"a": [3]}
            ),
            r"group 'a' has places \[3\]",
        ),
        (lambda m: permutation_importance(m, MeanSquaredError(), np.ones((1, 3)), [1]), "at least 2 rows"),
    ],
)
def test_mistakes_are_told(act, message):
    with pytest.raises(ModelError, match=message):
        act(linear([1, 2, 3]))


def test_tokens_have_no_gradient():
    model = Model([Embedding(5, 2), LSTM(3), Dense(1)], (4,))

    with pytest.raises(ModelError, match="no gradient"):
        integrated_gradients(model, np.ones((2, 4)))
