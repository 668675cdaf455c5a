"""The search for settings of a model of the pipeline file: candidates from its text, compared on its own split."""

import json

import pytest

from dlflow.errors import ModelError
from dlflow.training.search import Range
from flows.project import open_project
from flows.tuning import space_of, tune
from pipelines import warehouse
from tests import projects


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A project with its table of features and a model."""
    folder = projects.make(tmp_path_factory.mktemp("tuning") / "shop", rows=800)
    projects.run(folder)
    return folder


@pytest.fixture
def project(shop):
    return open_project(shop / "pipeline.toml")


SPACE = {"layers.0.units": [2, 8], "optimizer.learning_rate": [0.001, 0.05], "epochs": [2]}


def test_candidates_are_compared_on_the_validation_rows_the_best_first(project):
    import numpy as np

    from dlflow import nn
    from flows.evaluation import sets_of
    from pipelines.storage import reference

    found = tune(project, "returns", SPACE)

    assert len(found) == 4
    assert [one["loss"] for one in found] == sorted(one["loss"] for one in found)
    table = warehouse.open_at(str(project.pipeline.warehouse), "features")
    sets = sets_of(reference("features", table))
    assert {file.sha256 for file in sets.train.files} <= {file.sha256 for file in table.files()}
    best = found[0]
    model = nn.Sequential(
        [nn.Dense(best["layers.0.units"], "relu"), nn.Dropout(0.1), nn.Dense(1)], sets.train.shape, seed=1
    )
    rate = best["optimizer.learning_rate"]
    model.compile(optimizer={"optimizer": "adam", "learning_rate": rate}, loss="binary_cross_entropy")
    model.fit(*sets.train.read(), batch_size=128, epochs=2)
    assert np.isclose(model.evaluate(*sets.validation.read())["loss"], best["loss"], rtol=1e-12)


def test_workers_find_the_same(project, local_cluster):
    settings = {"count": 3, "monitor": "auc", "folds": 2}
    space = {"layers.0.units": Range(2, 16), "batch": [64, 128], "epochs": [1]}

    alone = tune(project, "returns", space, **settings)

    assert alone == tune(project, "returns", space, **settings, client=local_cluster)
    assert [one["auc"] for one in alone] == sorted((one["auc"] for one in alone), reverse=True)


def test_a_candidate_that_diverges_is_told_last(project):
    found = tune(
        project, "returns", {"optimizer": [{"kind": "sgd", "learning_rate": 1e30}, "adam"], "epochs": [1]}
    )

    assert found[0]["error"] == ""
    assert found[1]["loss"] is None
    assert "finite" in found[1]["error"]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"layer.0.units": [1]}, "'layer' is not searched; did you mean 'layers'"),
        ({"layers.7.units": [1]}, "--try layers.7.units: there is no '7', expected a number below 3"),
        ({"layers.0.unit": [1]}, r"candidate \{'layers.0.unit': 1\}: .*did you mean 'units'"),
        ({"epochs": [0]}, r"candidate \{'epochs': 0\}: epochs = 0, expected a whole number from 1"),
        ({"optimizer.rate.low": [1]}, "--try optimizer.rate.low: there is no 'rate'"),
    ],
)
def test_a_setting_that_is_none_is_refused_before_any_work(project, space, message):
    with pytest.raises(ModelError, match=message):
        tune(project, "returns", space)


def test_a_model_that_is_not_in_the_file_is_refused(project):
    with pytest.raises(ModelError, match="there is no model 'return'; did you mean 'returns'"):
        tune(project, "return", {"epochs": [1]})


@pytest.mark.parametrize(
    "text", ["epochs", "epochs=", "=3", "epochs=1..x", "epochs=1..3:lin", "epochs=true..3"]
)
def test_a_space_that_is_none_is_refused(text):
    with pytest.raises(ModelError, match="--try "):
        space_of([text])


def test_the_command(shop):
    said = projects.command(shop, "search", "returns", "--try", "epochs=1,2", "--monitor", "auc", "--json")

    found = json.loads(said.stdout)
    assert sorted(one["epochs"] for one in found) == [1, 2]
    assert found[0]["auc"] >= found[1]["auc"]
