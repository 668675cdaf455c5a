import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.outliers import Clip
from tests.strategies import SCHEMA, cuts, data, run, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema


def clipped(values, dtype, **settings_):
    rows = run(Clip(columns=("x",), **settings_), [with_origin(pa.table({"x": pa.array(values, dtype)}))])
    return data(rows.kept), rows.notes


def test_outliers_are_brought_to_the_limit_emptied_or_marked():
    values = [-5.0, 0.0, 3.5, 99.0, None]

    assert clipped(values, pa.float64(), low=0, high=10) == (
        {"x": [0.0, 0.0, 3.5, 10.0, None]},
        {"outliers x": 2},
    )
    assert clipped(values, pa.float64(), low=0, high=10, on_outlier="null")[0] == {
        "x": [None, 0.0, 3.5, None, None]
    }
    assert clipped(values, pa.float64(), high=10, on_outlier="flag")[0] == {
        "x": values,
        "x_outlier": [False, False, False, True, False],
    }
    assert clipped(values, pa.float64(), low=1)[0] == {"x": [1.0, 1.0, 3.5, 99.0, None]}


def test_integers_take_the_nearest_integer_inside():
    assert clipped([0, 1, 5, 9], pa.int8(), low=0.5, high=7.9)[0] == {"x": [1, 1, 5, 7]}
    assert clipped([0, 255], pa.uint8(), low=-7, high=1e9)[0] == {"x": [0, 255]}
    assert clipped([-128, 127], pa.int8(), low=-1e9, high=1e9)[0] == {"x": [-128, 127]}


@settings(max_examples=80, deadline=None)
@given(
    data_=st.data(),
    values=st.lists(st.none() | st.floats(-1e6, 1e6), max_size=40),
    factor=st.sampled_from([0.0, 0.5, 1.5, 3.0]),
)
def test_limits_by_quartiles_are_those_of_pandas_on_the_whole_data(data_, values, factor):
    series = pd.Series(values, dtype=float)
    lower, upper = series.quantile(0.25), series.quantile(0.75)
    expected = series.clip(lower - factor * (upper - lower), upper + factor * (upper - lower))

    parts = data_.draw(cuts(with_origin(pa.table({"x": pa.array(values, pa.float64())}))))
    rows = run(Clip(columns=("x",), method="iqr", factor=factor), parts)

    assert pd.Series(data(rows.kept)["x"], dtype=float).tolist() == pytest.approx(
        expected.tolist(), rel=1e-12, abs=1e-9, nan_ok=True
    )


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Clip(columns=("price",)), "either low and high"),
        (Clip(columns=("price",), low=1, method="iqr"), "either low and high"),
        (Clip(columns=("price",), low=2, high=1), "low = 2 is above high = 1"),
        (Clip(columns=("price",), low=float("nan")), "must be finite"),
        (Clip(columns=("price",), method="iqr", factor=-1), "not below 0"),
        (Clip(columns=("city",), low=1), "expected integer or float"),
        (Clip(columns=("prise",), low=1), "did you mean 'price'"),
    ],
    ids=str,
)
def test_what_cannot_be_clipped_is_said_before(step, message):
    with pytest.raises(SpecError, match=message):
        step.stage(FULL)


def test_a_flag_does_not_take_the_place_of_a_column():
    table = with_origin(pa.table({"x": [1.0], "x_outlier": [True]}))

    with pytest.raises(SpecError, match="'x_outlier' is already there"):
        Clip(columns=("x",), low=0, on_outlier="flag").stage(table.schema)


def test_an_emptied_column_may_hold_missing_values():
    schema = pa.schema([pa.field("x", pa.float64(), nullable=False)])
    table = with_origin(pa.table({"x": [1.0, 50.0]}, schema=schema))

    assert run(Clip(columns=("x",), high=9, on_outlier="null"), [table]).kept.schema.field("x").nullable
    assert not run(Clip(columns=("x",), high=9), [table]).kept.schema.field("x").nullable


# ---- further methods


@settings(max_examples=60, deadline=None)
@given(
    data_=st.data(),
    values=st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=30),
    method=st.sampled_from(["zscore", "mad"]),
    factor=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_limits_by_distance_are_those_of_pandas_on_the_whole_data(data_, values, method, factor):
    series = pd.Series(values, dtype=float)
    if method == "zscore":
        middle, reach = series.mean(), factor * series.std()
    else:
        middle = series.median()
        reach = factor * 1.4826 * (series - middle).abs().median()
    assume(method == "zscore" or reach != 0)

    table = with_origin(pa.table({"x": pa.array(values, pa.float64())}))
    rows = run(Clip(columns=("x",), method=method, factor=factor), data_.draw(cuts(table)))

    expected = series if pd.isna(reach) else series.clip(middle - reach, middle + reach)
    made = pd.Series(data(rows.kept)["x"], dtype=float)
    assert made.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9, abs=1e-9, nan_ok=True)


def test_where_most_values_are_equal_the_median_distance_says_nothing_and_that_is_told():
    table = with_origin(pa.table({"x": [5.0, 5.0, 5.0, 900.0]}))

    with pytest.raises(InputError, match=r"more than half of the values of column 'x' are 5\.0"):
        run(Clip(columns=("x",), method="mad"), [table])
