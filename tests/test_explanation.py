"""What a model's answers are due to: a planted signal is found, under the name of its column."""

import json

import numpy as np
import pyarrow as pa
import pytest

from dlflow import nn, registry
from flows.explanation import importance, parts_of_rows, places
from flows.predictor import open_predictor
from pipelines import warehouse
from pipelines.errors import PipelineError
from tests import models


@pytest.fixture
def predictor(tmp_path):
    """A model that looks at `price` alone, up to the weights of 0 of the rest, and its table of features."""
    made = models.registered(tmp_path, "a value")
    layers = (nn.Dense(1),)
    model = nn.Model(layers, made.model.in_shape)
    w = np.zeros(model.w.shape, np.float32)
    w[: model.parameters - 1][places(made)["price"][0]] = 2.0
    version, path = registry.save_version(
        tmp_path / "_dlflow" / "models",
        "m",
        weights=w,
        layers=layers,
        in_shape=made.model.in_shape,
        metadata=dict(made.metadata),
    )
    rows = models.rows(200, seed=6)
    X = made.encode(rows)
    X.flags.writeable = True
    field = pa.field(
        "x",
        pa.binary(X.shape[1] * 4),
        nullable=False,
        metadata={"dtype": "float32", "shape": json.dumps([X.shape[1]])},
    )
    x = pa.FixedSizeBinaryArray.from_buffers(field.type, len(X), [None, pa.py_buffer(X.tobytes())])
    price = 2 * X[:, places(made)["price"][0]]
    schema = pa.schema([field, pa.field("y", pa.float32(), nullable=False), pa.field("split", pa.string())])
    table = pa.table([x, pa.array(price), pa.array(["test"] * len(X))], schema=schema)
    uri = str(tmp_path / "features")
    receipt = warehouse.write_file(
        uri, table.drop_columns(["split"]), partition={"split": "test"}, schema=schema
    )
    warehouse.append(
        uri,
        [receipt],
        key="k",
        schema=schema,
        partition_by=["split"],
        lineage=warehouse.Lineage(run="r"),
    )
    assert path.name == str(version)
    return open_predictor(tmp_path / "_dlflow" / "models", "m")


def test_each_place_of_the_vector_has_its_column(predictor):
    found = places(predictor)

    assert found == {
        "price": [0, 1],  # and whether it is missing
        "size": [2],
        "kind": [3, 4],
        "fresh": [5],
        "at": [6, 7, 8, 9],
    }


def test_a_planted_signal_has_all_the_importance(predictor, tmp_path):
    found = importance(predictor, tmp_path, most=150, repeats=3, seed=1)

    assert found[0]["column"] == "price"
    assert found[0]["loss rises by"] > 0.1
    assert [one["loss rises by"] for one in found[1:]] == [0.0] * 4
    assert {one["rows"] for one in found} == {"test"}
    assert found == importance(predictor, tmp_path, most=150, repeats=3, seed=1)


def test_the_parts_of_a_row_add_up_to_its_score(predictor, tmp_path):
    rows = [{"price": 9.0, "size": 1, "kind": "b", "fresh": False, "at": "2026-01-05T00:00:00Z"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    found = parts_of_rows(predictor, tmp_path / "rows.jsonl")

    assert (found[0]["row"], found[0]["column"], found[0]["value"]) == (0, "price", 9.0)
    assert sum(one["part"] for one in found) == pytest.approx(found[0]["predicted"], rel=1e-5)


def test_features_that_are_gone_are_told(predictor, tmp_path):
    (tmp_path / "features").rename(tmp_path / "elsewhere")

    with pytest.raises(PipelineError, match="there is no table here"):
        importance(predictor, tmp_path, most=10, repeats=1, seed=0)
