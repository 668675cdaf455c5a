"""Cast: what does not fit is set aside, made null or ends the run, by the rule of its column, and nothing else."""

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError
from pipelines.intake import cast
from pipelines.schema import Schema, field


def texts(*values):
    return pa.array(values, pa.string())


def table(**columns):
    rows = len(next(iter(columns.values())))
    origin = {
        "_source": pa.array([0] * rows, pa.int32()),
        "_line": pa.array(range(1, rows + 1), pa.int64()),
        "_offset": pa.array([-1] * rows, pa.int64()),
    }
    return pa.table({name: texts(*values) for name, values in columns.items()} | origin)


def rows_of(columns, fields, null=(), **settings):
    schema = Schema({name: field(value) for name, value in fields.items()})
    return cast(
        table(**columns),
        schema,
        null,
        lambda rows: [f"row {row}" for row in rows.tolist()],
        where="in.csv",
        **settings,
    )


def messages(rows):
    return [] if rows.rejected is None else rows.rejected["message"].to_pylist()


def test_b25_hours_that_clocks_skip_or_repeat_are_set_aside():
    rows = rows_of(
        {"t": ["2013-03-10 02:30", "2013-11-03 01:30", "2013-11-03 01:30-05:00", "2013-07-01 12:00"]},
        {"t": {"type": "timestamp", "zone": "America/New_York"}},
    )

    assert [str(t) for t in rows.kept["t"].to_pylist()] == [
        "2013-11-03 06:30:00+00:00",
        "2013-07-01 16:00:00+00:00",
    ]
    assert messages(rows) == [
        "column 't': cannot read '2013-03-10 02:30' as timestamp (this time does not exist, clocks go forward in America/New_York; write the offset)",
        "column 't': cannot read '2013-11-03 01:30' as timestamp (this time comes twice, clocks go back in America/New_York; write the offset)",
    ]


def test_a_row_is_set_aside_with_the_first_column_it_breaks():
    rows = rows_of(
        {"a": ["1", "x", "y", "3", None], "b": ["u", "v", "w", "z", "u"]},
        {"a": {"type": "int8", "nullable": False}, "b": {"values": ["u", "v", "w"]}},
    )

    assert rows.kept.to_pylist() == [{"a": 1, "b": "u", "_source": 0, "_line": 1, "_offset": -1}]
    assert rows.rejected.to_pylist() == [
        {
            "_source": 0,
            "_line": line,
            "_offset": -1,
            "rule": rule,
            "column": column,
            "message": message,
            "raw": f"row {line - 1}",
        }
        for line, rule, column, message in [
            (2, "type", "a", "column 'a': cannot read 'x' as int8"),
            (3, "type", "a", "column 'a': cannot read 'y' as int8"),
            (4, "values", "b", "column 'b': 'z' is not one of 'u', 'v', 'w'"),
            (5, "null", "a", "column 'a': missing, and nullable is false"),
        ]
    ]


def test_ranges_values_and_patterns_are_checked():
    rows = rows_of(
        {
            "n": ["0", "1", "5", "6", "1", "1", "1"],
            "d": ["2024-01-01"] * 4 + ["2023-12-31", "2024-01-01", "2024-01-01"],
            "s": ["ab"] * 5 + ["abc", "\nab"],
            "x": ["1e300"] * 7,
        },
        {
            "n": {"type": "int8", "range": [0.5, 5.5]},
            "d": {"type": "date", "range": ["2024-01-01", None]},
            "s": {"pattern": "a|ab"},
            "x": {"type": "float64", "range": [0, math.inf]},
        },
    )

    assert rows.kept["n"].to_pylist() == [1, 5]
    assert messages(rows) == [
        "column 'n': '0' is outside [0.5, 5.5]",
        "column 'n': '6' is outside [0.5, 5.5]",
        "column 'd': '2023-12-31' is outside [2024-01-01, inf]",
        "column 's': 'abc' does not match 'a|ab'",
        "column 's': '\\nab' does not match 'a|ab'",
    ]


def test_a_range_of_large_integers_is_exact():
    rows = rows_of({"n": [str(2**53), str(2**53 + 1)]}, {"n": {"type": "int64", "range": [2**53 + 1, None]}})

    assert rows.kept["n"].to_pylist() == [2**53 + 1]


def test_values_are_of_the_type_of_the_column():
    rows = rows_of({"n": ["1", "01", "2"]}, {"n": {"type": "int8", "values": ["1"]}})

    assert rows.kept["n"].to_pylist() == [1, 1]


def test_blanks_and_null_tokens_follow_the_declaration():
    columns = {"a": [" 1", "NA", "\t", "2"], "b": ["NA", " NA ", "-", ""]}

    rows = rows_of(
        columns, {"a": {"type": "int8", "trim": True, "null": ["NA", ""]}, "b": "string"}, null=("NA",)
    )

    assert rows.kept["a"].to_pylist() == [1, None, None, 2]
    assert rows.kept["b"].to_pylist() == [None, " NA ", "-", ""]


def test_on_error_null_counts_only_rows_that_stay():
    rows = rows_of(
        {"a": ["x", "1", "y"], "b": ["1", "2", "z"]}, {"a": {"type": "int8", "on_error": "null"}, "b": "int8"}
    )

    assert rows.kept["a"].to_pylist() == [None, 1]
    assert rows.notes == {"nulled a": 1}
    assert messages(rows) == ["column 'b': cannot read 'z' as int8"]


def test_on_error_fail_ends_at_the_first_row():
    with pytest.raises(InputError) as caught:
        rows_of({"a": ["1", None, "x"]}, {"a": {"type": "int8", "on_error": "fail", "nullable": False}})

    assert str(caught.value) == (
        "in.csv:2: column 'a': missing, and nullable is false; correct the file, or set on_error = \"quarantine\" to set such rows aside"
    )


def test_private_values_stay_out_of_messages():
    rows = rows_of({"a": ["secret", "77"]}, {"a": {"type": "int8", "privacy": "direct", "range": [0, 9]}})

    assert messages(rows) == [
        "column 'a': cannot read a text of 6 characters as int8",
        "column 'a': a text of 2 characters is outside [0, 9]",
    ]


cells = st.none() | st.text("01x-", max_size=3)


@settings(max_examples=100)
@given(
    st.lists(st.tuples(cells, cells), max_size=12),
    st.integers(0, 12),
    st.sampled_from(["quarantine", "null"]),
)
def test_no_row_is_lost_and_no_row_depends_on_its_neighbours(rows, at, on_error):
    fields = {
        "a": {"type": "int8", "on_error": on_error},
        "b": {"type": "float32", "nullable": False, "range": [-5, 5]},
    }

    def made(some):
        found = rows_of({"a": [a for a, _ in some], "b": [b for _, b in some]}, fields)
        kept = [(row["a"], row["b"]) for row in found.kept.to_pylist()]
        assert found.kept.num_rows + len(messages(found)) == len(some)
        return kept, messages(found), found.notes.get("nulled a", 0)

    whole, left, right = made(rows), made(rows[:at]), made(rows[at:])

    assert whole == tuple(one + other for one, other in zip(left, right, strict=True))
