import ast
import itertools
import math
import operator
import pickle
from datetime import date, timedelta

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError, SpecError
from pipelines.expression import Expression, expression
from tests.strategies import EPOCH, tables, with_origin

TRUTH = [True, False, None]
SHOP = pa.table(
    {
        "age": pa.array([31, None, 70], pa.int16()),
        "price": pa.array([2.0, 0.5, None], pa.float32()),
        "city": ["Oslo", None, ""],
        "day": pa.array([date(2024, 2, 29), None, date(1969, 12, 31)]),
        "at": pa.array([EPOCH + timedelta(days=1, seconds=3661), None, EPOCH], pa.timestamp("us", "UTC")),
        "Total Price": [1, 2, 3],
        "blob": [b"x", None, b""],
    }
)


def value(text, **columns):
    """The answer for one row."""
    table = pa.table(
        {name: one if isinstance(one, pa.Array) else pa.array([one]) for name, one in columns.items()}
        or {"none": [None]}
    )
    return Expression(text).evaluate(table)[0].as_py()


def answers(text):
    return Expression(text).evaluate(SHOP).to_pylist()


# ---- nulls


@pytest.mark.parametrize("a", TRUTH)
@pytest.mark.parametrize("b", TRUTH)
def test_and_or_not_are_three_valued(a, b):
    bools = {"a": pa.array([a], pa.bool_()), "b": pa.array([b], pa.bool_())}

    known = {True: 1, None: 0.5, False: 0}
    back = {1: True, 0.5: None, 0: False}

    assert value("a and b", **bools) is back[min(known[a], known[b])]
    assert value("a or b", **bools) is back[max(known[a], known[b])]
    assert value("not a", **bools) is back[1 - known[a]]


@pytest.mark.parametrize(
    "text",
    [
        "age == 31",
        "age != 31",
        "age < 99",
        "0 <= age <= 99",
        "age in (31, 32)",
        "age not in (31,)",
        "-age",
        "age + 1",
        "min(age, 1)",
        "abs(age)",
    ],
)
def test_what_is_not_known_stays_unknown(text):
    assert answers(text)[0] is not None
    assert answers(text)[1] is None


def test_some_functions_are_about_missing_values():
    assert answers("is_null(age)") == answers("age is None") == [False, True, False]
    assert answers("age is not None") == [True, False, True]
    assert answers("coalesce(age, 0)") == [31, 0, 70]
    assert (
        answers("if_else(age > 40, 'old', 'other')")
        == answers("'old' if age > 40 else 'other'")
        == ["other", "other", "old"]
    )
    assert answers("age if age > 40 else None") == [None, None, 70]


@pytest.mark.parametrize(
    "text",
    [
        "age / 0",
        "age // 0",
        "age % 0",
        "price / 0.0",
        "price % 0",
        "sqrt(-age)",
        "log(age - age)",
        "10.0 ** 400 * age",
        "(-price) ** 0.5",
        "date(2023, 2, age)",
    ],
)
def test_what_has_no_answer_is_missing_and_never_nan(text):
    assert answers(text) == [None, None, None]


def test_nan_and_infinity_in_a_column_are_missing():
    column = pa.array([math.nan, math.inf, 1.0])

    assert Expression("x").evaluate(pa.table({"x": column})).to_pylist() == [None, None, 1.0]
    assert Expression("x > 0").evaluate(pa.table({"x": column})).to_pylist() == [None, None, True]


# ---- the same as Python, row by row

NUMBERS = {
    "a": st.none() | st.integers(-20, 20),
    "b": st.none() | st.integers(-3, 3),
    "f": st.none() | st.floats(-100, 100),
}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


def interpreted(node, row):
    """One row by plain Python, with None for what is not known."""
    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id=name):
            return row[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            one = interpreted(operand, row)
            return None if one is None else -one
        case ast.BinOp(left=left, op=op, right=right):
            one, other = interpreted(left, row), interpreted(right, row)
            if (
                one is None
                or other is None
                or (other == 0 and isinstance(op, ast.Div | ast.FloorDiv | ast.Mod))
            ):
                return None
            made = OPERATORS[type(op)](one, other)
            return made if isinstance(made, int) or math.isfinite(made) else None
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [interpreted(one, row) for one in (left, *others)]
            links = [
                None if None in pair else OPERATORS[type(op)](*pair)
                for op, pair in zip(ops, itertools.pairwise(values), strict=True)
            ]
            return False if False in links else None if None in links else True
        case ast.BoolOp(op=op, values=parts):
            decides = isinstance(op, ast.Or)
            found = [interpreted(part, row) for part in parts]
            return decides if decides in found else None if None in found else not decides
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return interpreted(body if interpreted(test, row) else orelse, row)


def joined(*parts):
    return st.tuples(*parts).map(lambda chosen: f"({' '.join(chosen)})")


leaves = st.sampled_from(["a", "b", "f", "2", "-3", "0", "1.5"])
arithmetic = st.recursive(
    leaves,
    lambda inner: (
        joined(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner)
        | inner.map(lambda one: f"(-{one})")
    ),
    max_leaves=6,
)
compared = joined(arithmetic, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), arithmetic) | joined(
    leaves, st.just("<"), leaves, st.just("<="), leaves
)
conditions = st.recursive(
    compared, lambda inner: joined(inner, st.sampled_from(["and", "or"]), inner), max_leaves=4
)
choices = joined(arithmetic, st.just("if"), conditions, st.just("else"), arithmetic)


