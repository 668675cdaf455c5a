import json
import math
import pickle
import statistics
from fractions import Fraction
from functools import reduce

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines import quantiles
from pipelines.grouped import GroupedMoments
from pipelines.ranks import GroupedMedianDistance, GroupedQuantiles
from pipelines.sketch import Histogram, Moments, Quantiles, Several, Values, group_labels, summarise
from pipelines.sums import SCALE, exact_squares, exact_sum
from tests.strategies import cuts, tables, told

FLOAT = pa.float64()
finite = st.floats(allow_nan=False, allow_infinity=False)
columns = st.lists(
    st.none() | finite | st.sampled_from([0.0, -0.0, 1.0, 1e308, 5e-324, math.nan, math.inf]), max_size=30
)
SKETCHES = [
    Moments("price", spread=True),
    Moments("age"),
    Moments("at", spread=True),
    Quantiles("price", (0.0, 0.1, 0.5, 0.75, 1.0)),
    Quantiles("age"),
    Quantiles("day", (0.5,)),
    Values("city"),
    Values("price", top=2),
    Values("at"),
    Values("ok"),
    Values("city", limit=3),
    Histogram("price", (-2.0, 0.0, 1.0, 1.5, 3.0)),
    Histogram("age", (0.0, 7.0)),
    GroupedMoments(("city", "ok"), "price", spread=True),
    GroupedQuantiles(("city",), "age", (0.25, 0.5)),
    GroupedMedianDistance(("ok",), "price"),
    Several({"price": Quantiles("price"), "age": Moments("age", spread=True), "city": Values("city")}),
]


def table(values, dtype=FLOAT):
    return pa.table({"x": pa.array(values, dtype)})


def state_of(sketch, parts, request):
    return reduce(sketch.merge, [sketch.sketch(part, request) for part in parts])


def plain(state):
    """A state as values that compare to the last bit."""
    if isinstance(state, dict):
        return {name: plain(one) for name, one in state.items()}
    if isinstance(state, tuple | list):
        return [plain(one) for one in state]
    if isinstance(state, np.ndarray):
        return [str(state.dtype), state.tobytes()]
    if isinstance(state, pa.Table | pa.Array):
        return state.to_pylist()
    return (
        {"type": type(state).__name__, **{name: plain(one) for name, one in vars(state).items()}}
        if hasattr(state, "__dataclass_fields__")
        else repr(state)
    )


@pytest.mark.parametrize("sketch", SKETCHES, ids=str)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_merge_of_sketches_is_the_sketch_of_the_whole(sketch, data):
    whole = data.draw(tables())
    parts = data.draw(cuts(whole))

    request, done = None, False
    while not done:
        of_whole, of_parts = sketch.sketch(whole, request), state_of(sketch, parts, request)
        assert plain(of_whole) == plain(of_parts)
        pickle.dumps(of_parts)
        done, request = sketch.finish(of_parts, request)

    json.dumps(told(request), allow_nan=False)


@pytest.mark.parametrize("limit", [0, 1, 3])
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(), values=st.lists(st.integers(-5, 5) | st.integers(-(2**61), 2**61), max_size=20)
)  # numpy wraps around beyond
def test_counting_in_bins_merges_to_the_same_bits_as_listing(limit, data, values):
    whole, sketch = table(values, pa.int64()), Quantiles("x", (0.1, 0.5, 0.9))
    parts = data.draw(cuts(whole))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "LIMIT", limit)
        request, done = None, False
        while not done:
            of_whole, of_parts = sketch.sketch(whole, request), state_of(sketch, parts, request)
            assert plain(of_whole) == plain(of_parts)
            done, request = sketch.finish(of_parts, request)

    assert [value for _, value in request["quantiles"]] == (
        np.quantile(values, sketch.at).tolist() if values else [None] * 3
    )


# ---- sums


@given(values=st.lists(finite | st.floats(-1e3, 1e3), max_size=60))
def test_a_sum_is_exact(values):
    assert Fraction(exact_sum(np.array(values, np.float64)), 2**SCALE) == sum(map(Fraction, values))


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_a_sum_of_integers_is_exact(values):
    assert Fraction(exact_sum(np.array(values, np.int64)), 2**SCALE) == sum(values)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(finite | st.sampled_from([5e-324, 1e-160, 1.7976931348623157e308]), max_size=40))
def test_a_sum_of_squares_is_exact(values):
    exact = sum(Fraction(value) ** 2 for value in values)
    assert Fraction(exact_squares(np.array(values, np.float64)), 4**SCALE) == exact


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), max_size=20))
def test_a_sum_of_squares_of_integers_is_exact(values):
    assert Fraction(exact_squares(np.array(values, np.int64)), 4**SCALE) == sum(v * v for v in values)


def test_a_sum_over_many_blocks_is_exact():
    rng = np.random.default_rng(1)
    values = rng.standard_normal(100_000) * 10.0 ** rng.integers(-30, 30, 100_000)

    assert exact_sum(values) / (1 << SCALE) == math.fsum(values)
    assert exact_sum(values) == exact_sum(rng.permutation(values))
    assert exact_squares(values) == exact_squares(rng.permutation(values))


