import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.clean import MapValues, Text, Trim
from pipelines.errors import SpecError
from tests.strategies import SCHEMA, data, run, with_origin

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
        ({"accents": "remove"}, ["  \uff21\t\n b", "u", None]),
        ({"accents": "remove", "unicode": "NFKC"}, ["  A\t\n b", "u", None]),
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
    accents=st.sampled_from(["keep", "remove"]),
)
def test_one_form_is_found_at_once(text, form, case, collapse, accents):
    step = Text(columns=("x",), unicode=form, case=case, collapse=collapse, accents=accents)

    once, _ = column([text], pa.string(), step)

    assert column(once, pa.string(), step)[0] == once
    if case == "keep" and not collapse and accents == "keep":
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


def test_values_conform_to_a_list_of_codes_or_are_set_aside_or_emptied():
    cells, codes = (
        ["DE", "Germany", "F", None, "XX"],
        {"known": ("DE", "FR"), "values": {"Germany": "DE", "F": "FR"}},
    )

    kept, rows = column(cells, pa.string(), MapValues(column="x", **codes, other="quarantine"))
    assert kept == ["DE", "DE", "FR", None]
    assert rows.rejected["message"].to_pylist() == [
        "column 'x': 'XX' is not one of 'DE', 'FR', 'Germany', 'F'"
    ]
    assert rows.notes == {"mapped x": 2}
    emptied, rows = column(cells, pa.string(), MapValues(column="x", **codes, other="null"))
    assert emptied == ["DE", "DE", "FR", None, None]
    assert rows.notes == {"mapped x": 2, "emptied x": 1}
    numbers = MapValues(column="x", known=(1, 2), values={"9": 1}, other="null")
    assert column([1, 2, 9, 7], pa.int8(), numbers)[0] == [1, 2, 1, None]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (MapValues(column="city", values={}), "values is empty"),
        (MapValues(column="city", known=("a",)), 'known has no meaning with other = "keep"'),
        (
            MapValues(column="city", known=("DE", "FR"), values={"Germany": "DEE"}, other="null"),
            "'Germany' becomes 'DEE', which is not one of known; did you mean 'DE'",
        ),
        (
            MapValues(column="city", known=("DE", "FR"), values={"FR": "DE"}, other="null"),
            "'FR' is one of known, and values says that it becomes 'DE'",
        ),
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
    ],
    ids=str,
)
def test_what_a_step_cannot_do_is_said_before_anything_runs(step, message):
    with pytest.raises(SpecError, match=message.replace("?", r"\?")):
        step.stage(FULL)
    with pytest.raises(SpecError):
        step.build(FULL)
