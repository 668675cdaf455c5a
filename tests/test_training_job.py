"""A job is checked when it is made, and its fingerprint is all that decides the weights."""

from dataclasses import replace

import numpy as np
import pytest

from dlflow.data import Dataset, TableFile
from dlflow.errors import ModelError
from dlflow.nn import SGD, Adam, Dense, MeanSquaredError
from dlflow.nn.layers import Layer
from dlflow.training import Job

DATA = Dataset((TableFile("/data/a.parquet", (100, 50)),))


def job(**settings):
    chosen = {
        "layers": (Dense(1),),
        "loss": MeanSquaredError(),
        "optimizer": Adam(),
        "train": DATA,
        "folder": "/run",
    }
    return Job(**{**chosen, **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0, expected at least 1"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"shards": 6}, "shards is 6, expected a power of two"),
        ({"shards": -2}, "shards is -2, expected a power of two"),
        ({"shards": 4096}, "shards is 4096, expected a power of two up to 1024"),
        ({"seed": -1}, "seed is -1, expected a whole number"),
        ({"checkpoint_s": 0.0}, "checkpoint_s is 0.0, expected seconds above 0"),
        ({"patience": 3}, "patience is 3 and validation is missing"),
        ({"patience": 0, "validation": DATA}, "patience is 0 and validation is given, expected at least 1"),
        ({"train": Dataset((TableFile("/data/empty.parquet", ()),))}, "train has no rows"),
        ({"validation": Dataset((TableFile("/data/empty.parquet", ()),))}, "validation has no rows"),
    ],
)
def test_settings_that_do_not_fit_are_named_with_what_to_do(settings, message):
    with pytest.raises(ModelError, match=message):
        job(**settings)


def test_equal_jobs_have_equal_fingerprints_in_every_process():
    assert job().fingerprint == job().fingerprint
    assert len(job().fingerprint) == 64


@pytest.mark.parametrize(
    "settings",
    [
        {"layers": (Dense(1, use_bias=False),)},
        {"layers": (Dense(2), Dense(1))},
        {"optimizer": Adam(0.01)},
        {"optimizer": SGD(0.001)},
        {"train": Dataset((TableFile("/data/b.parquet", (100, 50)),))},
        {"train": Dataset((TableFile("/data/a.parquet", (50, 100)),))},
        {"train": replace(DATA, y="label")},
        {"validation": DATA},
        {"batch": 64},
        {"epochs": 11},
        {"seed": 1},
        {"shards": 4},
    ],
)
def test_what_decides_the_weights_changes_the_fingerprint(settings):
    assert job(**settings).fingerprint != job().fingerprint


@pytest.mark.parametrize("settings", [{"folder": "/elsewhere"}, {"checkpoint_s": 1.0}])
def test_where_and_when_do_not_change_the_fingerprint(settings):
    assert job(**settings).fingerprint == job().fingerprint


def test_a_layer_that_is_no_dataclass_cannot_be_told_from_another():
    class Odd(Layer):
        kind = "odd"

        def build(self, in_shape):
            return {}, in_shape

        def forward(self, p, X, rng, space):
            return X, lambda dY, dp, need: dY

    with pytest.raises(ModelError, match="expected a frozen dataclass"):
        job(layers=(Odd(),)).fingerprint  # noqa: B018


def test_a_setting_that_is_an_array_is_refused():
    with pytest.raises(ModelError, match="is a ndarray, expected a frozen dataclass"):
        job(layers=(np.zeros(3),)).fingerprint  # noqa: B018
