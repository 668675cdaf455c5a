"""The models of a pipeline file are checked with it: every loss, optimizer, schedule and callback, and every mistake has its line."""

import re
from pathlib import Path

import pytest

from dlflow import nn
from flows.project import open_project
from pipelines.errors import SpecError

ROOT = Path(__file__).parent.parent
HEAD = """
name = "shop"
[sources.orders]
kind = "csv"
path = "orders.csv"
[sources.orders.columns]
order_id = "int64"
price = "float64"
returned = "int32"
[tables.features]
source = "orders"
steps = [
  { do = "split", by = ["order_id"], test = 0.2, validation = 0.1 },
  { do = "features", label = "returned", numeric = ["price"] },
]
partition_by = ["split"]
"""
MODEL = """
[models.returns]
table = "features"
layers = [{ layer = "dense", units = 1 }]
loss = "binary_cross_entropy"
"""


def opened(folder, model):
    path = folder / "pipeline.toml"
    path.write_text(HEAD + model)
    return open_project(path).models["returns"]


def test_the_model_of_the_guide_is_what_it_says(tmp_path):
    guide = (ROOT / "docs" / "training.md").read_text("utf-8")
    model = opened(tmp_path, re.search(r"```toml\n(.*?)```", guide, re.DOTALL)[1])

    layers, loss, optimizer = model.made()

    assert layers[0] == nn.Dense(64, "relu", l2=1e-4, constraint=nn.MaxNorm(2.0))
    assert loss == nn.BinaryCrossEntropy(class_weights=(1.0, 3.0), label_smoothing=0.05)
    rate = nn.WarmUp(100, then=nn.Cosine(0.002, updates=5000))
    assert optimizer == nn.AdamW(rate, weight_decay=0.01, clip_global_norm=1.0, average=0.999)
    assert model.watching() == (
        nn.EarlyStopping(patience=5),
        nn.ReduceOnPlateau(patience=2, factor=0.3),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('callbacks = [{ callback = "early_stoping" }]', "did you mean 'early_stopping'"),
        ('callbacks = [{ callback = "early_stopping", patiance = 3 }]', "did you mean 'patience'"),
        ('callbacks = [{ callback = "history_file", path = "a.csv" }]', "'history_file' writes files"),
        ('patience = 3\ncallbacks = [{ callback = "early_stopping" }]', "all choose the final weights"),
        ("patience = 0", "patience = 0: expected at least 1"),
        ('optimizer = { kind = "adam", learning_rate = { schedule = "cosin" } }', "did you mean 'cosine'"),
        (
            'optimizer = { kind = "adam", learning_rate = { schedule = "step", rate = 1 } }',
            "'every' is missing",
        ),
        ('optimizer = { kind = "adam", clip_nrm = 1.0 }', "did you mean 'clip_norm'"),
        (
            'slices = ["spilt"]',
            "models.returns.slices: the table keeps no column 'spilt'; did you mean 'split'?",
        ),
        ('slices = ["price"]', "keep it: { do = \"features\", keep = ['price'], ... }"),
        ('baselines = [{ column = "x" }]', "models.returns.baselines: the table keeps no column 'x'"),
        ('baselines = ["pror"]', "models.returns.baselines"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path, text, message):
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, MODEL + text)

    assert message in str(caught.value)
    assert re.search(r"pipeline\.toml:\d+", str(caught.value))


ESTIMATOR = """
[models.returns]
kind = "sklearn"
table = "features"
estimator = "sklearn.tree.DecisionTreeClassifier"
"""


def test_an_estimator_of_scikit_learn_is_a_model(tmp_path):
    model = opened(tmp_path, ESTIMATOR + "settings = { max_depth = 2 }\nseed = 9")

    made = model.made()

    assert (type(made).__name__, made.max_depth, made.random_state) == ("DecisionTreeClassifier", 2, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ESTIMATOR + "settings = { max_dept = 2 }", "did you mean 'max_depth'?"),
        (ESTIMATOR + "epochs = 3", "models.returns"),
        (ESTIMATOR.replace("Tree", "Treee"), "did you mean 'DecisionTreeClassifier'?"),
        (ESTIMATOR.replace('"sklearn"', '"sklern"'), "there is no kind 'sklern'; did you mean 'sklearn'?"),
        (ESTIMATOR + 'slices = ["spilt"]', "did you mean 'split'?"),
    ],
)
def test_mistakes_in_an_estimator_are_told_with_their_line(tmp_path, text, message):
    with pytest.raises(SpecError) as caught:
        opened(tmp_path, text)

    assert message in str(caught.value)
    assert re.search(r"pipeline\.toml:\d+", str(caught.value))
