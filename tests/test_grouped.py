"""A group among many is summarised as if it were alone, to the last bit, however the rows are cut."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import grouped, ranks
from pipelines.errors import InputError
from pipelines.grouped import GroupedModes, GroupedMoments
from pipelines.outliers import MedianDistance
from pipelines.ranks import GroupedMedianDistance, GroupedQuantiles
from pipelines.sketch import Moments, Quantiles, Values, group_labels, summarise
from tests.strategies import cuts, tables, told

EDGES = [0.0, -0.0, 0.1, 1e308, -1e308, 5e-324, math.nan, math.inf]
BY = ("city", "ok")


def alone(sketch, column):
    """The summary of one group by itself, and how what it fits is written for one of many."""
    match sketch:
        case GroupedMoments(spread=True):
            return Moments(column, spread=True), lambda found: [found["mean"], found["std"]]
        case GroupedMoments():
            return Moments(column), lambda found: [found["mean"]]
        case GroupedQuantiles():
            return Quantiles(column, sketch.at), lambda found: [value for _, value in found["quantiles"]]
        case GroupedMedianDistance():
            return MedianDistance(column), lambda found: [found["median"], found["distance"]]
        case GroupedModes():
            return Values(column, top=1), lambda found: [found["values"][0][0]]


@pytest.mark.parametrize(
    "sketch",
    [
        GroupedMoments(BY, "price"),
        GroupedMoments(BY, "age", spread=True),
        GroupedMoments(("day",), "price", spread=True),
        GroupedQuantiles(BY, "price", (0.0, 0.25, 0.5, 0.9)),
        GroupedQuantiles(("ok",), "age", (0.5,)),
        GroupedMedianDistance(BY, "age"),
        GroupedMedianDistance(("ok",), "price"),
        GroupedModes(("ok",), "city"),
        GroupedModes(BY, "at"),
        GroupedModes(("age",), "price"),
        GroupedModes(("age",), "ok"),
    ],
    ids=str,
)
@pytest.mark.parametrize("listed", [0, 1 << 20])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_group_is_summarised_as_if_it_were_alone(sketch, listed, data):
    whole = data.draw(tables())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "LISTED", listed)
        found = summarise(sketch, data.draw(cuts(whole)))

    labels = group_labels(whole, sketch.by).to_pylist()
    one, written = alone(sketch, sketch.column)
    expected = {}
    for label in sorted({label for label in labels if label is not None}):
        rows = whole.filter(pa.array([name == label for name in labels]))
        if rows[sketch.column].null_count < rows.num_rows:
            expected[label] = written(summarise(one, [rows]))
    assert repr(told(found)) == repr(expected)


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats() | st.sampled_from(EDGES), max_size=30),
    at=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.99, 1.0]), min_size=1, max_size=3, unique=True),
    listed=st.sampled_from([0, 3, 100]),
)
def test_any_floats_have_exact_means_and_quantiles(values, at, listed):
    table = pa.table({"g": pa.array(["a"] * len(values), pa.string()), "x": pa.array(values, pa.float64())})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "LISTED", listed)
        quantiles = summarise(GroupedQuantiles(("g",), "x", tuple(at)), [table])
    moments = summarise(GroupedMoments(("g",), "x", spread=True), [table])

    one = summarise(Moments("x", spread=True), [table])
    expected = summarise(Quantiles("x", tuple(at)), [table])["quantiles"]
    there = any(map(math.isfinite, values))
    assert repr(told(moments)) == repr({"a": [one["mean"], one["std"]]} if there else {})
    assert repr(told(quantiles)) == repr({"a": [value for _, value in expected]} if there else {})


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), max_size=12),
    cut=st.integers(0, 12),
)
def test_any_integers_have_exact_deviations_and_quantiles(values, cut):
    table = pa.table({"g": pa.array(["a"] * len(values), pa.string()), "x": pa.array(values, pa.int64())})
    parts = [table.slice(0, cut), table.slice(cut)]

    moments = summarise(GroupedMoments(("g",), "x", spread=True), parts)
    quantiles = summarise(GroupedQuantiles(("g",), "x", (0.25, 0.5)), parts)

    one = summarise(Moments("x", spread=True), [table])
    expected = summarise(Quantiles("x", (0.25, 0.5)), [table])["quantiles"]
    assert told(moments) == ({"a": [one["mean"], one["std"]]} if values else {})
    assert told(quantiles) == ({"a": [value for _, value in expected]} if values else {})


def test_tens_of_thousands_of_groups_are_usual():
    rng = np.random.default_rng(3)
    groups, values = rng.permutation(np.repeat(np.arange(20_000), 2)), rng.normal(50, 9, 40_000)
    table = pa.table({"g": groups, "x": values})

    medians = told(
        summarise(GroupedQuantiles(("g",), "x", (0.5,)), [table.slice(0, 15_000), table.slice(15_000)])
    )
    means = told(summarise(GroupedMoments(("g",), "x"), [table.slice(27_000), table.slice(0, 27_000)]))

    order = np.argsort(groups, kind="stable")
    pairs = values[order].reshape(-1, 2)
    assert [medians[str(group)][0] for group in range(20_000)] == pytest.approx(np.median(pairs, axis=1))
    assert [means[str(group)][0] for group in range(20_000)] == pytest.approx(pairs.mean(axis=1), rel=1e-15)


@pytest.mark.parametrize("sketch", [GroupedMoments, GroupedModes])
def test_too_many_groups_are_told_with_how_many(monkeypatch, sketch):
    monkeypatch.setattr(grouped, "GROUPS", 10)
    rows = pa.table({"g": range(11), "x": range(11)})

    with pytest.raises(InputError, match=r"by = \['g'\] makes 11 groups and more, up to 10 can be fitted"):
        summarise(sketch(("g",), "x"), [rows.slice(0, 6), rows.slice(6)])


def test_more_different_values_than_memory_is_meant_for_are_told(monkeypatch):
    monkeypatch.setattr(grouped, "ENTRIES", 10)
    rows = pa.table({"g": [1] * 20, "x": 2.0 ** np.arange(20)})

    for sketch in (GroupedQuantiles(("g",), "x", (0.5,)), GroupedModes(("g",), "x")):
        with pytest.raises(InputError, match="20 different values"):
            summarise(sketch, [rows])
