"""The estimators pass scikit-learn's own checks, and work in its tools."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dlflow.estimators import NetworkClassifier, NetworkRegressor
from dlflow.nn import Dense, EarlyStopping

FAST = {"optimizer": "adam", "learning_rate": 0.02}
WEIGHTS = "steps are taken batch by batch, so a row of weight 2 is not two rows, and one of weight 0 still has its place"


def expected_to_fail(estimator):
    del estimator
    return {
        "check_sample_weight_equivalence_on_dense_data": WEIGHTS,
        "check_sample_weight_equivalence_on_sparse_data": WEIGHTS,
    }


@parametrize_with_checks(
    [NetworkClassifier(hidden=(16,), epochs=20), NetworkRegressor(hidden=(16,), epochs=30, optimizer=FAST)],
    expected_failed_checks=expected_to_fail,
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_a_pipeline_is_validated_across_folds():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]

    scores = cross_val_score(
        make_pipeline(
            StandardScaler(),
            NetworkClassifier(hidden=(16,), optimizer=FAST),
        ),
        X,
        names,
        cv=3,
    )

    assert scores.mean() > 0.93


def test_settings_are_searched():
    X, y = load_iris(return_X_y=True)
    search = GridSearchCV(NetworkClassifier(epochs=10), {"hidden": [(2,), (16,)]}, cv=3)

    search.fit(StandardScaler().fit_transform(X), y)

    assert search.best_params_ == {"hidden": (16,)}


def test_values_are_predicted_and_early_stopping_works():
    X, y = load_diabetes(return_X_y=True)
    made = make_pipeline(
        StandardScaler(),
        NetworkRegressor(
            layers=[Dense(16, "tanh", l2=1e-3)],
            epochs=200,
            validation_split=0.2,
            callbacks=[EarlyStopping(patience=5)],
        ),
    ).fit(X[:350], y[:350])

    assert made.score(X[350:], y[350:]) > 0.4
    assert made[-1].n_iter_ < 200
    assert made.predict(X[:3]).shape == (3,)


def test_several_values_at_once():
    X, y = load_diabetes(return_X_y=True)

    made = NetworkRegressor(epochs=5).fit(X, np.stack([y, -y], axis=1))

    assert made.predict(X).shape == (len(X), 2)


def test_equal_states_give_equal_networks():
    X, y = load_iris(return_X_y=True)
    first = NetworkClassifier(epochs=3, random_state=4).fit(X, y)

    assert np.array_equal(clone(first).fit(X, y).predict_proba(X), first.predict_proba(X))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class only"):
        NetworkClassifier().fit(np.ones((3, 2)), np.zeros(3))
