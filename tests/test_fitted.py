"""Estimators of scikit-learn as models: made by name, kept without pickle, refused if foreign or damaged."""

import io
import json
import zipfile

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from skops import io as skops

from dlflow import fitted, registry
from dlflow.errors import ModelError, ModelFileError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int32)
TREE = "sklearn.tree.DecisionTreeClassifier"


def test_an_estimator_is_made_by_name_with_settings_and_seed():
    made = fitted.estimator_from(TREE, {"max_depth": 3}, seed=7)

    assert isinstance(made, DecisionTreeClassifier)
    assert (made.max_depth, made.random_state) == (3, 7)
    assert fitted.estimator_from(TREE, {"random_state": 5}, seed=7).random_state == 5


def test_estimators_may_hold_estimators():
    made = fitted.estimator_from(
        "sklearn.pipeline.Pipeline",
        {
            "steps": [
                ["scale", {"class": "sklearn.preprocessing.StandardScaler", "with_mean": False}],
                [
                    "forest",
                    {
                        "class": "sklearn.calibration.CalibratedClassifierCV",
                        "estimator": {"class": "sklearn.ensemble.RandomForestClassifier"},
                    },
                ],
            ]
        },
        seed=3,
    )

    assert isinstance(made, Pipeline)
    assert not made["scale"].with_mean
    assert isinstance(made["forest"], CalibratedClassifierCV)
    assert made["forest"].estimator.random_state == 3


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("DecisionTree", {}, "expected the full name of a class of scikit-learn"),
        ("os.system", {}, "expected the full name of a class of scikit-learn"),
        ("sklearn.trees.DecisionTreeClassifier", {}, "no module 'sklearn.trees'"),
        ("sklearn.tree.DecisionTreeClasifier", {}, "did you mean 'DecisionTreeClassifier'"),
        (TREE, {"max_dept": 3}, "no setting 'max_dept'; did you mean 'max_depth'"),
        ("sklearn.model_selection.KFold", {}, "is no estimator"),
        ("sklearn.pipeline.Pipeline", {}, "missing 1 required positional argument: 'steps'"),
    ],
)
def test_a_wrong_name_or_setting_is_told(name, settings, said):
    with pytest.raises(ModelError, match=said):
        fitted.estimator_from(name, settings)


@pytest.mark.parametrize(
    ("estimator", "classes", "said"),
    [
        (DecisionTreeClassifier(), None, "no regressor, and the label is a value"),
        (HistGradientBoostingRegressor(), 2, "no classifier, and the label is a class"),
        (KMeans(), 3, "no classifier"),
        (LinearSVC(), 2, "gives no probabilities; put it into another"),
    ],
)
def test_an_estimator_that_does_not_fit_the_label_is_told(estimator, classes, said):
    with pytest.raises(ModelError, match=said):
        fitted.task_of(estimator, classes)


def test_what_scikit_learn_refuses_is_told():
    with pytest.raises(
        ModelError, match="LogisticRegression: This solver needs samples of at least 2 classes"
    ):
        fitted.fit(LogisticRegression(), X, np.zeros(len(X)))
    estimator = fitted.fit(KNeighborsClassifier(500), X, Y)
    with pytest.raises(ModelError, match="KNeighborsClassifier: Expected n_neighbors <= n_samples"):
        fitted.scores(estimator, X, "binary", 2)


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(random_state=0),
        RandomForestClassifier(5, random_state=0),
        KNeighborsClassifier(),
        LogisticRegression(),
        CalibratedClassifierCV(SVC(), ensemble=False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_an_estimator_that_was_kept_answers_the_same(estimator, tmp_path):
    fitted.fit(estimator, X, Y)

    number, folder = fitted.save_version(
        tmp_path, "kind", fitted.dumps(estimator), estimator="sklearn.a.B", metadata={"a": 1}
    )
    again, metadata = fitted.load(folder)

    assert (number, metadata) == (1, {"a": 1})
    assert registry.versions(tmp_path, "kind") == [1]
    answers = [fitted.scores(each, X, "binary", 2) for each in (estimator, again)]
    assert np.array_equal(*answers)
    assert answers[0].shape == (120,)


def test_classes_that_no_training_row_has_get_no_probability():
    estimator = fitted.fit(DecisionTreeClassifier(), X, np.where(Y == 1, 3, 1))

    found = fitted.scores(estimator, X, "classes", 5)

    assert found.shape == (120, 5)
    assert not found[:, [0, 2, 4]].any()
    assert np.array_equal(found[:, 3], Y)


def test_values_are_scored_as_they_are():
    y = X[:, 0] * 2
    estimator = fitted.fit(HistGradientBoostingRegressor(), X, y)

    assert np.array_equal(fitted.scores(estimator, X, "regression", 1), estimator.predict(X))


class Mine(BaseEstimator):
    """An estimator of the user's own."""


def test_foreign_types_are_neither_written_nor_read():
    with pytest.raises(ModelError, match=r"holds .*Mine, expected only types of scikit-learn"):
        fitted.dumps(Mine())
    with pytest.raises(ModelFileError, match=r"here: holds .*Mine, .* it is refused"):
        fitted.loads(skops.dumps(Mine()), "here")


def test_a_file_that_names_a_function_of_python_is_refused():
    data = fitted.dumps(fitted.fit(DecisionTreeClassifier(), X, Y))
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema |= {
                    "__class__": "system",
                    "__module__": "os",
                    "__loader__": "FunctionNode",
                    "content": "os.system",
                }
                content = json.dumps(schema).encode()
            new.writestr(name, content)

    with pytest.raises(ModelFileError, match=r"os\.system"):
        fitted.loads(made.getvalue())


def test_a_damaged_file_is_told(tmp_path):
    data = fitted.dumps(fitted.fit(DecisionTreeClassifier(), X, Y))
    _, folder = fitted.save_version(tmp_path, "tree", data, estimator=TREE, metadata={})
    path = folder / "estimator.skops"
    path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])

    with pytest.raises(ModelFileError, match=r"SHA-256 is .*the file is damaged"):
        fitted.load(folder)
    with pytest.raises(ModelFileError, match="cannot be read"):
        fitted.loads(data[:50])


def test_networks_and_estimators_are_not_mistaken_for_each_other(tmp_path):
    data = fitted.dumps(fitted.fit(DecisionTreeClassifier(), X, Y))
    _, folder = fitted.save_version(tmp_path, "tree", data, estimator=TREE, metadata={})
    (tmp_path / "model.json").write_text('{"format": "dlflow-model"}')

    with pytest.raises(ModelFileError, match=r"this is sklearn\.tree\.DecisionTreeClassifier, no network"):
        registry.load(folder)
    with pytest.raises(ModelFileError, match="cannot be read"):
        fitted.load(tmp_path)
