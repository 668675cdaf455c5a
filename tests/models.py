"""Registered models that tests ask, made without a pipeline: the recipe is fitted on rows, the weights are random."""

import json

import numpy as np
import pyarrow as pa

from dlflow import nn, registry
from flows.predictor import open_predictor
from pipelines import warehouse
from pipelines.features import Features, encode
from pipelines.sketch import summarise
from pipelines.stage import ORIGIN
from pipelines.tensor import column, metadata

DAYS = pa.array(np.arange(60) * 86_400_000_000, pa.timestamp("us", "UTC"))


def rows(count=60, seed=0):
    """Rows of every kind of column, some with missing values."""
    random = np.random.default_rng(seed)
    kind = [("a", "b", None)[place] for place in random.integers(0, 3, count)]
    image = random.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return pa.table(
        {
            "id": pa.array(np.arange(count)),
            "price": pa.array(random.normal(5, 2, count), mask=random.random(count) < 0.1),
            "size": pa.array(random.integers(-3, 9, count), pa.int32()),
            "kind": kind,
            "fresh": pa.array(random.random(count) < 0.5),
            "at": DAYS.take(pa.array(random.integers(0, 60, count))),
            "text": [" ".join(random.choice(["good", "bad", "so", "so-so"], 3)) for _ in range(count)],
            "image": column(image),
            "grade": [("high", "low", "middle")[place] for place in random.integers(0, 3, count)],
            "late": pa.array(random.integers(0, 2, count)),
            "cost": random.random(count),
            "split": ["train"] * count,
        },
        schema=pa.schema(
            [
                pa.field("id", pa.int64()),
                pa.field("price", pa.float64()),
                pa.field("size", pa.int32()),
                pa.field("kind", pa.string()),
                pa.field("fresh", pa.bool_()),
                pa.field("at", pa.timestamp("us", "UTC")),
                pa.field("text", pa.string()),
                pa.field("image", pa.binary(16), metadata=metadata("uint8", (4, 4, 1), 1 / 255)),
                pa.field("grade", pa.string()),
                pa.field("late", pa.int64()),
                pa.field("cost", pa.float64()),
                pa.field("split", pa.string()),
            ]
        ),
    )


MIXED = {
    "price": "robust",
    "size": "standard",
    "kind": {"encode": "one_hot", "min_count": 1},
    "fresh": "plain",
    "at": {"encode": "date", "parts": ["month", "weekday"]},
}
KINDS = {  # columns, label, layers, loss
    "binary, from logits": (MIXED, "late", (nn.Dense(4, "relu"), nn.Dense(1)), "binary_cross_entropy"),
    "classes of an image": (
        {"image": "tensor"},
        "grade",
        (nn.Conv2D(2, 3), nn.Flatten(), nn.Dense(3, "softmax")),
        "sparse_categorical_cross_entropy",
    ),
    "classes, from logits": (MIXED, "grade", (nn.Dense(3),), "sparse_categorical_cross_entropy"),
    "a value": (MIXED, "cost", (nn.Dense(5, "tanh"), nn.Dense(1)), "mean_squared_error"),
    "tokens": (
        {"text": {"encode": "tokens", "length": 4}},
        "late",
        (nn.Embedding(9, 3), nn.LSTM(3), nn.Dense(1, "sigmoid")),
        "binary_cross_entropy",
    ),
}


def registered(root, kind="binary, from logits", *, name="m", seed=0, table=None, key=("id",)):
    """A new version of a model in the warehouse at `root`, opened."""
    columns, label, layers, loss = KINDS[kind]
    table = rows() if table is None else table
    for field, values in zip(ORIGIN, (0, 1, -1), strict=True):
        table = table.append_column(field, pa.repeat(pa.scalar(values, field.type), table.num_rows))
    stage = Features(label=label, columns=columns, key=key).stage(table.schema)
    recipe = json.loads(json.dumps(summarise(stage.sketch, [table.select(list(stage.columns))])))
    shape = encode(table.slice(0, 1), recipe).x.shape[1:]
    model = nn.Model(layers, shape)
    model.init(seed)
    version, _ = registry.save_version(
        root / "_dlflow" / "models",
        name,
        weights=model.w,
        layers=layers,
        in_shape=shape,
        metadata={
            "loss": nn.loss_to(nn.loss_from(loss)),
            "features": [],
            "inputs": recipe,
            "lineage": {"table": "features", "version": 0, "run": "r"},
            "record": {"metrics": {}},
        },
    )
    return open_predictor(root / "_dlflow" / "models", name, version)


def committed(root, name, table, key="first"):
    """Append rows to a table of the warehouse."""
    uri = warehouse.table_uri(str(root), name)
    receipt = warehouse.write_file(uri, table, partition={}, schema=table.schema)
    return warehouse.append(
        uri, [receipt], key=key, schema=table.schema, lineage=warehouse.Lineage(run=f"test-{key}")
    )
