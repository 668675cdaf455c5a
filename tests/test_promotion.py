"""Which version of a model is in use: what passes its gate."""

import json
import textwrap

import numpy as np
import pytest

from dlflow import registry
from dlflow.errors import ModelError
from dlflow.nn import Dense
from flows.parameters import Parameters
from flows.project import open_project
from flows.promotion import judge, promote, promote_passing, promoted
from tests.projects import command

FILE = """
    name = "shop"
    [sources.rows]
    kind = "csv"
    path = "*.csv"
    columns = {{ id = "int64", v = "float64", y = "int64" }}
    [tables.features]
    source = "rows"
    steps = [
      {{ do = "split", by = ["id"], validation = 0.2, test = 0.2 }},
      {{ do = "features", numeric = ["v"], label = "y" }},
    ]
    [models.m]
    table = "features"
    layers = [{{ layer = "dense", units = 1, activation = "sigmoid" }}]
    loss = "binary_cross_entropy"
    {gate}
"""


@pytest.fixture
def project(tmp_path):
    def make(gate):
        path = tmp_path / "pipeline.toml"
        text = textwrap.dedent(FILE.format(gate=gate))
        path.write_text(text)
        return open_project(path)

    return make


def version(project, **metrics):
    number, _ = registry.save_version(
        project.state / "models",
        "m",
        weights=np.zeros(2, np.float32),
        layers=[Dense(1, activation="sigmoid")],
        in_shape=(1,),
        metadata={
            "record": {"metrics": {"test": metrics}},
            "lineage": {"table": "features", "version": 3, "run": "r"},
        },
    )
    return number


@pytest.mark.parametrize(
    ("gate", "metrics", "passed", "why"),
    [
        ("", [{"auc": 0.1}], True, "there is no gate"),
        ('gate = { metric = "auc", at_least = 0.6 }', [{"auc": 0.61}], True, "auc is 0.61"),
        ('gate = { metric = "auc", at_least = 0.6 }', [{"auc": 0.59}], False, "auc is 0.59, expected at least 0.6"),
        ('gate = { metric = "log_loss", at_least = 0.6 }', [{"log_loss": 0.7}], False, "expected at most 0.6"),
        ('gate = { metric = "auc", drop = 0.02 }', [{"auc": 0.7}, {"auc": 0.69}], True, "auc is 0.69"),
        ('gate = { metric = "auc", drop = 0.02 }', [{"auc": 0.7}, {"auc": 0.6}], False, "that of version 1 in use is 0.7"),
        ('gate = { metric = "log_loss", drop = 0.02 }', [{"log_loss": 0.5}, {"log_loss": 0.6}], False, "no more than 0.02 worse"),
        ('gate = { metric = "log_loss", drop = 0.02 }', [{"log_loss": 0.6}, {"log_loss": 0.5}], True, "log_loss is 0.5"),
    ],
)  # fmt: skip
def test_a_gate_decides(project, gate, metrics, passed, why):
    project = project(gate)
    for number, each in enumerate(metrics):
        version(project, **each)
        if number == 0 and len(metrics) > 1:
            promote(project, "m", 1, "first")

    verdict = judge(project, "m")

    assert (verdict.passed, verdict.version) == (passed, len(metrics))
    assert why in verdict.why


def test_the_flow_promotes_what_passes_and_names_what_does_not(project):
    project = project('gate = { metric = "auc", drop = 0.02 }')
    version(project, auc=0.7)
    run = Parameters(file=str(project.pipeline.file))
    promote_passing(run)
    version(project, auc=0.5)

    with pytest.raises(ModelError, match=r"m version 2: auc is 0.5.*the version in use stays"):
        promote_passing(run)

    assert promoted(project, "m") == 1


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ('gate = { metric = "auk" }', r"gate on 'auk' of 'test', measured are .*'auc'"),
        ('gate = { metric = "auc", on = "validation" }', "gate on 'auc' of 'validation'"),
    ],
)
def test_a_gate_on_what_was_not_measured_is_an_error(project, gate, message):
    project = project(gate)
    version(project, auc=0.7)

    with pytest.raises(ModelError, match=message):
        judge(project, "m")


def test_commands_list_and_promote_versions(project, tmp_path):
    project = project("")
    version(project, auc=0.6)
    version(project, auc=0.7)

    done = command(tmp_path, "promote", "m", "1")
    listed = json.loads(command(tmp_path, "models", "--json").stdout)
    refused = command(tmp_path, "promote", "m", "3")

    assert done.stdout == "model m: version 1 is in use\n"
    assert [(one["version"], one["in_use"]) for one in listed] == [(2, False), (1, True)]
    assert refused.returncode == 2
    assert "model 'm' has no version 3; expected one of [1, 2]" in " ".join(refused.stderr.split())
