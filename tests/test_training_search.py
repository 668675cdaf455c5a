"""The search for settings: the same folds for all, and the same scores wherever they are computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import SGD, Dense, Sequential
from dlflow.nn.callbacks import rises
from dlflow.training.search import Range, candidates, cut_folds, search
from tests.training_jobs import cluster

RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, 4))
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


def build(settings):
    model = Sequential([Dense(settings["units"], "tanh"), Dense(1, "sigmoid")], seed=1)
    model.compile(optimizer=SGD(settings["rate"]), loss="binary_cross_entropy", metrics=["auc"])
    return model


@given(st.integers(2, 60), st.integers(2, 9), st.integers(0, 99))
def test_folds_share_the_rows_evenly_and_classes_too(rows, count, seed):
    if rows < count:
        with pytest.raises(ModelError, match=f"{count} folds of {rows} rows"):
            cut_folds(rows, count)
        return
    labels = np.random.default_rng(seed).integers(0, 3, rows)

    plain, even = cut_folds(rows, count, seed=seed), cut_folds(rows, count, seed=seed, labels=labels)

    for places in (plain, even):
        sizes = np.bincount(places, minlength=count)
        assert sizes.max() - sizes.min() <= 1
    for label in np.unique(labels):
        sizes = np.bincount(even[labels == label], minlength=count)
        assert sizes.max() - sizes.min() <= 1


def test_all_combinations_or_random_ones():
    assert candidates({"a": [1, 2], "b": "xy"}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    space = {"rate": Range(1e-4, 1e-1, log=True), "units": Range(2, 5), "name": ["a", "b"]}

    drawn = candidates(space, count=400)

    assert drawn == candidates(space, count=400) != candidates(space, count=400, seed=1)
    assert {each["units"] for each in drawn} == {2, 3, 4, 5}
    assert {each["name"] for each in drawn} == {"a", "b"}
    rates = [each["rate"] for each in drawn]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-1
    assert np.median(rates) == pytest.approx(10**-2.5, rel=0.3)


def test_scores_do_not_depend_on_the_workers():
    space = {"units": [2, 8], "rate": [0.01, 1.0]}
    settings = {"folds": 3, "stratify": True, "monitor": "auc", "fit": {"epochs": 10, "batch_size": 10}}

    alone = search(build, space, X, Y, **settings)
    with cluster(2) as client:
        spread = search(build, space, X, Y, client=client, **settings)

    assert spread == alone
    means = [trial.mean for trial in alone]
    assert means == sorted(means, reverse=True)
    assert alone[0].settings == {"units": 8, "rate": 1.0}


def test_rows_of_no_fold_only_train_and_each_candidate_may_train_in_its_own_way():
    places = np.repeat([-1, 0], [60, 30])

    def settings(candidate):
        return {"epochs": candidate["epochs"], "batch_size": 16}

    space = {"units": [4], "rate": [0.5], "epochs": [1, 3]}
    found = search(build, space, X, Y, folds=places, fit=settings)

    for trial in found:
        model = build(trial.settings)
        model.fit(X[:60], Y[:60], **settings(trial.settings))
        assert trial.scores == (model.evaluate(X[60:], Y[60:])["loss"],)
    for wrong in (places[:-1], np.full(90, -1)):
        with pytest.raises(
            ModelError, match=r"folds have shape \(\d+,\) for 90 rows, expected one each, some from 0"
        ):
            search(build, space, X, Y, folds=wrong)


def test_less_loss_is_better_and_what_diverges_comes_last():
    found = search(
        build, [{"units": 3, "rate": 1e38}, {"units": 3, "rate": 0.1}], X, Y, folds=2, fit={"epochs": 3}
    )

    assert [trial.settings["rate"] for trial in found] == [0.1, 1e38]
    assert "lower the learning rate" in found[1].error
    assert np.isnan(found[1].mean)
    assert found[0].deviation >= 0
    assert not rises("loss")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: candidates({"a": Range(0, 1)}), "'a' is a range, which has no end"),
        (lambda: candidates({"a": []}), "'a' has no values"),
        (lambda: Range(2, 1), "expected low < high"),
        (lambda: Range(0, 1, log=True), "above 0 for a logarithm"),
        (lambda: search(build, [], X, Y), "no candidates"),
        (
            lambda: search(build, [{"units": 1, "rate": 0.1}], X, Y, folds=2, monitor="acuracy"),
            "unknown monitor 'acuracy'; did you mean 'accuracy'",
        ),
    ],
)
def test_mistakes_are_told(act, message):
    with pytest.raises(ModelError, match=message):
        act()
