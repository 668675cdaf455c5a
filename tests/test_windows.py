"""Windows over time per group are those of pandas, whatever the cut."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import SpecError
from pipelines.windows import Window
from tests.strategies import EPOCH, SCHEMA, bits, cuts, data, run, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema
SERIES = pa.schema([("group", pa.string()), ("time", pa.int32()), ("x", pa.float64()), ("n", pa.int64())])
CELLS = {"group": ["a", "b"], "time": list(range(9)), "x": [0.0, 1.5, -4.0, 1e6, 0.1], "n": [-3, 0, 7]}
COLUMNS = {
    "lag": "lag(n, 1)",
    "lead": "lead(x, 2)",
    "diff": "diff(x, 1)",
    "sum": "sum(x, 2)",
    "mean": "mean(x, 3)",
    "std": "std(x, 2)",
    "min": "min(n, 2)",
    "max": "max(x, 1)",
}
STEP = Window(columns=COLUMNS, by=("group",), order_by=("time",))


@settings(max_examples=80, deadline=None)
@given(data_=st.data(), table=tables(cells=CELLS, schema=SERIES, most=24))
def test_lags_and_summaries_are_those_of_pandas(data_, table):
    rows = run(STEP, data_.draw(cuts(table)), buckets=data_.draw(st.integers(1, 4)))

    frame = table.to_pandas().astype({"x": float, "n": float})
    known = frame.dropna(subset=["group", "time"]).sort_values("time", kind="stable")
    groups = known.groupby("group")
    expected = {
        "lag": groups["n"].shift(1),
        "lead": groups["x"].shift(-2),
        "diff": groups["x"].diff(1),
        "sum": groups["x"].transform(lambda x: x.rolling(2).sum()),
        "mean": groups["x"].transform(lambda x: x.rolling(3).mean()),
        "std": groups["x"].transform(lambda x: x.rolling(2).std()),
        "min": groups["n"].transform(lambda x: x.rolling(2).min()),
        "max": groups["x"].transform(lambda x: x.rolling(1).max()),
    }
    made = data(rows.kept)
    for name, series in expected.items():
        wanted = series.reindex(frame.index).astype(float).to_numpy()
        assert np.array(made[name], float) == pytest.approx(wanted, rel=1e-9, abs=1e-6, nan_ok=True), name
    whole = run(STEP, [table], buckets=1)
    assert bits(whole.kept) == bits(rows.kept)
    assert STEP.build(table.schema).equals(rows.kept.schema, check_metadata=True)


TIMES = pa.schema(
    [("group", pa.string()), ("at", pa.timestamp("us", "UTC")), ("day", pa.date32()), ("x", pa.float64())]
)
MOMENTS = {
    "group": ["a", "b"],
    "at": [
        EPOCH + timedelta(seconds=second) for second in (-7200, -1, 0, 1800, 3599, 3600, 3601, 7200, 90_000)
    ],
    "day": [date(2024, 2, day) for day in (1, 2, 8, 9, 28)],
    "x": [0.0, 1.5, -4.0, 0.1, 1e6],
}


@pytest.mark.parametrize(
    ("time", "span", "offset"), [("at", "1h", "1h"), ("at", "1800s", "30min"), ("day", "7 d", "7D")]
)
@settings(max_examples=12, deadline=None)
@given(data_=st.data(), table=tables(cells=MOMENTS, schema=TIMES, most=24))
def test_summaries_over_a_time_are_those_of_pandas(data_, table, time, span, offset):
    names = ("sum", "mean", "std", "min", "max", "count")
    step = Window(columns={name: f"{name}(x, {span})" for name in names}, by=("group",), order_by=(time,))

    rows = run(step, data_.draw(cuts(table)), buckets=data_.draw(st.integers(1, 4)))

    frame = table.to_pandas(date_as_object=False).astype({"x": float})
    known = frame.dropna(subset=["group", time]).sort_values(time, kind="stable")
    made = data(rows.kept)
    for name in names:
        wanted = pd.Series(np.nan, frame.index)
        for _, group in known.groupby("group"):
            rolling = pd.Series(group["x"].to_numpy(), index=group[time]).rolling(offset)
            found = getattr(rolling, name)() if name != "sum" else rolling.sum()
            wanted[group.index] = found.to_numpy()
        if name in {"sum", "mean", "std"}:  # pandas carries rounding errors from window to window
            assert np.array(made[name], float) == pytest.approx(
                wanted.to_numpy(), rel=1e-9, abs=1e-3, nan_ok=True
            )
        else:
            assert np.array(made[name], float) == pytest.approx(wanted.to_numpy(), nan_ok=True), name
    assert bits(run(step, [table], buckets=1).kept) == bits(rows.kept)
    assert step.build(table.schema).equals(rows.kept.schema, check_metadata=True)


def test_a_time_holds_what_is_less_old_and_leaves_out_what_is_missing():
    at = [EPOCH + timedelta(minutes=minutes) for minutes in (0, 20, 60, 60, 200)]
    table = with_origin(
        pa.table({"at": pa.array(at, pa.timestamp("us", "UTC")), "x": [1.0, 3.0, None, 5.0, None]})
    )
    columns = {"mean": "mean(x, 1h)", "many": "count(x, 60min)", "low": "min(x, 1h)", "std": "std(x, 1h)"}

    made = data(run(Window(columns=columns, order_by=("at",)), [table]).kept)

    assert made["mean"] == [1.0, 2.0, 3.0, 4.0, None]  # the first row is exactly 1h old at the third
    assert made["many"] == [1, 2, 1, 2, 0]
    assert made["low"] == [1.0, 1.0, 3.0, 3.0, None]
    assert made["std"] == [None, 2**0.5, None, 2**0.5, None]


def test_a_history_is_a_tensor_of_the_last_rows():
    table = with_origin(pa.table({"t": [3, 1, 2, 4], "x": [3.0, 1.0, 2.0, 4.0], "y": [30, 10, 20, None]}))
    step = Window(columns={"h": "history(x, y, 2)"}, order_by=("t",))

    rows = run(step, [table])

    made = [
        None if value is None else np.frombuffer(value, "<f4").reshape(2, 2).tolist()
        for value in data(rows.kept)["h"]
    ]
    assert made == [[[2, 20], [3, 30]], None, [[1, 10], [2, 20]], None]
    assert rows.kept.schema.field("h").metadata == {b"dtype": b"float32", b"shape": b"[2, 2]"}


def test_rows_without_a_full_window_are_left_out_and_counted():
    table = with_origin(pa.table({"t": [1, 2, 3], "x": [1.0, 2.0, 3.0]}))
    step = Window(
        columns={"before": "lag(x, 1)", "next": "lead(x, 1)"}, order_by=("t",), incomplete="leave out"
    )

    rows = run(step, [table])

    assert data(rows.kept) == {"t": [2], "x": [2.0], "before": [1.0], "next": [3.0]}
    assert rows.filtered == 2


def test_the_privacy_class_follows():
    table = with_origin(pa.table({"t": [1], "x": pa.array([1.0])}))
    schema = table.schema.set(1, table.schema.field("x").with_metadata({"privacy": "health"}))

    made = Window(columns={"level": "mean(x, 2)"}, order_by=("t",)).build(schema)

    assert made.field("level").metadata == {b"privacy": b"health"}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": "mean(price)"}, "expected a function of columns and a number of rows or a time"),
        ({"a": "mean(price, 7 weeks)"}, "such as mean(price, 24) or mean(price, 7d)"),
        (
            {"a": "lag(price, 7d)"},
            "lag takes a number of rows; over a time are sum, mean, std, min, max, count",
        ),
        ({"a": "count(price, 7)"}, "count takes a time, such as count(price, 7d)"),
        ({"a": "mean(price, 0d)"}, "expected a time above 0"),
        ({"a": "meen(price, 3)"}, "there is no function 'meen'; did you mean 'mean'?"),
        ({"a": "mean(prize, 3)"}, "did you mean 'price'?"),
        ({"a": "mean(city, 3)"}, "column 'city' is string, expected integer or float"),
        ({"a": "mean(price, age, 3)"}, "mean takes one column"),
        ({"a": "std(price, 1)"}, "expected 2 to 10,000 rows"),
        ({"price": "lag(price, 1)"}, "'price' is there already"),
        ({}, "order_by and columns are needed"),
    ],
)
def test_a_window_that_cannot_be_is_told_before_anything_runs(columns, message):
    with pytest.raises(SpecError) as caught:
        Window(columns=columns, order_by=("at",)).build(FULL)

    assert message in str(caught.value)


def test_a_time_needs_a_column_of_times_and_dates_whole_days():
    with pytest.raises(SpecError, match="'age', the first of order_by, is int32, expected date or timestamp"):
        Window(columns={"a": "mean(price, 7d)"}, order_by=("age", "at")).build(FULL)
    with pytest.raises(SpecError, match="dates are whole days apart, give days such as 7d"):
        Window(columns={"a": "mean(price, 36h)"}, order_by=("day",)).build(FULL)
