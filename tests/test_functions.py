from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.expression import Expression
from pipelines.functions import FUNCTIONS


def value(text, **columns):
    """The answer for one row."""
    table = pa.table(
        {name: one if isinstance(one, pa.Array) else pa.array([one]) for name, one in columns.items()}
        or {"none": [None]}
    )
    return Expression(text).evaluate(table)[0].as_py()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(-3)", 3),
        ("round(2.5)", 2.0),
        ("round(3.14159, 2)", 3.14),
        ("floor(-1.5)", -2.0),
        ("ceil(7)", 7),
        ("sqrt(16)", 4.0),
        ("log(exp(1.0))", 1.0),
        ("sin(0) + cos(0)", 1.0),
        ("min(3, 1.5, 2)", 1.5),
        ("max('b', 'a')", "b"),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("2.0 ** 3", 8.0),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7 % -3", -2),
        ("7.5 % -2", -0.5),
        ("-9223372036854775808", -(2**63)),
        ("lower('ÄB') + upper('c')", "äbC"),
        ("trim('  x\u00a0')", "x"),
        ("length('né')", 2),
        ("contains('abc', 'b') and not contains('abc', 'd')", True),
        ("starts_with('abc', 'ab') and ends_with('abc', 'bc')", True),
        ("replace('a-b-c', '-', '')", "abc"),
        ("concat('a', 'b', 'c')", "abc"),
        ("cast('12', 'int64') + cast(1.0, 'int64')", 13),
        ("cast(1, 'bool')", True),
        ("cast(date(2024, 1, 2), 'string')", "2024-01-02"),
        ("year(date(2024, 2, 29)) + month(date(2024, 2, 29)) + day(date(2024, 2, 29))", 2024 + 2 + 29),
        ("day_of_year(date(2024, 12, 31))", 366),
        ("weekday(date(2024, 1, 1))", 0),
        ("weekday(date(2023, 12, 31))", 6),
        ("days_between(date(2024, 2, 28), date(2024, 3, 1))", 2),
        ("days_between(cast('2024-01-01T12:00:00Z', 'timestamp'), date(2024, 1, 1))", -0.5),
        ("hour(cast('1960-01-01T13:14:15Z', 'timestamp'))", 13),
        (
            "minute(cast('1960-01-01T13:14:15Z', 'timestamp')) * 100 + second(cast('1960-01-01T13:14:15Z', 'timestamp'))",
            1415,
        ),
        ("date(2024, 1, 1) < '2024-01-02'", True),
        ("cast('2024-01-01T00:00:00Z', 'timestamp') == date(2024, 1, 1)", True),
        ("date(2024, 1, 1) in ('2024-01-01',)", True),
        ("'b' in ('a', 'b')", True),
        ("1 in (1.0, 2.5)", True),
        ("max(date(2024, 1, 1), cast('2023-01-01T00:00:00Z', 'timestamp')) == date(2024, 1, 1)", True),
        ("if_else(1 < 2, 1, 2.5)", 1.0),
        ("coalesce(cast(None, 'int64'), 3)", 3),
        ("is_null(1)", False),
        ("1 if 2 > 1 else 0", 1),
        ("1 < 2\n  and 2 < 3  # over two lines", True),
    ],
)
def test_a_function_answers(text, expected):
    found = value(text)

    assert found == expected
    assert type(found) is type(expected)


def test_every_function_is_tried_here():
    source = Path(__file__).read_text("utf-8")

    assert [name for name in FUNCTIONS if f"{name}(" not in source] == []


@given(day=st.dates())
def test_parts_of_a_date_are_those_of_python(day):
    parts = "year(d) * 1000000 + month(d) * 10000 + day(d) * 100 + weekday(d)"

    assert (
        value(parts, d=pa.array([day]))
        == day.year * 1000000 + day.month * 10000 + day.day * 100 + day.weekday()
    )
    assert value("date(year(d), month(d), day(d))", d=pa.array([day])) == day
    assert value("day_of_year(d)", d=pa.array([day])) == day.timetuple().tm_yday