# ---- moments


@given(values=columns)
def test_the_mean_is_rounded_once(values):
    counted = [value for value in values if value is not None and math.isfinite(value)]

    fitted = summarise(Moments("x"), [table(values)])

    assert fitted["count"] == len(counted)
    assert fitted["nulls"] == len(values) - len(counted)
    assert fitted["mean"] == (float(sum(map(Fraction, counted)) / len(counted)) if counted else None)
    assert fitted["min"] == min(counted, default=None)
    assert fitted["max"] == max(counted, default=None)


EXTREME = [
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    2.0**-1022,
    1e-200,
    1e16,
    1e16 + 2,
    1e154,
    1e308,
    -1e308,
    1.7976931348623157e308,
]


@settings(max_examples=40, deadline=None)
@given(values=st.lists(finite | st.floats(-1e6, 1e6) | st.sampled_from(EXTREME), max_size=20))
@example(values=[1e16, 1e16 + 2])  # the mean is no float
@example(values=[1e308] * 3)
@example(values=[1e-200, 3e-200])  # the variance is no float, the deviation is one
@example(values=[5e-324, 0.0, -5e-324])
def test_variance_and_deviation_are_rounded_once_whatever_cancels(values):
    fitted = summarise(Moments("x", spread=True), [table(values[:3]), table(values[3:])])
    exact = list(map(Fraction, values))

    assert fitted["variance"] == (rounded(statistics.pvariance, exact) if values else None)
    assert fitted["std"] == (rounded(statistics.stdev, values) if len(values) > 1 else None)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), max_size=12))
@example(values=[2**63 - 1, 2**63 - 2])
@example(values=[-(2**31), 2**31 - 1, -(2**63)])
def test_variance_and_deviation_of_integers_are_rounded_once(values):
    fitted = summarise(Moments("x", spread=True), [table(values, pa.int64())])
    exact = list(map(Fraction, values))

    assert fitted["variance"] == (rounded(statistics.pvariance, exact) if values else None)
    assert fitted["std"] == (rounded(statistics.stdev, exact) if len(values) > 1 else None)


def rounded(authority, values):
    """The nearest float to the exact answer; None if there is none."""
    try:
        return float(authority(values))
    except OverflowError:
        return None


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40))
def test_variance_and_deviation_are_those_of_pandas(values):
    fitted = summarise(Moments("x", spread=True), [table(values)])

    assert fitted["variance"] == pytest.approx(pd.Series(values).var(ddof=0), rel=1e-9, abs=1e-9)
    assert fitted["std"] == pytest.approx(pd.Series(values).std(), rel=1e-9, abs=1e-9)


def test_moments_of_extremes_are_told_or_missing_but_never_wrong():
    one = summarise(Moments("x", spread=True), [table([1e308, -1e308])])
    none = summarise(Moments("x", spread=True), [table([])])
    single = summarise(Moments("x", spread=True), [table([3.0])])

    assert (one["mean"], one["variance"]) == (0.0, None)
    assert one["std"] == pytest.approx(1e308 * math.sqrt(2))
    assert (none["mean"], none["min"], none["variance"], none["std"]) == (None, None, None, None)
    assert (single["variance"], single["std"]) == (0.0, None)
    json.dumps([one, none, single], allow_nan=False)


# ---- quantiles


@settings(deadline=None)
@given(values=columns, at=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_those_of_numpy_to_the_last_bit(values, at):
    counted = [value for value in values if value is not None and math.isfinite(value)]

    fitted = summarise(Quantiles("x", tuple(at)), [table(values)])

    assert fitted["count"] == len(counted)
    if not counted or max(map(abs, counted)) > 1e307:  # numpy makes inf and nan of the widest ranges
        return
    expected = np.quantile(counted, at).tolist()
    assert [value for q, value in fitted["quantiles"] if q != 0.5] == [
        value for q, value in zip(at, expected, strict=True) if q != 0.5
    ]


@settings(max_examples=40, deadline=None)
@given(values=st.lists(finite | st.floats(-1e3, 1e3) | st.sampled_from(EXTREME), min_size=1, max_size=20))
@example(values=[-1e16, 1.0])
@example(values=[1e308, 1.7e308])
@example(values=[5e-324, 0.0])
def test_the_median_is_the_mean_of_the_middle_two_rounded_once(values):
    groups = pa.table({"x": pa.array(values, FLOAT), "g": pa.repeat("a", len(values))})
    exact = float(statistics.median(map(Fraction, values)))

    assert summarise(Quantiles("x", (0.5,)), [groups])["quantiles"] == [[0.5, exact]]
    assert told(summarise(GroupedQuantiles(("g",), "x", (0.5,)), [groups])) == {"a": [exact]}


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=12))
def test_the_median_of_integers_is_rounded_once(values):
    groups = pa.table({"x": pa.array(values, pa.int64()), "g": pa.repeat("a", len(values))})
    exact = float(statistics.median(map(Fraction, values)))

    assert summarise(Quantiles("x", (0.5,)), [groups])["quantiles"] == [[0.5, exact]]
    assert told(summarise(GroupedQuantiles(("g",), "x", (0.5,)), [groups])) == {"a": [exact]}


