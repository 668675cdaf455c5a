"""A training that begins with the weights of another: a job, and a model of a pipeline on a newer snapshot."""

import json
from dataclasses import replace

import pytest

from dlflow import registry
from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import Dense
from dlflow.parallel.testing import ThreadRing, on_every_rank
from dlflow.training import Weights, fit, train
from dlflow.training.checkpoint import load_checkpoint, load_weights
from flows.project import open_project
from pipelines.errors import SpecError
from tests import projects
from tests.test_model_weights import project
from tests.test_training_trainer import told
from tests.training_jobs import job


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("begin")


@pytest.fixture(scope="module")
def first(folder):
    return fit(job(folder, "first"))


def test_a_job_that_begins_with_weights_goes_on_from_them_with_the_same_bits_on_any_number_of_ranks(
    folder, first, tmp_path
):
    begin = Weights(first.weights_sha256, first.weights)
    this = job(folder, "warm", begin=begin, seed=4)
    outcome = fit(this)
    outcomes = on_every_rank(ThreadRing(3), lambda comm: train(replace(this, folder=str(tmp_path)), comm))

    assert outcome.history[0]["loss"] < 0.7 * first.history[0]["loss"]
    assert {each.weights_sha256 for each in outcomes} == {outcome.weights_sha256}
    assert told(outcomes[0].history) == told(outcome.history)
    assert this.fingerprint != replace(this, begin=None).fingerprint
    assert this.fingerprint == replace(this, begin=replace(begin, path="/elsewhere")).fingerprint


def test_weights_that_are_not_those_are_refused_before_the_first_step(folder, first):
    begin = Weights(first.weights_sha256, first.weights)

    with pytest.raises(ModelFileError, match=r"weights have sha256 .*, expected 0000"):
        fit(job(folder, "other digest", begin=replace(begin, sha256="0000")))
    with pytest.raises(
        ModelError, match=r"first.* has 225 weights to begin with, expected 13; give those of the same layers"
    ):
        fit(job(folder, "other layers", begin=begin, layers=(Dense(1, activation="sigmoid"),)))


def test_a_model_of_a_pipeline_begins_with_its_last_version_on_a_newer_snapshot(tmp_path):
    folder = project(tmp_path, "warm_start = true")
    (cold,) = projects.run(folder)["models"]
    with (folder / "rows.csv").open("a") as file:
        file.write(
            "".join(f"{number},{2 - 4 * (number % 2)},1,{number % 2}\n" for number in range(900, 1000))
        )
    (warm,) = projects.run(folder)["models"]

    assert cold["warm_start"] is None
    assert warm["warm_start"] == 1
    assert warm["version"] > cold["version"]
    root = open_project(folder / "pipeline.toml").state / "models"
    state = json.loads((root / "m" / "2" / "model.json").read_text())["metadata"]["record"]
    assert state["warm_start"] == 1
    assert warm["history"][0]["loss"] < 0.9 * cold["history"][0]["loss"]

    file = (
        folder / "pipeline.toml"
    )  # the same model, proven again: it begins where it began, and not with itself
    (again,) = projects.run(folder, prove=True)["models"]
    assert (again["warm_start"], again["weights_sha256"]) == (1, warm["weights_sha256"])
    assert again["proof"]["identical"]
    file.write_text(file.read_text().replace("units = 1,", "units = 1, l2 = 0.1,"))
    (other,) = projects.run(folder)["models"]
    assert other["warm_start"] is None  # other layers
    assert registry.versions(root, "m")[-1] >= 3


def test_checkpoints_of_a_pipeline_stay_where_the_file_says(tmp_path):
    folder = project(tmp_path, 'checkpoints = "kept"\nkeep_best = 3\nmonitor = "loss"')

    (record,) = projects.run(folder)["models"]

    (home,) = (folder / "kept").iterdir()
    assert record["checkpoints"]["folder"] == str(home)
    losses = [line["loss"] for line in record["history"]]
    best = [load_checkpoint(path) for path in record["checkpoints"]["best"]]
    assert [each.progress.history[-1]["loss"] for each in best] == sorted(losses)[:3]
    assert 3 <= len(list(home.glob("*-*.safetensors"))) <= 5  # and the newest two
    assert (
        len(load_weights(home / "weights.safetensors", sha256=record["weights_sha256"]))
        == record["parameters"]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("keep_best = 2", 'keep_best = 2: expected a folder where they stay; set checkpoints = "FOLDER"'),
        ("keep_last = 0", "keep_last = 0: expected at least 1"),
    ],
)
def test_checkpoints_that_could_not_stay_are_told(tmp_path, settings, message):
    with pytest.raises(SpecError, match=message):
        open_project(project(tmp_path, settings) / "pipeline.toml")
