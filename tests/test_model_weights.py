"""Rows that count more than others, in a model of the pipeline file."""

import textwrap

import numpy as np
import pytest

from dlflow.errors import ModelError
from flows.project import open_project
from flows.tuning import tune
from pipelines.errors import SpecError
from tests import projects

FILE = """
    name = "shop"
    [sources.rows]
    kind = "csv"
    path = "*.csv"
    columns = {{ id = "int64", v = "float64", trust = "float64", y = "int64" }}
    [tables.features]
    source = "rows"
    steps = [
      {{ do = "split", by = ["id"], validation = 0.2, test = 0.2 }},
      {{ do = "features", numeric = ["v"], label = "y", keep = ["trust"] }},
    ]
    partition_by = ["split"]
    [models.m]
    table = "features"
    layers = [{{ layer = "dense", units = 1, activation = "sigmoid" }}]
    loss = "binary_cross_entropy"
    optimizer = {{ kind = "adam", learning_rate = 0.1 }}
    epochs = 20
    {settings}
"""


def project(folder, settings):
    """800 rows, a tenth of class 1; those without trust say the opposite of the others."""
    rng = np.random.default_rng(0)
    lines = ["id,v,trust,y"]
    for number in range(800):
        one, trust = number % 10 == 0, rng.choice([0.0, 1.0])
        value = rng.normal(2 if one == (trust > 0) else -2)
        lines.append(f"{number},{value:.3f},{trust},{int(one)}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    (folder / "pipeline.toml").write_text(textwrap.dedent(FILE.format(settings=settings)))
    return folder


def model(folder):
    """What was registered: the loss, and the weight of v."""
    from dlflow import registry

    root = open_project(folder / "pipeline.toml").state / "models"
    found, metadata = registry.load(registry.latest(root, "m"))
    return metadata["loss"], float(found.p[0]["W"][0, 0])


def test_classes_are_balanced_by_the_training_rows_and_rows_count_as_their_column_says(tmp_path):
    folder = project(tmp_path, 'class_weights = "balanced"\nweight = "trust"')

    record = projects.run(folder)

    loss, slope = model(folder)
    counts = record["models"][0]["rows"]["train"]
    zero, one = loss["class_weights"]
    assert counts / 2 == pytest.approx(one * (ones := counts / (2 * one)), rel=1e-6)
    assert ones == pytest.approx(counts / 10, rel=0.3)
    assert zero == pytest.approx(counts / (2 * (counts - ones)), rel=1e-6)
    assert slope > 0.5  # what the rows with trust say


def test_without_weights_all_rows_count(tmp_path):
    folder = project(tmp_path, 'class_weights = "balanced"')

    projects.run(folder)

    assert abs(model(folder)[1]) < 0.5


def test_a_search_does_not_weigh_rows_and_says_so(tmp_path):
    found = open_project(project(tmp_path, 'weight = "trust"') / "pipeline.toml")

    with pytest.raises(ModelError, match="weighs its rows by 'trust', which the search does not"):
        tune(found, "m", {"epochs": [1]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('weight = "trusted"', "models.m.weight: the table keeps no column 'trusted'; did you mean 'trust'"),
        ('class_weights = "balance"', "balanced"),
    ],
)
def test_settings_that_do_not_fit_are_told(tmp_path, settings, message):
    folder = project(tmp_path, settings)

    with pytest.raises(SpecError, match=message):
        open_project(folder / "pipeline.toml")
