"""From texts to a model: tokens are learned from the training rows, reach the model as whole numbers, and are stored with it."""

import json

import numpy as np
import pyarrow as pa
import pytest

from dlflow import registry
from pipelines.features import encode
from tests import clusters, projects

FILE = """[sources.reviews]
kind = "csv"
path = "reviews.csv"
columns = { id = "int64", text = "string", good = "bool" }
[tables.tokens]
source = "reviews"
steps = [
  { do = "split", by = ["id"], test = 0.2 },
  { do = "features", label = "good", columns = { text = { encode = "tokens", length = 6, vocabulary = 50 } } },
]
partition_by = ["split"]
[models.mood]
table = "tokens"
layers = [
  { layer = "embedding", vocabulary = 52, units = 4 },
  { layer = "flatten" },
  { layer = "dense", units = 1 },
]
loss = "binary_cross_entropy"
optimizer = { kind = "adam", learning_rate = 0.05 }
batch = 32
epochs = 8
"""


def project(folder):
    """A project of opinions, and what they say."""
    rng = np.random.default_rng(2)
    words = {True: ["fine", "good", "lovely"], False: ["dull", "bad", "poor"]}
    lines = []
    for row in range(400):
        good = bool(rng.integers(2))
        text = [*rng.choice(["the", "film", "was", "very"], 3), rng.choice(words[good])]
        lines.append(f"{row},{' '.join(rng.permutation(text))},{str(good).lower()}")
    folder.mkdir(exist_ok=True)
    (folder / "reviews.csv").write_text("id,text,good\n" + "\n".join(lines) + "\n", "utf-8")
    (folder / "pipeline.toml").write_text(FILE, "utf-8")
    return folder


def test_a_model_learns_from_tokens(tmp_path):
    record = projects.run(project(tmp_path))

    (model,) = record["models"]
    assert model["metrics"]["test"]["accuracy"] > 0.95
    folder = registry.latest(tmp_path / "warehouse" / "_dlflow" / "models", "mood")
    recipe = json.loads((folder / "model.json").read_text("utf-8"))["metadata"]["inputs"]
    new = encode(pa.table({"text": ["a lovely film", "unheard of"]}), recipe)
    assert new.x.dtype == np.int32
    assert new.x[1].tolist() == [0, 0, 0, 0, 1, 1]
    assert set(recipe["inputs"][0]["words"]) >= {"lovely", "film", "dull"}


@pytest.mark.slow
def test_the_model_is_the_same_on_a_local_cluster_and_on_a_scheduler_and_workers_with_tls(tmp_path):
    digests, workers = [], []
    with clusters.two_workers(tmp_path) as outside:
        for name, options in {
            "here": {},
            "local": {"workers": 2},
            "outside": {"scheduler": outside.address, "tls": outside.tls},
        }.items():
            (model,) = projects.run(project(tmp_path / name), **options)["models"]
            digests.append(model["weights_sha256"])
            workers.append(model["workers"])

    assert outside.address.startswith("tls://")
    assert workers == [1, 2, 2]
    assert len(set(digests)) == 1