@settings(max_examples=150, deadline=None)
@given(text=arithmetic | conditions | choices, rows=st.lists(st.fixed_dictionaries(NUMBERS), max_size=6))
def test_an_expression_is_what_python_says_of_each_row(text, rows):
    types = {"a": pa.int64(), "b": pa.int8(), "f": pa.float64()}
    table = pa.table({name: pa.array([row[name] for row in rows], types[name]) for name in types})
    expected = [interpreted(ast.parse(text, mode="eval").body, row) for row in rows]
    assume(all(not isinstance(one, int) or abs(one) < 2**63 for one in expected))

    try:
        found = Expression(text).evaluate(table)
    except InputError:  # an integer on the way has left int64
        return

    assert found.to_pylist() == expected
    assert found.type == Expression(text).type(table.schema)


@settings(max_examples=30, deadline=None)
@given(
    table=tables(least=1),
    text=st.sampled_from(
        [
            "age * 2 if ok else id",
            "lower(city) + '!'",
            "days_between(day, at)",
            "price > 1 or ok",
            "max(age, price)",
            "'x'",
        ]
    ),
)
def test_the_answer_for_a_row_does_not_depend_on_its_neighbours(table, text):
    whole = Expression(text).evaluate(table)

    rows = [Expression(text).evaluate(table.slice(row, 1)) for row in range(table.num_rows)]

    assert pa.concat_arrays(rows).equals(whole)


def test_in_an_expression_integers_are_int64_and_floats_float64():
    assert Expression("age").type(SHOP.schema) == pa.int64()
    assert Expression("price").type(SHOP.schema) == pa.float64()
    assert answers("age * 1000000") == [31_000_000, None, 70_000_000]


def test_a_column_with_another_name_is_written_as_text():
    wanted = Expression('column("Total Price") * 2')

    assert wanted.columns == {"Total Price"}
    assert wanted.evaluate(SHOP).to_pylist() == [2, 4, 6]


def test_hidden_columns_are_not_there():
    with pytest.raises(SpecError, match="no column '_line'"):
        Expression("_line > 2").evaluate(with_origin(SHOP))


# ---- failures of the data


def test_an_overflow_names_the_row():
    table = with_origin(pa.table({"x": [1, 2, 3, 4, 5, 2**62, 7]}))

    with pytest.raises(
        InputError, match=r"'x \* 4': source 1 line 2 \(x = 4611686018427387904\): an integer leaves int64"
    ):
        Expression("x * 4").evaluate(table)


@pytest.mark.parametrize(
    "text", ["x + 1", "-y", "abs(y)", "y // -1", "x * x", "x ** 2", "2 ** 63 * x", "y - 1"]
)
def test_no_integer_wraps_around(text):
    table = pa.table({"x": [2**63 - 1], "y": [-(2**63)]})

    with pytest.raises((InputError, SpecError), match="overflow"):
        Expression(text).evaluate(table)


def test_a_cast_that_fails_names_the_value():
    with pytest.raises(InputError, match=r"row 1 \(s = 'x'\): cannot read 'x' as int64; the step cast"):
        Expression("cast(s, 'int64')").evaluate(pa.table({"s": ["1", "x"]}))


def test_a_condition_guards_what_would_fail():
    table = pa.table({"s": ["1", "x", None, "4"], "n": [2**62, 2, 3, 4]})

    assert Expression("cast(s, 'int64') if s != 'x' else -1").evaluate(table).to_pylist() == [1, -1, -1, 4]
    assert Expression("if_else(n < 100, n * 4, 0)").evaluate(table).to_pylist() == [0, 8, 12, 16]
    assert Expression("n * 4 if n < 100 else n / 2").evaluate(table).to_pylist() == [2.0**61, 8.0, 12.0, 16.0]


def test_an_expression_is_its_text():
    one, other = Expression("a + b"), Expression("a + b")

    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes
    assert pickle.loads(pickle.dumps(one)).evaluate(pa.table({"a": [1], "b": [2]})).to_pylist() == [3]  # noqa: S301
    assert expression("a + b") is expression("a + b")
    assert one.columns == {"a", "b"}
