"""Field, Schema and cast: one grammar per type; what does not fit is set aside, made null or ends the run, and nothing else."""

import datetime as dt
import math
import re
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipelines.cast import cast
from pipelines.errors import InputError, SpecError
from pipelines.literals import ARROW, reader
from pipelines.moments import dates, timestamps
from pipelines.schema import Field, Schema, field

INT = re.compile(r"-?[0-9]+", re.ASCII)
FLOAT = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)


def texts(*values):
    return pa.array(values, pa.string())


def read(kind, *values, **settings):
    found, bad = reader(kind, **settings)(texts(*values))
    assert [value is None for value in found.to_pylist()] == [
        i in bad.tolist() or value is None for i, value in enumerate(values)
    ]
    return found.to_pylist()


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


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (
            "int8",
            {"1": 1, "-128": -128, "127": 127, "007": 7, "-0": 0, "0" * 30 + "5": 5},
            ["128", "-129", "+5", "0x1F", "0x10", "1_0", "1.0", "1e2", "", "-", " 1", "\u0661"],
        ),
        (
            "int64",
            {str(2**63 - 1): 2**63 - 1, str(-(2**63)): -(2**63)},
            [str(2**63), str(-(2**63) - 1), "9" * 5000],
        ),
        (
            "float64",
            {"1": 1.0, "1e5": 1e5, "1E+5": 1e5, ".5": 0.5, "5.": 5.0, "-0": 0.0, "1e-400": 0.0},
            [
                "1e309",
                "inf",
                "nan",
                "NaN",
                "+5",
                "0x1",
                "1_0",
                "1,5",
                " 1",
                "1 ",
                "e5",
                ".",
                "",
                "1e",
                "\u0661",
            ],
        ),
        ("float32", {"1.5": 1.5, "3e38": float(np.float32(3e38))}, ["4e38", "-1e39"]),
        (
            "bool",
            {"true": True, "FALSE": False, "True": True, "1": True, "0": False},
            ["yes", "t", "", "2", "on", " true"],
        ),
        ("string", {"": "", " a ": " a ", "é": "é"}, ["a\0b"]),
        (
            "date",
            {"2024-02-29": dt.date(2024, 2, 29)},
            [
                "2023-02-29",
                "2024-2-9",
                "24-02-29",
                "0000-01-01",
                "2024-02-29 ",
                "20240229",
                "2024-02-29T00:00",
            ],
        ),
        (
            "timestamp",
            {
                "2024-02-29 12:30": dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
                "2024-02-29T12:30:15.25": dt.datetime(2024, 2, 29, 12, 30, 15, 250000, tzinfo=dt.UTC),
                "2024-02-29T12:30:15.123456000": dt.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=dt.UTC),
                "2024-02-29T12:30:15Z": dt.datetime(2024, 2, 29, 12, 30, 15, tzinfo=dt.UTC),
                "2024-02-29T12:30:15-01:30": dt.datetime(2024, 2, 29, 14, 0, 15, tzinfo=dt.UTC),
                "2024-02-29T12:30+0100": dt.datetime(2024, 2, 29, 11, 30, tzinfo=dt.UTC),
            },
            [
                "2024-02-29",
                "2024-02-29 12",
                "2024-02-30 12:30",
                "2024-02-29T24:00",
                "2024-02-29T12:60",
                "2024-02-29T12:30:60",
                "2024-02-29T12:30:15.1234567",
                "2024-02-29T12:30+25:00",
                "0001-01-01T00:00+01",
                "2024-02-29 05+01:00",
            ],
        ),
    ],
)
def test_a_type_reads_its_grammar_and_nothing_else(kind, good, bad):
    for text, value in good.items():  # alone: the fast way of a column in which all is well
        assert read(kind, text, None) == [value, None]
    for text in bad:
        assert read(kind, text) == [None]
    mixed = [*good, *bad, None]  # together: value by value
    assert read(kind, *mixed) == [*good.values(), *[None] * (len(bad) + 1)]


numbers = (
    st.text("0123456789+-.eExX_ ,infa", max_size=7)
    | st.floats().map(repr)
    | st.integers(-(10**20), 10**20).map(str)
)


@settings(max_examples=300)
@given(st.lists(numbers, max_size=6), st.sampled_from(["int8", "int16", "int32", "int64"]))
def test_integers_are_those_of_the_grammar_that_fit(values, kind):
    limit = 2 ** (ARROW[kind].bit_width - 1)

    expected = [int(text) if INT.fullmatch(text) and -limit <= int(text) < limit else None for text in values]

    assert read(kind, *values) == expected
    assert [read(kind, text)[0] for text in values] == expected


@settings(max_examples=300)
@given(st.lists(numbers, max_size=6), st.sampled_from([".", ","]))
def test_floats_are_those_of_the_grammar_that_are_finite(values, decimal):
    def expected(text):
        point = text if decimal == "." else text.replace(".", "x").replace(",", ".")
        value = float(point) if FLOAT.fullmatch(point) else math.inf
        return value if math.isfinite(value) else None

    assert read("float64", *values, decimal=decimal) == [expected(text) for text in values]
    assert [read("float64", text, decimal=decimal)[0] for text in values] == [
        expected(text) for text in values
    ]


@given(st.fractions(), st.integers(0, 20))
def test_a_float_is_the_nearest_one(value, digits):
    text = f"{float(value):.{digits}f}"

    [found] = read("float64", text)

    assert abs(Fraction(text) - Fraction(found)) <= min(
        abs(Fraction(text) - Fraction(math.nextafter(found, to))) for to in (-math.inf, math.inf)
    )


