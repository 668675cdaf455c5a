import json
import unicodedata

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.clean import Fill, MapValues, Text, Trim
from pipelines.errors import InputError, SpecError
from pipelines.sketch import summarise
from pipelines.stage import Fit
from tests.strategies import SCHEMA, cuts, data, run, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema


def column(values, dtype, step):
    """What a step makes of one column `x`."""
    rows = run(step, [with_origin(pa.table({"x": pa.array(values, dtype)}))])
    return data(rows.kept)["x"], rows


# ---- text


def test_blanks_at_the_ends_are_removed_and_counted():
    values, rows = column([" a", "b\u00a0\n", "c d", "", None], pa.string(), Trim())

    assert values == ["a", "b", "c d", "", None]
    assert rows.notes == {"trimmed x": 2}


@pytest.mark.parametrize(
    ("settings_", "expected"),
    [
        ({"unicode": "NFKC", "case": "lower", "collapse": True}, [" a b", "\u00fc", None]),
        ({"unicode": "NFC"}, ["  \uff21\t\n b", "\u00fc", None]),
        ({"case": "upper"}, ["  \uff21\t\n B", "U\u0308", None]),
        ({"collapse": True}, [" \uff21 b", "u\u0308", None]),
    ],
)
def test_text_gets_one_form(settings_, expected):
    values = ["  \uff21\t\n b", "u\u0308", None]

    assert column(values, pa.string(), Text(columns=("x",), **settings_))[0] == expected


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=6),
    form=st.sampled_from(["NFC", "NFKC"]),
    case=st.sampled_from(["keep", "lower", "upper"]),
    collapse=st.booleans(),
)
def test_one_form_is_found_at_once(text, form, case, collapse):
    step = Text(columns=("x",), unicode=form, case=case, collapse=collapse)

    once, _ = column([text], pa.string(), step)

    assert column(once, pa.string(), step)[0] == once
    if case == "keep" and not collapse:
        assert once == [unicodedata.normalize(form, text)]


# ---- map_values


def test_values_are_replaced_and_what_is_not_known_is_kept_emptied_or_set_aside():
    values = {"n": "north", "s": "south"}

    kept, rows = column(["n", "x", None], pa.string(), MapValues(column="x", values=values))
    assert (kept, rows.notes) == (["north", "x", None], {"mapped x": 1})

    emptied, rows = column(["n", "x", None], pa.string(), MapValues(column="x", values=values, other="null"))
    assert (emptied, rows.notes) == (["north", None, None], {"mapped x": 1, "emptied x": 1})

    left, rows = column(
        ["n", "x", None], pa.string(), MapValues(column="x", values=values, other="quarantine")
    )
    assert left == ["north", None]
    assert rows.rejected["message"].to_pylist() == ["column 'x': 'x' is not one of 'n', 's'"]
    assert rows.rejected["rule"].to_pylist() == ["map_values"]


def test_values_of_any_type_are_replaced_by_values_of_another():
    yes = MapValues(column="x", values={"yes": True, "no": False}, other="null")

    assert column(["yes", "no", "?"], pa.string(), yes)[0] == [True, False, None]
    assert column([1, 2, 3], pa.int8(), MapValues(column="x", values={"1": 10, "2": 20}))[0] == [10, 20, 3]
    assert column([1, 2, 3], pa.int8(), MapValues(column="x", values={"1": "one", "2": "two"}, other="null"))[
        0
    ] == ["one", "two", None]
    assert column([0.5, 2.0], pa.float32(), MapValues(column="x", values={"0.5": 1.0}))[0] == [1.0, 2.0]
    assert run(yes, [with_origin(pa.table({"x": ["yes"]}))]).kept.schema.field("x").type == pa.bool_()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (MapValues(column="city", values={}), "values is empty"),
        (MapValues(column="age", values={"one": 1}), "key 'one' is no integer"),
        (MapValues(column="age", values={"1": "one"}), "'one' is no integer"),
        (MapValues(column="city", values={"a": 1, "b": "x"}, other="null"), "several types: int, str"),
        (MapValues(column="age", values={"1": 10**12}), "does not fit int32"),
        (MapValues(column="sity", values={"a": "b"}), "no column 'sity'; did you mean 'city'?"),
        (Text(columns=("age",), case="lower"), "column 'age' is int32, expected string; cast it before"),
        (Text(columns=("city",)), "nothing to do"),
        (Text(columns=("city", "city"), case="lower"), "named twice"),
        (Trim(columns=("citi",)), "did you mean 'city'?"),
        (Trim(columns=("_line",)), "no column '_line'"),
        (Fill(columns=("age",)), "either value"),
        (Fill(columns=("age",), value=1, with_="mean"), "either value"),
        (Fill(columns=("age",), value=1, by=("city",)), "by needs with"),
        (Fill(columns=("age",), value=1.5), "1.5 is no integer"),
        (Fill(columns=("age",), value=True), "True is no integer"),
        (Fill(columns=("city",), value=0), "0 is no string"),
        (Fill(columns=("day",), value="2024-02-30"), "'2024-02-30' is no date"),
        (Fill(columns=("city",), with_="mean"), "expected integer or float"),
        (Fill(columns=("price",), with_="mean", by=("price",)), "both filled and grouped by"),
        (Fill(columns=("price",), with_="mean", by=("citi",)), "did you mean 'city'?"),
    ],
    ids=str,
)
def test_what_a_step_cannot_do_is_said_before_anything_runs(step, message):
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        step.stage(FULL)
    with pytest.raises(SpecError):
        step.build(FULL)


# ---- fill


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

    assert len(json.dumps(fitted, allow_nan=False)) < 500
    assert stage.columns == ("x", "g")
