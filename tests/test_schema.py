"""Field and Schema: a column is declared in one of two ways, and a wrong declaration says what is wrong."""

import datetime as dt
import math

import pyarrow as pa
import pytest
from pydantic import TypeAdapter, ValidationError

from pipelines.errors import SpecError
from pipelines.schema import Field, Schema, field


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
            "format '%Y-%q-%d': %q is not known; known: %Y %y %b %B %p %j %f %z %m %d %H %I %M %S %%",
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