HARD = {
    "equal": np.full(50_000, 7.25),
    "mostly zero": np.where(np.arange(50_000) % 3, 0.0, np.arange(50_000) - 25_000.0),
    "negative zero": np.where(np.arange(50_000) % 2, 0.0, -0.0),
    "one bin": 1e9 + np.random.default_rng(0).random(60_000),
    "every float": np.random.default_rng(1).integers(-(2**62), 2**62, 50_000).view(np.float64),
    "one ulp apart": np.nextafter(1.0, 2.0) * np.ones(40_000) + np.arange(40_000) * 2.0**-52,
    "large integers": np.random.default_rng(2).integers(2**62, 2**62 + 30_000, 60_000),
    "all integers": np.random.default_rng(3).integers(-(2**63), 2**63 - 1, 50_000),
    "microseconds": 1_700_000_000_000_000 + np.random.default_rng(4).integers(0, 10**10, 60_000),
}


@pytest.mark.parametrize("name", HARD)
def test_quantiles_of_hard_columns_are_exact_in_few_rounds(name):
    values = HARD[name][np.isfinite(HARD[name])]
    parts = [
        table(part) if values.dtype == np.float64 else table(part, pa.int64())
        for part in np.array_split(values, 5)
    ]
    sketch = Quantiles("x", (0.01, 0.25, 0.5, 0.75, 0.99))

    rounds, request, done = 0, None, False
    while not done:
        state, rounds = state_of(sketch, parts, request), rounds + 1
        assert len(pickle.dumps(state)) < 2**20
        done, request = sketch.finish(state, request)

    middle = float(statistics.median(map(Fraction, values.tolist())))
    expected = [middle if q == 0.5 else np.quantile(values, q) for q in sketch.at]
    assert [value for _, value in request["quantiles"]] == expected
    assert rounds <= 5


# ---- values, histogram, groups


@given(values=st.lists(st.none() | st.sampled_from(["a", "b", "ü", "", "a "]), max_size=30))
def test_values_are_counted_the_most_frequent_first_of_equals_the_smallest(values):
    counts = pd.Series(values, dtype=object).value_counts()
    expected = sorted(
        ([value, int(count)] for value, count in counts.items()),
        key=lambda pair: (-pair[1], pair[0].encode()),
    )

    fitted = summarise(Values("x"), [table(values, pa.string())])

    assert fitted == {
        "rows": len(values),
        "nulls": values.count(None),
        "distinct": len(counts),
        "values": expected,
    }


def test_too_many_values_are_not_counted():
    fitted = summarise(Values("x", limit=9), [table(range(start, start + 6), pa.int64()) for start in (0, 4)])
    still = summarise(Values("x", limit=10), [table(range(start, start + 6), pa.int64()) for start in (0, 4)])

    assert (fitted["distinct"], fitted["values"]) == (None, None)
    assert still["distinct"] == 10


@given(values=st.lists(st.integers(-3, 12) | st.floats(-3, 12), max_size=40))
def test_a_histogram_is_that_of_numpy(values):
    edges = (0.0, 1.0, 2.5, 7.0, 10.0)

    fitted = summarise(Histogram("x", edges), [table(values)])

    assert fitted["counts"] == np.histogram(values, edges)[0].tolist()
    assert fitted["below"] + sum(fitted["counts"]) + fitted["above"] == len(values)


def test_groups_are_told_apart_whatever_their_texts_hold():
    rows = pa.table({"a": ["x|", "x", "\\", "\\p"], "b": ["y", "|y", "", ""]})

    assert len(set(group_labels(rows, ("a", "b")).to_pylist())) == 4


def test_several_sketches_need_the_rounds_of_the_longest():
    parts = [table(np.arange(20_000.0)), table(np.arange(20_000.0))]
    sketch = Several(
        {"median": Quantiles("x", (0.5,)), "mean": Moments("x"), "spread": Moments("x", spread=True)}
    )

    first = sketch.finish(state_of(sketch, parts, None), None)
    second = sketch.finish(state_of(sketch, parts, first[1]), first[1])

    assert (first[0], second[0]) == (False, True)
    assert list(first[1]["done"]) == ["mean", "spread"]
    assert list(second[1]) == ["median", "mean", "spread"]
    assert second[1]["median"]["quantiles"] == [[0.5, 9999.5]]


@pytest.mark.parametrize(
    "dtype", ["int8", "uint64", "float", "bool", "date32", "timestamp[ns]", pa.decimal128(21, 2)], ids=str
)
def test_summaries_read_every_kind_of_number(dtype):
    whole = pa.int32() if dtype == "date32" else pa.int64()
    column = pa.array([0, None, 1], whole).cast(dtype)

    fitted = summarise(Moments("x"), [pa.table({"x": column})])

    assert (fitted["count"], fitted["nulls"], fitted["min"]) == (2, 1, 0)
