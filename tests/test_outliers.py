import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.outliers import Clip
from tests import builds
from tests.strategies import CELLS, SCHEMA, cuts, data, run, tables, with_origin

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
        (Clip(columns=("price",), low=1, fit_on="train"), "given limits are not fitted"),
        (Clip(columns=("price",), method="iqr", fit_on="train"), "put the step split before this one"),
        (Clip(columns=("price",), method="iqr", by=("note",)), "column 'note' has privacy class 'personal'"),
        (Clip(columns=("price",), low=1, by=("city",)), "given limits hold for all rows"),
        (Clip(columns=("price",), method="iqr", by=("cty",)), "did you mean 'city'"),
        (Clip(columns=("price",), method="iqr", by=("price",)), "cannot be both clipped and grouped by"),
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


@settings(max_examples=30, deadline=None)
@given(
    data_=st.data(),
    table=tables(cells={**CELLS, "price": [0.0, 1.0, 1.5, 2.0, 3.5, 40.0, -70.0]}, most=30),
    method=st.sampled_from(["iqr", "zscore", "mad"]),
    factor=st.sampled_from([0.5, 1.5]),
)
def test_limits_by_group_are_those_of_pandas_and_rows_that_cannot_be_judged_stay(
    data_, table, method, factor
):
    rows = run(
        Clip(columns=("price",), method=method, factor=factor, by=("city", "ok")), data_.draw(cuts(table))
    )

    frame = table.select(["city", "ok", "price"]).to_pandas(types_mapper=pd.ArrowDtype)
    prices = frame["price"].astype(float)
    expected, unjudged = prices.copy(), prices.notna()
    for _, group in prices.groupby([frame["city"], frame["ok"]]):
        if method == "iqr":
            low, high = group.quantile(0.25), group.quantile(0.75)
            reach = factor * (high - low)
        else:
            low = high = group.mean() if method == "zscore" else group.median()
            distance = group.std() if method == "zscore" else 1.4826 * (group - low).abs().median()
            reach = factor * distance if method == "zscore" or distance else float("nan")
        if pd.notna(reach):
            expected[group.index] = group.clip(low - reach, high + reach)
            unjudged[group.index] = False
    made = pd.Series(data(rows.kept)["price"], dtype=float)
    assert made.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-9, abs=1e-9, nan_ok=True)
    assert rows.notes.get("not judged price", 0) == unjudged.sum()


def test_integers_of_a_group_take_the_nearest_integer_inside_and_are_flagged_or_emptied():
    table = with_origin(
        pa.table(
            {
                "g": ["a"] * 6 + ["b"] * 6,
                "x": pa.array([1, 2, 3, 4, 5, 100, *[2**40 + one for one in range(6)]]),
            }
        )
    )

    def made(**settings_):
        rows = run(Clip(columns=("x",), method="iqr", by=("g",), **settings_), [table])
        return data(rows.kept)

    assert made()["x"][5] == 8  # quartiles 2.25 and 4.75
    assert made()["x"][6:] == [2**40 + one for one in range(6)]
    assert made(on_outlier="null")["x"][:6] == [1, 2, 3, 4, 5, None]
    assert made(on_outlier="flag")["x_outlier"] == [False] * 5 + [True] + [False] * 6


def test_a_group_has_limits_of_its_own_for_new_rows_too(tmp_path):
    """A table with fitted_from judges new rows by the limits of their group; a new group is not judged."""
    builds.csv(
        tmp_path / "old.csv", ("g", "x"), [("a", n) for n in range(10)] + [("b", 100 + n) for n in range(10)]
    )
    builds.csv(tmp_path / "new.csv", ("g", "x"), [("a", 105), ("b", 105), ("c", 105)])
    text = """
[sources.old]
kind = "csv"
path = "old.csv"
columns = { g = "string", x = "float64" }
[sources.new]
kind = "csv"
path = "new.csv"
columns = { g = "string", x = "float64" }
[tables.old]
source = "old"
steps = [{ do = "clip", columns = ["x"], method = "iqr", by = ["g"], on_outlier = "flag" }]
[tables.new]
source = "new"
fitted_from = "old"
steps = [{ do = "clip", columns = ["x"], method = "iqr", by = ["g"], on_outlier = "flag" }]
"""

    made = builds.make(tmp_path, text)

    assert [row["x_outlier"] for row in builds.rows(tmp_path, "new")] == [True, False, False]
    assert builds.steps(made["new"])["clip x"]["not judged x"] == 1
