import json
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.casting import cast_cells, castable
from pipelines.columns import Cast, Derive, Drop, Rename, Select
from pipelines.errors import InputError, SpecError
from pipelines.literals import ARROW
from pipelines.rows import Keep, Quarantine
from pipelines.stage import LINE, ORIGIN, data_columns
from tests.strategies import SCHEMA, data, run, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema
PRIVATE = pa.field("email", pa.string(), metadata={"privacy": "personal"})


def rows_of(**columns):
    return with_origin(pa.table(columns))


# ---- derive, select, drop, rename


def test_a_column_may_use_those_made_before_it():
    rows = run(Derive(columns={"b": "a + 1", "c": "b * 2", "a": "0.5"}), [rows_of(a=[1, None])])

    assert data(rows.kept) == {"a": [0.5, 0.5], "b": [2, None], "c": [4, None]}


def test_a_derived_column_has_the_privacy_of_what_it_is_made_of():
    schema = pa.schema(
        [PRIVATE, pa.field("card", pa.string(), metadata={"privacy": "secret"}), pa.field("n", pa.int64())]
    )

    made = Derive(
        columns={"domain": "lower(email)", "both": "email + card", "double": "n * 2", "email": "'x'"}
    ).build(schema)

    assert made.field("domain").metadata == {b"privacy": b"personal"}
    assert made.field("both").metadata == {b"privacy": b"personal+secret"}
    assert made.field("double").metadata is None
    assert made.field("email").metadata is None


