"""Every pipeline of the gallery is valid, and each of its models has the same weights on one rank and on two."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Dataset, TableFile
from dlflow.parallel.testing import ThreadRing, on_every_rank
from dlflow.training import Job, fit, train
from flows.project import open_project

GALLERY = Path(__file__).parents[1] / "flows" / "gallery"
INPUTS = {  # what the features of each pipeline are: dtype, shape, numbers below
    "bikes": ("float32", (48, 4), None),
    "digits": ("uint8", (28, 28), 256),
    "flights": ("float32", (30,), None),
    "iris": ("float32", (4,), None),
    "hearts": ("float32", (25,), None),
    "messages": ("int32", (60,), 4002),
    "music": ("int32", (2,), 3517),
    "orders": ("float32", (30,), None),
}
ROWS = 70
MODELS = [
    (pipeline, model)
    for pipeline in sorted(INPUTS)
    for model, spec in sorted(open_project(GALLERY / pipeline / "pipeline.toml").models.items())
    if spec.kind == "network"
]


def test_every_pipeline_of_the_gallery_is_known_here():
    assert {path.parent.name for path in GALLERY.glob("*/pipeline.toml")} == set(INPUTS)


def made_up(path, dtype, shape, below, classes):
    rng = np.random.default_rng(0)
    size = (ROWS, *shape)
    X = (rng.integers(below, size=size) if below else rng.normal(size=size)).astype(dtype)
    width = X.itemsize * int(np.prod(shape))
    metadata = {"dtype": dtype, "shape": json.dumps(shape)} | ({"scale": "0.004"} if dtype == "uint8" else {})
    y = rng.integers(classes, size=ROWS).astype(np.int32 if classes > 1 else np.float32)
    schema = pa.schema(
        [pa.field("x", pa.binary(width), metadata=metadata), pa.field("y", pa.from_numpy_dtype(y.dtype))]
    )
    values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), ROWS, [None, pa.py_buffer(X.tobytes())])
    pq.write_table(pa.table([values, pa.array(y)], schema=schema), path, row_group_size=32)
    return Dataset((TableFile.of(path),))


@pytest.mark.parametrize(("pipeline", "model"), MODELS)
def test_a_model_of_the_gallery_has_the_same_weights_on_one_rank_and_on_two(pipeline, model, tmp_path):
    spec = open_project(GALLERY / pipeline / "pipeline.toml").models[model]
    layers, loss, optimizer = spec.made()
    classes = {"binary": 2, "classes": 10, "regression": 1}[loss.task]
    job = Job(
        layers=layers,
        loss=loss,
        optimizer=optimizer,
        train=made_up(tmp_path / "rows.parquet", *INPUTS[pipeline], classes),
        folder=str(tmp_path / "one"),
        batch=32,
        epochs=1,
        seed=spec.seed,
    )

    alone = fit(job)
    ranks = on_every_rank(ThreadRing(2), lambda comm: train(replace(job, folder=str(tmp_path / "two")), comm))

    assert alone.steps == 3
    assert {rank.weights_sha256 for rank in ranks} == {alone.weights_sha256}