@given(st.dates(), st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%B %d, %Y"]))
def test_a_date_of_any_format_is_the_date_that_was_written(day, form):
    written = day.strftime(form.replace("%Y", f"{day.year:04}"))  # strftime writes the year 2 as "2"

    found, bad = dates(texts(written, "31.31.2024"), form)

    assert found.to_pylist() == [day, None]
    assert bad.tolist() == [1]


@given(
    st.datetimes(),
    st.sampled_from([None, "%Y-%m-%dT%H:%M:%S.%f%z", "%d/%m/%Y %I:%M:%S.%f %p %z"]),
    st.integers(-1439, 1439),
)
def test_a_time_with_an_offset_is_that_time(local, form, minutes):
    moment = local.replace(tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))
    written = moment.isoformat(timespec="microseconds")
    if form is not None:
        written = moment.strftime(form.replace("%Y", f"{moment.year:04}"))
    try:
        expected = moment.astimezone(dt.UTC)
    except OverflowError:
        expected = None

    found, bad = timestamps(texts(written), form, "America/New_York")

    assert found.to_pylist() == [expected]
    assert bad.tolist() == ([0] if expected is None else [])


@settings(max_examples=200)
@given(
    st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 1, 1)),  # noqa: DTZ001 - local times
    st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
)
def test_a_local_time_is_its_utc_time_or_refused_where_clocks_change(local, zone):
    early, late = (local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(dt.UTC) for fold in (0, 1))

    found, _ = timestamps(texts(local.isoformat(), "2024-01-01T00:00Z"), None, zone)

    assert found.to_pylist()[0] == (early if early == late else None)


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


def test_the_arrow_schema_says_type_null_unit_and_privacy():
    schema = Schema(
        {
            "a": field({"type": "timestamp", "nullable": False}),
            "b": field({"type": "float32", "unit": "km", "privacy": "quasi"}),
        }
    ).arrow()

    assert schema.field("a").type == pa.timestamp("us", "UTC")
    assert not schema.field("a").nullable
    assert schema.field("b").metadata == {b"unit": b"km", b"privacy": b"quasi"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("int46", "type 'int46' is not known; did you mean 'int64'?"),
        ({"typ": "int8"}, "unknown key 'typ'; did you mean 'type'?"),
        ({"type": 5}, "type = 5: expected a text"),
        ({"nullable": "no"}, "nullable = 'no': expected true or false"),
        ({"null": "NA"}, "null = 'NA': expected a list of texts"),
        (7, '7 is no column; write a type, "int64", or a table, { type = "int64", nullable = false }'),
        ({"on_error": "drop"}, "on_error 'drop' is not known; known: fail, null, quarantine"),
        (
            {"on_error": "null", "nullable": False},
            'on_error = "null" contradicts nullable = false; take "quarantine" or "fail"',
        ),
        ({"type": "int8", "format": "%Y"}, "format is for a date or timestamp, and the type is int8"),
        (
            {"type": "date", "format": "%Y-%m-%d %H"},
            "format '%Y-%m-%d %H': %H is of a time, and the type is date",
        ),
        (
            {"type": "date", "format": "%Y-%q-%d"},
            "format '%Y-%q-%d': %q is not known; known: %Y %y %b %B %p %f %z %m %d %H %I %M %S %%",
        ),
        (
            {"type": "timestamp", "format": "%Y-%m-%d %I"},
            "format '%Y-%m-%d %I': %I and %p belong together, in the place of %H",
        ),
        (
            {"type": "timestamp", "zone": "Mars/Base"},
            "zone 'Mars/Base' is not known; expected an IANA name such as 'Europe/Paris' or 'UTC'",
        ),
        ({"type": "date", "zone": "Europe/Paris"}, "zone is for a timestamp, and the type is date"),
        ({"type": "int8", "range": [5, 1]}, "range [5, 1] is empty: the first must not be above the second"),
        (
            {"type": "string", "range": [0, 1]},
            "range is [lowest, highest] of a number, date or timestamp; here (0, 1) of a string",
        ),
        ({"type": "int8", "range": ["a", "b"]}, "range of a int8: 'a' is not a number"),
        ({"type": "date", "range": ["2024-02-30", None]}, "range: '2024-02-30' is no date"),
        ({"type": "float64", "range": [math.nan, 1]}, "range: nan is no bound; leave it out or write inf"),
        ({"type": "int8", "values": ["1", "x"]}, "values: 'x' is no int8"),
        (
            {"pattern": "("},
            "pattern '(' is no RE2 expression: Invalid regular expression: missing ): ^(?:()$",
        ),
        ({"type": "int8", "pattern": "a"}, "pattern is for a string, and the type is int8"),
    ],
)
def test_a_wrong_column_says_what_is_wrong(value, message):
    with pytest.raises(SpecError) as caught:
        field(value)

    assert str(caught.value) == message


def test_a_column_is_written_as_a_type_or_as_a_table():
    assert field("int32") == Field(type="int32")
    assert field({"type": "date", "range": [dt.date(2024, 1, 1), math.inf]}).range == ("2024-01-01", math.inf)
    assert TypeAdapter(Field).validate_python(
        {"type": "int8", "range": [0, None], "null": ["", "NA"]}
    ) == field({"type": "int8", "range": [0, None], "null": ["", "NA"]})
    with pytest.raises(ValidationError):
        TypeAdapter(Field).validate_python({"type": "int8", "unknown": 1})
