import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.errors import InputError, SpecError
from pipelines.features import Features
from pipelines.sketch import summarise
from pipelines.stage import ORIGIN


def with_origin(table):
    rows = table.num_rows
    for field, values in zip(ORIGIN, ([0] * rows, range(1, rows + 1), [-1] * rows), strict=True):
        table = table.append_column(field, pa.array(list(values), field.type))
    return table


def fitted(step, parts):
    stage = step.stage(parts[0].schema)
    recipe = summarise(stage.sketch, [part.select(list(stage.columns)) for part in parts])
    return stage.mapped(json.loads(json.dumps(recipe))), recipe


def matrix(table):
    field = table.schema.field("x")
    shape = json.loads(field.metadata[b"shape"])
    rows = [np.frombuffer(value, "<f4") for value in table["x"].to_pylist()]
    return np.array(rows).reshape(-1, *shape), json.loads(field.metadata[b"names"])


ROWS = with_origin(
    pa.table(
        {
            "id": [1, 2, 3, 4, 5],
            "price": [1.0, 3.0, None, 5.0, 1e9],
            "kind": ["a", "b", "a", None, "z"],
            "late": pa.array([0, 1, 0, 1, 1], pa.int32()),
            "split": ["train", "train", "train", "test", "test"],
        }
    )
)


def test_scales_and_categories_are_learned_from_the_training_rows_alone():
    map_, recipe = fitted(
        Features(label="late", numeric=("price",), categorical=("kind",), key=("id",), min_count=1), [ROWS]
    )

    rows = map_(ROWS)

    X, names = matrix(rows.kept)
    assert names == ["price", "price is missing", "kind = a", "kind = b"]
    assert recipe["inputs"][0] == {
        "encode": "scale",
        "column": "price",
        "center": 2.0,
        "width": pytest.approx(2**0.5),
        "low": -8.0,
        "high": 8.0,
        "fill": 2.0,
        "missing": True,
    }
    assert X[:, 0] == pytest.approx(
        [-(0.5**0.5), 0.5**0.5, 0.0, 3 * 0.5**0.5, 8.0]
    )  # a wild value is held at 8 deviations
    assert X[:, 1].tolist() == [0, 0, 1, 0, 0]
    assert X[:, 2:].tolist() == [
        [1, 0],
        [0, 1],
        [1, 0],
        [0, 0],
        [0, 0],
    ]  # unknown and missing categories are all zeros
    assert rows.kept["y"].to_pylist() == [0, 1, 0, 1, 1]
    assert rows.kept["id"].to_pylist() == [1, 2, 3, 4, 5]
    assert rows.kept.schema.field("x").type == pa.binary(16)


def test_the_recipe_does_not_depend_on_the_cut():
    step = Features(label="late", numeric=("price",), categorical=("kind",), min_count=1)

    _, whole = fitted(step, [ROWS])
    _, cut = fitted(step, [ROWS.slice(3), ROWS.slice(0, 1), ROWS.slice(1, 2)])

    assert whole == cut


def test_a_row_without_a_usable_label_is_set_aside():
    rows = ROWS.set_column(3, "late", pa.array(["no", None, "no", "maybe", "no"]))
    map_, recipe = fitted(Features(label="late", numeric=("price",)), [rows])

    made = map_(rows)

    assert recipe["classes"] == ["no"]
    assert made.kept.num_rows == 3
    assert made.rejected["message"].to_pylist() == [
        "label 'late' is missing",
        "label 'maybe' is not among those of the training rows",
    ]
    assert made.rejected["_line"].to_pylist() == [2, 4]


def test_a_float_label_is_a_value():
    rows = ROWS.set_column(3, "late", pa.array([0.5, 1.5, 2.5, 3.5, 4.5]))
    map_, recipe = fitted(Features(label="late", numeric=("price",)), [rows])

    made = map_(rows)

    assert recipe["classes"] is None
    assert made.kept.schema.field("y").type == pa.float32()


def test_no_training_rows_is_an_error_that_says_where_to_look():
    nobody = ROWS.filter(pc.equal(ROWS["split"], "test"))

    with pytest.raises(InputError, match="no training rows; look at the split"):
        fitted(Features(label="late", numeric=("price",)), [nobody])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "lat", "numeric": ("price",)}, "no column 'lat'; did you mean 'late'"),
        (
            {"label": "late", "numeric": ("kind",)},
            "column 'kind' is string, standard takes integer or float or bool",
        ),
        ({"label": "late", "numeric": ("price", "late")}, "the label 'late' is also a feature"),
        ({"label": "late", "numeric": ("price",), "categorical": ("price",)}, r"\['price'\] are there twice"),
        ({"label": "late"}, "name at least one numeric or categorical column"),
    ],
)
def test_features_that_cannot_work_say_so_before_they_run(settings, message):
    with pytest.raises(SpecError, match=message):
        Features(**settings).build(ROWS.schema)


def test_a_column_with_a_privacy_class_may_not_become_a_feature():
    schema = ROWS.schema.set(2, ROWS.schema.field("kind").with_metadata({"privacy": "direct"}))

    with pytest.raises(
        SpecError, match="column 'kind' has privacy class 'direct' and may not become a feature"
    ):
        Features(label="late", categorical=("kind",)).build(schema)
