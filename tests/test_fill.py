"""Missing values and what stands in for them: the same as pandas makes of the whole data, whatever the cut."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.fill import Fill
from pipelines.sketch import summarise
from pipelines.stage import Fit
from tests.strategies import SCHEMA, cuts, data, run, tables, told, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema


def column(values, dtype, step):
    """What a step makes of one column `x`."""
    rows = run(step, [with_origin(pa.table({"x": pa.array(values, dtype)}))])
    return data(rows.kept)["x"], rows


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Fill(columns=("age",)), "either value"),
        (Fill(columns=("age",), value=1, with_="mean"), "either value"),
        (Fill(columns=("age",), value=1, by=("city",)), "by needs with"),
        (Fill(columns=("age",), value=1.5), "1.5 is no integer"),
        (Fill(columns=("age",), value=True), "True is no integer"),
        (Fill(columns=("city",), value=0), "0 is no string"),
        (Fill(columns=("day",), value="2024-02-30"), "'2024-02-30' is no date"),
        (Fill(columns=("city",), with_="mean"), "expected integer or float"),
        (Fill(columns=("price",), with_="mean", by=("price",)), "both filled and grouped or ordered by"),
        (Fill(columns=("price",), with_="mean", by=("citi",)), "did you mean 'city'?"),
        (Fill(columns=("price",), with_="forward"), "needs order_by"),
        (Fill(columns=("price",), with_="mean", fit_on="train"), "put the step split before this one"),
        (Fill(columns=("price",), value=1, fit_on="train"), "fit_on = .train. is for with = one of mean"),
        (Fill(columns=("note",), with_="mode"), "allow it by name: allow_private = .'note'."),
        (Fill(columns=("price",), with_="mean", by=("note",)), "column 'note' has privacy class 'personal'"),
        (Fill(columns=("price",), with_="mean", order_by=("at",)), "order_by and limit are for with"),
        (Fill(columns=("price",), with_="mean", limit=3), "order_by and limit are for with"),
        (Fill(columns=("city",), with_="interpolate", order_by=("at",)), "expected integer or float"),
        (Fill(columns=("price",), with_="interpolate", order_by=("at", "day")), "one column to order by"),
        (Fill(columns=("price",), with_="backward", order_by=("att",)), "did you mean 'at'?"),
        (Fill(columns=("price",), with_="backward", order_by=("city",)), "expected integer or float or date"),
        (Fill(columns=("price",), with_="backward", order_by=("at",), limit=0), "expected at least 1"),
        (Fill(columns=("at",), with_="backward", order_by=("at",)), "both filled and grouped or ordered by"),
    ],
    ids=str,
)
def test_what_a_fill_cannot_do_is_said_before_anything_runs(step, message):
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        step.stage(FULL)
    with pytest.raises(SpecError):
        step.build(FULL)


def test_missing_values_are_filled_with_a_constant_and_counted():
    assert column([1.5, None], pa.float64(), Fill(columns=("x",), value=0))[0] == [1.5, 0.0]
    assert column(["a", None], pa.string(), Fill(columns=("x",), value="?"))[0] == ["a", "?"]
    assert column([None], pa.bool_(), Fill(columns=("x",), value=False))[0] == [False]
    assert str(column([None], pa.date32(), Fill(columns=("x",), value="2024-02-29"))[0][0]) == "2024-02-29"
    assert column([None, None, 1], pa.int8(), Fill(columns=("x",), value=7))[1].notes == {"filled x": 2}


@settings(max_examples=60, deadline=None)
@given(
    data_=st.data(),
    values=st.lists(
        st.none() | st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=30
    ),
    with_=st.sampled_from(["mean", "median", "mode"]),
)
def test_a_fill_is_that_of_pandas_on_the_whole_data(data_, values, with_):
    values.append(1.0)
    series = pd.Series(values, dtype=float)
    typical = series.mode()[0] if with_ == "mode" else getattr(series, with_)()

    parts = data_.draw(cuts(with_origin(pa.table({"x": pa.array(values, pa.float64())}))))
    rows = run(Fill(columns=("x",), with_=with_), parts)

    assert data(rows.kept)["x"] == pytest.approx(series.fillna(typical).tolist(), rel=1e-12, abs=1e-9)
    assert rows.notes.get("filled x", 0) == values.count(None)


@settings(max_examples=40, deadline=None)
@given(data_=st.data(), table=tables(least=1), with_=st.sampled_from(["mean", "median"]))
def test_a_fill_by_groups_is_that_of_pandas_and_falls_back_on_all_rows(data_, table, with_):
    prices = [None if row % 3 == 1 else row % 5 * 0.25 for row in range(table.num_rows)]
    place = table.schema.get_field_index("price")
    table = table.set_column(place, table.schema.field(place), pa.array(prices, pa.float64()))
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    by_group = frame.groupby(["city", "id"])["price"].transform(with_).astype(float)
    expected = (
        frame["price"].astype(float).fillna(by_group).fillna(getattr(frame["price"].astype(float), with_)())
    )

    rows = run(Fill(columns=("price",), with_=with_, by=("city", "id")), data_.draw(cuts(table)))

    assert data(rows.kept)["price"] == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_column_of_integers_takes_the_rounded_median():
    assert column([1, 2, None], pa.int32(), Fill(columns=("x",), with_="median"))[0] == [1, 2, 2]
    assert column([1, 2, 2, None], pa.int64(), Fill(columns=("x",), with_="mean"))[0] == [1, 2, 2, 2]


def test_the_mode_of_any_type_of_equally_frequent_values_is_the_smallest():
    assert column(["b", "a", "b", "a", None], pa.string(), Fill(columns=("x",), with_="mode"))[0][-1] == "a"
    assert column([True, None], pa.bool_(), Fill(columns=("x",), with_="mode"))[0] == [True, True]
    at = column([5, 5, 1, None], pa.timestamp("us", "UTC"), Fill(columns=("x",), with_="mode"))[0]
    assert at[-1] == at[0]


def test_a_column_without_a_value_has_no_median():
    with pytest.raises(InputError, match="column 'x' has no value at all, so no median; give value"):
        column([None, None], pa.float64(), Fill(columns=("x",), with_="median"))

    assert column([], pa.float64(), Fill(columns=("x",), with_="median"))[0] == []


def test_what_is_fitted_is_small_and_json():
    table = with_origin(pa.table({"x": np.arange(1000.0), "g": [str(row % 3) for row in range(1000)]}))
    stage = Fill(columns=("x",), with_="mode", by=("g",)).stage(table.schema)
    assert isinstance(stage, Fit)

    fitted = summarise(stage.sketch, [table])

    assert len(json.dumps(told(fitted), allow_nan=False)) < 500
    assert stage.columns == ("x", "g")


# ---- in time


SERIES = pa.schema([("group", pa.string()), ("time", pa.int32()), ("x", pa.float64()), ("n", pa.int64())])
CELLS = {
    "group": ["a", "b", "c"],
    "time": list(range(9)),
    "x": [0.0, 1.5, -4.0, 1e6],
    "n": [-3, 0, 7, 10**12],
}


@settings(max_examples=60, deadline=None)
@given(
    data_=st.data(),
    table=tables(cells=CELLS, schema=SERIES, most=24),
    with_=st.sampled_from(["forward", "backward"]),
    limit=st.sampled_from([None, 1, 2]),
)
def test_the_last_or_the_next_value_in_time_is_that_of_pandas(data_, table, with_, limit):
    step = Fill(columns=("x", "n"), with_=with_, by=("group",), order_by=("time",), limit=limit)

    rows = run(step, data_.draw(cuts(table)), buckets=data_.draw(st.integers(1, 4)))

    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    known = frame.dropna(subset=["group", "time"]).sort_values("time", kind="stable")
    groups = known.groupby("group")
    for name in ("x", "n"):
        filled = (groups[name].ffill if with_ == "forward" else groups[name].bfill)(limit=limit)
        expected = frame[name].combine_first(filled)
        assert data(rows.kept)[name] == [None if pd.isna(value) else value for value in expected]
    assert data(rows.kept)["time"] == data(table)["time"], "the rows stay where they were"


@settings(max_examples=60, deadline=None)
@given(data_=st.data(), table=tables(cells={**CELLS, "time": list(range(100))}, schema=SERIES, most=16))
def test_values_between_two_are_those_of_pandas(data_, table):
    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    once = ~frame.duplicated(["group", "time"]) | frame["time"].isna()  # numpy has no rule for equal times
    table = table.filter(pa.array(once))

    rows = run(
        Fill(columns=("x",), with_="interpolate", by=("group",), order_by=("time",)), data_.draw(cuts(table))
    )

    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    expected = frame["x"].astype(float)
    known = frame.dropna(subset=["group", "time"]).sort_values("time", kind="stable")
    for _, rows_of in known.groupby("group"):
        series = pd.Series(rows_of["x"].astype(float).to_numpy(), index=rows_of["time"].astype(float))
        filled = series.interpolate(method="index", limit_area="inside").to_numpy()
        expected.loc[rows_of.index] = filled
    made = pd.Series(data(rows.kept)["x"], dtype=float)
    assert made.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-12, abs=1e-9, nan_ok=True)


def test_times_are_times_and_integers_are_rounded():
    table = with_origin(
        pa.table(
            {
                "at": pa.array([0, 60_000_000, 90_000_000, 120_000_000], pa.timestamp("us", "UTC")),
                "n": pa.array([0, None, None, 10], pa.int8()),
                "day": pa.array([3, 4, 5, 6], pa.date32()),
            }
        )
    )

    by_time = run(Fill(columns=("n",), with_="interpolate", order_by=("at",)), [table])
    by_day = run(Fill(columns=("n",), with_="interpolate", order_by=("day",)), [table])

    assert data(by_time.kept)["n"] == [0, 5, 8, 10]  # 7.5 half to even
    assert by_time.notes == {"filled n": 2}
    assert data(by_day.kept)["n"] == [0, 3, 7, 10]
