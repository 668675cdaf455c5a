"""Drift is measured from counts: the same whatever the cut, and near what others compute from all values."""

from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.drift import drift, psi
from pipelines.errors import InputError
from pipelines.sketch import summarise
from tests.strategies import cuts


def between(new, reference, kind):
    tables = [[pa.table({"x": pa.array(values, kind)})] for values in (new, reference)]
    return drift("x", kind, *(partial(summarise, tables=each) for each in tables))


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=60),
    others=st.lists(st.floats(-100, 100), min_size=1, max_size=60),
)
def test_the_distance_is_that_of_all_values_to_a_hundredth(values, others):
    points = np.sort(np.concatenate([values, others]) + 0.0)
    exact = max(
        abs(
            np.searchsorted(np.sort(values), point, "right") / len(values)
            - np.searchsorted(np.sort(others), point, "right") / len(others)
        )
        for point in points
    )

    found = between(values, others, pa.float64())

    assert exact - 0.011 - 1 / min(len(values), len(others)) <= found["ks"] <= exact + 1e-12


def test_the_index_is_the_sum_over_the_deciles_of_the_reference():
    rng = np.random.default_rng(3)
    reference, new = rng.normal(0, 1, 5000), rng.normal(0.7, 1.2, 4000)
    edges = np.quantile(reference, np.arange(1, 10) / 10)
    p = (np.bincount(np.searchsorted(edges, new, "right"), minlength=11) + 0.5) / (4000 + 5.5)
    q = (np.bincount(np.searchsorted(edges, reference, "right"), minlength=11) + 0.5) / (5000 + 5.5)

    found = between(new, reference, pa.float64())

    assert found["psi"] == pytest.approx(float(((p - q) * np.log(p / q)).sum()))
    assert found["psi"] > 0.25
    assert between(reference, reference, pa.float64()) == {"psi": 0.0, "ks": 0.0}
    assert between(reference[:4500], reference[500:], pa.float64())["psi"] < 0.02


def test_texts_are_compared_by_value_and_missing_values_count():
    assert between(["a", "b"] * 50, ["b", "a"] * 50, pa.string()) == {"psi": 0.0, "ks": None}
    assert between(["a"] * 90 + ["c"] * 10, ["a"] * 100, pa.string())["psi"] > 0.2
    assert between([1] * 60 + [None] * 40, [1] * 100, pa.int8())["psi"] > 0.5
    assert between([None], [1], pa.int8()) == {"psi": None, "ks": None}
    assert between([True, False], [True], pa.bool_())["ks"] is None


def test_too_many_texts_are_refused():
    with pytest.raises(InputError, match="column 'x' has more than 10,000 different values"):
        between([str(number) for number in range(10_001)], ["a"], pa.string())


@settings(max_examples=20, deadline=None)
@given(data=st.data(), kind=st.sampled_from([pa.float64(), pa.int32(), pa.date32(), pa.string()]))
def test_the_cut_changes_nothing(data, kind):
    cell = {"string": st.sampled_from("abc")}.get(str(kind), st.integers(-5, 30))
    new, old = (
        pa.table(
            {
                "x": pa.array(
                    data.draw(st.lists(st.none() | cell, max_size=20)),
                    pa.string() if str(kind) == "string" else pa.int32(),
                ).cast(kind)
            }
        )
        for _ in range(2)
    )

    whole = drift("x", kind, partial(summarise, tables=[new]), partial(summarise, tables=[old]))
    parts = drift(
        "x",
        kind,
        partial(summarise, tables=data.draw(cuts(new))),
        partial(summarise, tables=data.draw(cuts(old))),
    )

    assert whole == parts


def test_the_index_of_equal_shares_is_none():
    assert psi([10, 20], [10, 20]) == 0