@given(table=tables(least=1))
@settings(max_examples=10, deadline=None)
def test_choosing_columns_leaves_their_rows_and_their_origin(table):
    selected = run(Select(columns=("price", "id")), [table]).kept
    left = run(Drop(columns=("price", "id")), [table]).kept
    renamed = run(Rename(columns={"id": "key"}), [table]).kept

    assert selected.schema.names == ["price", "id", *ORIGIN.names]
    assert data_columns(left.schema) == [
        name for name in data_columns(table.schema) if name not in {"price", "id"}
    ]
    assert renamed.schema.names == ["key" if name == "id" else name for name in table.schema.names]
    assert selected["id"].to_pylist() == renamed["key"].to_pylist() == table["id"].to_pylist()
    assert renamed[LINE].to_pylist() == left[LINE].to_pylist()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Derive(columns={}), "columns is empty"),
        (Derive(columns={"_x": "1"}), "a leading '_' is reserved"),
        (Derive(columns={"x": "None"}), "is always missing; give it a type"),
        (Derive(columns={"x": "pirce * 2"}), "no column 'pirce'; did you mean 'price'"),
        (Derive(columns={"x": "price +"}), "invalid syntax"),
        (Derive(columns={"x": "9223372036854775807 + 1"}), "overflow"),
        (Select(columns=()), "at least one column"),
        (Select(columns=("id", "id")), "named twice"),
        (Select(columns=("_line",)), "no column '_line'"),
        (Drop(columns=tuple(SCHEMA.names)), "no column would be left"),
        (Drop(columns=("nope",)), "no column 'nope'"),
        (Rename(columns={"id": "age"}), "there would be two columns 'age'"),
        (Rename(columns={"id": "_source"}), "a leading '_' is reserved"),
        (Rename(columns={"idd": "x"}), "no column 'idd'; did you mean 'id'"),
        (Cast(columns={"id": "int"}), "no type 'int'; did you mean 'int8'|no type 'int'"),
        (Cast(columns={"ok": "date"}), "bool cannot become date"),
        (Keep(where="price"), "gives float, expected true or false"),
        (Keep(where="prise > 1"), "did you mean 'price'"),
        (Quarantine(where="price + 1", rule="x"), "gives float"),
        (Quarantine(where="price > 1", rule=""), "rule is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_before_anything_runs(step, message):
    with pytest.raises(SpecError, match=message):
        step.stage(FULL)
    with pytest.raises(SpecError, match=message):
        step.build(FULL)


def test_an_overflow_in_a_derived_column_stops_the_run_with_its_row():
    with pytest.raises(InputError, match="source 0 line 2"):
        run(Derive(columns={"x": "a * a"}), [rows_of(a=[1, 2**40])])


# ---- keep and quarantine


def test_only_rows_that_satisfy_a_condition_are_kept_and_the_others_are_counted():
    rows = run(Keep(where="a > 1"), [rows_of(a=[1, 2, None, 3])])

    assert data(rows.kept) == {"a": [2, 3]}
    assert rows.filtered == 2
    assert rows.rejected is None


def test_a_row_that_breaks_a_rule_is_set_aside_with_its_values():
    table = rows_of(a=[1, -2, None], b=["x", "y", "z"])

    rows = run(Quarantine(where="a < 0", rule="negative", message="a must not be negative"), [table])

    assert data(rows.kept) == {"a": [1, None], "b": ["x", "z"]}
    (record,) = rows.rejected.to_pylist()
    assert record == {
        "_source": 0,
        "_line": 2,
        "_offset": -1,
        "rule": "negative",
        "column": "a",
        "message": "a must not be negative (a = -2)",
        "raw": json.dumps({"a": -2, "b": "y"}),
    }


def test_messages_do_not_tell_private_values():
    table = with_origin(pa.table([["ann@x.org"]], schema=pa.schema([PRIVATE])))

    asides = [
        run(step, [table]).rejected["message"][0].as_py()
        for step in (Quarantine(where="length(email) > 3", rule="r"), Cast(columns={"email": "int64"}))
    ]

    assert asides == [
        "length(email) > 3 (email = a private value)",
        "column 'email': cannot read a private value as int64",
    ]


# ---- cast


def test_rows_with_a_cell_that_does_not_fit_are_set_aside_for_the_first_one():
    table = rows_of(a=["1", "x", "3", None, "5"], b=[1.0, 2.0, 2.5, None, float("2e300")])

    rows = run(Cast(columns={"a": "int64", "b": "int32"}), [table])

    assert data(rows.kept) == {"a": [1, None], "b": [1, None]}
    assert rows.rejected["message"].to_pylist() == [
        "column 'a': cannot read 'x' as int64",
        "column 'b': cannot read 2.5 as int32",
        "column 'b': cannot read 2e+300 as int32",
    ]
    assert set(rows.rejected["rule"].to_pylist()) == {"type"}


@pytest.mark.parametrize(
    ("values", "dtype", "to", "expected", "misfits"),
    [
        (["1", "+1", " 1", "1_0", "0x1", "1e1", "", None], "string", "int64", [1], range(1, 7)),
        (["1.5", "-.5e3", "nan", "inf", "1e999"], "string", "float64", [1.5, -500.0], [2, 3, 4]),
        (["true", "FALSE", "0", "yes"], "string", "bool", [True, False, False], [3]),
        (["2024-02-29", "2023-02-29", "29.2.2024"], "string", "date", [date(2024, 2, 29)], [1, 2]),
        ([1.0, -0.0, 0.5, 1e300, float("nan")], "float64", "int64", [1, 0], [2, 3, 4]),
        ([127, 128, -128, -129], "int64", "int8", [127, None, -128], [1, 3]),
        ([2**53 + 1, 1], "int64", "float64", [2.0**53, 1.0], []),
        ([1e39, 0.1, float("inf")], "float64", "float32", [None, float(np.float32(0.1))], [0, 2]),
        ([0, 1, 2, -1], "int64", "bool", [False, True], [2, 3]),
        ([True, False], "bool", "int8", [1, 0], []),
        ([True, False], "bool", "string", ["true", "false"], []),
        ([1.5, 2.0], "float64", "string", ["1.5", "2"], []),
        ([date(2024, 1, 2)], "date32", "string", ["2024-01-02"], []),
    ],
)
def test_a_cell_fits_or_is_told(values, dtype, to, expected, misfits):
    found, rows = cast_cells(pa.array(values, dtype), to)

    assert found.to_pylist() == expected + [None] * (len(values) - len(expected))
    assert rows.tolist() == list(misfits)
    assert found.type == ARROW[to]


@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)),
    to=st.sampled_from(["int8", "int16", "int32", "int64"]),
)
def test_an_integer_fits_exactly_where_its_type_holds_it(values, to):
    bits = ARROW[to].bit_width - 1

    found, rows = cast_cells(pa.array(values, pa.int64()), to)

    assert found.to_pylist() == [value if -(2**bits) <= value < 2**bits else None for value in values]
    assert rows.tolist() == [row for row, value in enumerate(values) if not -(2**bits) <= value < 2**bits]


@pytest.mark.parametrize("name", ARROW)
@settings(max_examples=10, deadline=None)
@given(table=tables())
def test_casting_is_refused_before_or_accounts_for_every_cell(name, table):
    for field in SCHEMA:
        if castable(field.type, name):
            found, rows = cast_cells(table[field.name], name)
            missing = set(np.flatnonzero(table[field.name].is_null().to_numpy()))
            assert {row for row, value in enumerate(found.to_pylist()) if value is None} == missing | set(
                rows.tolist()
            )


def test_midnight_makes_a_day_a_time_and_the_day_of_a_time_is_that_of_utc():
    at = pa.array([-1, 0, 86_400_000_000], pa.timestamp("us", "UTC"))

    days, _ = cast_cells(at, "date")
    back, _ = cast_cells(days, "timestamp")

    assert days.to_pylist() == [date(1969, 12, 31), date(1970, 1, 1), date(1970, 1, 2)]
    assert back.cast(pa.int64()).to_pylist() == [-86_400_000_000, 0, 86_400_000_000]
