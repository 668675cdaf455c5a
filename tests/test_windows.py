"""Windows over time per group are those of pandas, whatever the cut."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import SpecError
from pipelines.windows import Window
from tests.strategies import SCHEMA, bits, cuts, data, run, tables, with_origin

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
        ({"a": "mean(price)"}, "expected a function of columns and a number of rows"),
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
