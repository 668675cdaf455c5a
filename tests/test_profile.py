import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.profile import profile, sketch_of
from pipelines.sketch import summarise
from tests.strategies import CELLS, cuts, tables


def of(values, dtype, metadata=None):
    schema = pa.schema([pa.field("x", dtype, metadata=metadata)])
    return profile([pa.table([pa.array(values, dtype)], schema=schema)])["x"]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_profile_does_not_depend_on_the_cut(data):
    table = data.draw(tables())

    parts = profile(data.draw(cuts(table)))

    assert json.dumps(parts, allow_nan=False) == json.dumps(profile([table]))
    assert list(parts) == list(CELLS)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6) | st.integers(-5, 5).map(float), min_size=2, max_size=60))
def test_the_profile_of_numbers_is_that_of_numpy(values):
    found = of([*values, None], pa.float64())

    low, high = min(values), max(values)
    assert (found["rows"], found["nulls"], found["min"], found["max"]) == (len(values) + 1, 1, low, high)
    assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert found["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)
    assert found["distinct"] == len({value + 0.0 for value in values})
    edges = found["histogram"]["edges"]
    assert (
        found["histogram"]["counts"]
        == np.histogram(values, edges if low < high else [low, np.nextafter(high, np.inf)])[0].tolist()
    )
    assert (len(edges), edges[0], edges[-1]) == (31 if low < high else 2, low, high)


def test_each_kind_of_column_shows_what_it_has():
    assert of(["b", "a", "b", None], pa.string()) == {
        "type": "string",
        "rows": 4,
        "nulls": 1,
        "min": "a",
        "max": "b",
        "mean": None,
        "std": None,
        "distinct": 2,
        "histogram": None,
        "top": [["b", 2], ["a", 1]],
    }
    assert of([True, True, False], pa.bool_())["top"] == [[True, 2], [False, 1]]
    day = of([date(2024, 1, 1), date(2024, 1, 31), None], pa.date32())
    assert (day["type"], day["min"], day["max"], day["mean"]) == ("date", "2024-01-01", "2024-01-31", None)
    assert day["histogram"]["edges"][::15] == ["2024-01-01", "2024-01-16", "2024-01-31"]
    at = of([0, 3_000_000], pa.timestamp("us", "UTC"))
    assert (at["type"], at["max"]) == ("timestamp", "1970-01-01T00:00:03+00:00")
    binary = of([b"x", None], pa.binary())
    assert (binary["type"], binary["rows"], binary["nulls"], binary["distinct"], binary["top"]) == (
        "binary",
        2,
        1,
        None,
        [],
    )


@pytest.mark.parametrize(
    "dtype",
    [
        pa.float64(),
        pa.int8(),
        pa.string(),
        pa.bool_(),
        pa.date32(),
        pa.timestamp("us", "UTC"),
        pa.binary(),
        pa.null(),
    ],
    ids=str,
)
@pytest.mark.parametrize("values", [[], [None, None]])
def test_a_column_without_values_has_a_profile(dtype, values):
    found = of(values, dtype)

    assert (found["rows"], found["nulls"], found["min"], found["histogram"], found["top"]) == (
        len(values),
        len(values),
        None,
        None,
        [],
    )


@pytest.mark.parametrize(
    "values", [[1e308, -1e308], [5e-324, 0.0], [2.0**53, 2.0**53 + 2], [0.1, 0.1 + 2.0**-56], [3.0]]
)
def test_extreme_columns_have_a_histogram_of_all_rows(values):
    found = of(values, pa.float64())

    assert sum(found["histogram"]["counts"]) == len(values)
    assert found["histogram"]["edges"] == sorted(found["histogram"]["edges"])
    json.dumps(found, allow_nan=False)


def test_the_largest_integers_are_all_in_the_histogram():
    assert sum(of([-(2**63), 0, 2**63 - 1], pa.int64())["histogram"]["counts"]) == 3


def test_more_values_than_can_be_counted_are_not_counted():
    many = of([f"id {number}" for number in range(10_001)], pa.string())

    assert (many["distinct"], many["top"], many["min"]) == (None, [], "id 0")


def test_long_texts_are_cut():
    assert of(["x" * 500], pa.string())["top"] == [["x" * 97 + "...", 1]]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [(["ann@x.org"], pa.string()), ([1.5, 2.5], pa.float64()), ([date(1980, 5, 5)], pa.date32())],
)
def test_a_private_column_shows_none_of_its_values(values, dtype):
    found = of(values, dtype, {"privacy": "personal"})

    assert (found["rows"], found["distinct"]) == (len(values), len(values))
    assert {name: found[name] for name in ("min", "max", "mean", "std", "histogram", "top")} == {
        "min": None,
        "max": None,
        "mean": None,
        "std": None,
        "histogram": None,
        "top": [],
    }


def test_two_rounds_are_enough():
    table = pa.table({"x": np.arange(50_000.0), "s": ["a"] * 50_000})
    sketch = sketch_of(table.schema)

    done, request = sketch.finish(sketch.sketch(table, None), None)
    assert not done
    done, fitted = sketch.finish(sketch.sketch(table, request), request)

    assert done
    assert fitted == summarise(sketch, [table])
