"""Values of expressions and the operators between them: Arrow kernels with the nulls of SQL.

A value is an Arrow array or scalar of one of six types: int64, float64, bool, string, date32, timestamp(us, UTC).
A missing operand gives a missing answer, except that `and` and `or` answer where the other side decides. What has no
answer is missing too (x / 0, 10.0 ** 400): nan and infinities never appear. Integers that leave int64 raise
ArrowInvalid: a wrong number would be worse than none.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import cast_cells
from pipelines.fields import NUMBER, combined, finite, kind_of, numpy_of

__all__ = [
    "BINARY",
    "COMPARISONS",
    "TYPES",
    "Datum",
    "Misuse",
    "alike",
    "as_float",
    "canonical",
    "concat",
    "constant",
    "finite_only",
    "interleaved",
    "is_member",
    "logical",
]

Datum: TypeAlias = "pa.Array | pa.Scalar"

TYPES = {
    "integer": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}


class Misuse(Exception):
    """A function or an operator was given what it does not take."""


def canonical(column: pa.ChunkedArray) -> pa.Array:
    """A column of a table as a value of expressions."""
    values = combined(column)
    kind = kind_of(values.type)
    if kind == "other":
        raise Misuse(f"type {values.type} cannot be used in an expression")
    if kind == "null":
        return values
    if kind == "float":
        return finite(pc.cast(values, pa.float64(), safe=False))
    return pc.cast(values, TYPES[kind], safe=kind == "integer")


def constant(value: float | str | None) -> pa.Scalar:
    """A literal as a value of expressions.

    Raises: Misuse if it does not fit.
    """
    if isinstance(value, float) and not np.isfinite(value):
        raise Misuse("a float literal that is larger than float64 can hold")
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise Misuse("an integer literal that is larger than int64 can hold")
    if (
        isinstance(value, str)
        and not value.isprintable()
        and any("\ud800" <= letter <= "\udfff" for letter in value)
    ):
        raise Misuse("a text literal with half a surrogate pair, which no UTF-8 text can hold")
    return pa.scalar(value)


def logical(name: str, values: Sequence[Datum]) -> Datum:
    """Three-valued `and`, `or`, `not`: false and unknown is false, true or unknown is true, the rest stays unknown."""
    for value in values:
        if kind_of(value.type) != "bool":
            raise Misuse(f"{name} takes true or false, not {kind_of(value.type)}; write a comparison")
    if name == "not":
        return pc.invert(values[0])
    return functools.reduce(pc.and_kleene if name == "and" else pc.or_kleene, values)


def is_member(value: Datum, members: Sequence[pa.Scalar]) -> Datum:
    """Whether the value is one of the members; unknown where it is missing."""
    value, *others = alike("in", [value, *members], literals=True)
    listed = pa.concat_arrays([pa.array([one.as_py()], value.type) for one in others])
    array = pa.array([value.as_py()], value.type) if isinstance(value, pa.Scalar) else value
    found = pc.if_else(pc.is_valid(array), pc.is_in(array, value_set=listed), pa.scalar(None, pa.bool_()))
    return found[0] if isinstance(value, pa.Scalar) else found


# ---- what goes together


def _numbers(name: str, *values: Datum) -> list[Datum]:
    """All as int64, or all as float64 if one is."""
    for value in values:
        if kind_of(value.type) not in NUMBER:
            raise Misuse(f"{name} takes numbers, not {' and '.join(kind_of(one.type) for one in values)}")
    if all(kind_of(value.type) == "integer" for value in values):
        return list(values)
    return [as_float(value) for value in values]


def as_float(value: Datum) -> Datum:
    """An integer as the nearest float; anything else as it is."""
    return value.cast(pa.float64(), safe=False) if kind_of(value.type) == "integer" else value


def alike(name: str, values: Sequence[Datum], *, literals: bool = False) -> list[Datum]:
    """All of one type. With `literals`, a text literal beside a date or timestamp is read as one."""
    kinds = {kind_of(value.type) for value in values} - {"null"}
    if kinds <= set(NUMBER):
        kind = "float" if "float" in kinds else "integer"
    elif literals and kinds in ({"string", "date"}, {"string", "timestamp"}):
        kind = (kinds - {"string"}).pop()
    elif kinds == {"date", "timestamp"}:
        kind = "timestamp"
    elif len(kinds) == 1:
        kind = next(iter(kinds))
    else:
        raise Misuse(f"{name}: {' and '.join(sorted(kinds))} do not go together")
    if not kinds:
        return list(values)
    return [_as_kind(name, value, kind) for value in values]


def _as_kind(name: str, value: Datum, kind: str) -> Datum:
    found = kind_of(value.type)
    if found == "string" and kind in {"date", "timestamp"}:
        if not isinstance(value, pa.Scalar):
            raise Misuse(f'{name}: string and {kind} do not go together; write cast(..., "{kind}")')
        text = value.as_py()
        if kind == "timestamp" and text is not None and len(text) == 10:
            text += "T00:00:00"
        read, misfits = cast_cells(pa.array([text], pa.string()), kind)
        if len(misfits):
            raise Misuse(f"{name}: cannot read {value.as_py()!r} as {kind}")
        return read[0]
    return value if found == kind else value.cast(TYPES[kind], safe=False)


# ---- arithmetic


def _arithmetic(name: str, kernel: Callable[[Datum, Datum], Datum]) -> Callable[[Datum, Datum], Datum]:
    def apply(a: Datum, b: Datum) -> Datum:
        if name == "+" and kind_of(a.type) == kind_of(b.type) == "string":
            return concat(a, b)
        return finite_only(kernel(*_numbers(name, a, b)))

    return apply


def _divide(a: Datum, b: Datum) -> Datum:
    a, b = (as_float(value) for value in _numbers("/", a, b))
    return finite_only(pc.divide(a, b))


def _power(a: Datum, b: Datum) -> Datum:
    """An integer to a literal power from 0 is an integer, all else a float: the type never depends on the data."""
    a, b = _numbers("**", a, b)
    whole = kind_of(a.type) == "integer" and isinstance(b, pa.Scalar) and b.is_valid and b.as_py() >= 0
    if whole:
        return pc.power_checked(a, b)
    return finite_only(pc.power(as_float(a), as_float(b)))


def _python_division(name: str, ufunc: Callable[[Any, Any], Any]) -> Callable[[Datum, Datum], Datum]:
    """`//` and `%` as Python has them: rounded down, the remainder with the sign of the divisor."""

    def apply(a: Datum, b: Datum) -> Datum:
        a, b = _numbers(name, a, b)
        scalar = isinstance(a, pa.Scalar) and isinstance(b, pa.Scalar)
        rows = 1 if scalar else len(a) if isinstance(b, pa.Scalar) else len(b)
        a, b = (pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value for value in (a, b))
        valid = pc.and_(
            pc.and_(pc.is_valid(a), pc.is_valid(b)), pc.fill_null(pc.not_equal(b, 0), fill_value=False)
        )
        left, right = numpy_of(pc.fill_null(a, 0)), numpy_of(pc.if_else(valid, b, pa.scalar(1, b.type)))
        if (
            name == "//"
            and left.dtype == np.int64
            and ((left == np.iinfo(np.int64).min) & (right == -1)).any()
        ):
            raise pa.ArrowInvalid("overflow")
        with np.errstate(all="ignore"):
            answer = pc.if_else(valid, pa.array(ufunc(left, right)), pa.scalar(None, a.type))
        return finite_only(answer[0] if scalar else answer)

    return apply


def finite_only(value: Datum) -> Datum:
    """A float that is nan or infinite becomes missing."""
    if kind_of(value.type) != "float":
        return value
    if isinstance(value, pa.Scalar):
        return value if not value.is_valid or np.isfinite(value.as_py()) else pa.scalar(None, value.type)
    return finite(value)


# ---- comparison and choice


def _comparison(name: str, kernel: Callable[[Datum, Datum], Datum]) -> Callable[[Datum, Datum], Datum]:
    def apply(a: Datum, b: Datum) -> Datum:
        if "null" in {kind_of(a.type), kind_of(b.type)}:
            raise Misuse(f"{name} None is never true; write is_null(x), x is None or x is not None")
        a, b = alike(name, [a, b], literals=True)
        if kind_of(a.type) == "bool" and name not in {"==", "!="}:
            raise Misuse(f"{name} takes no bools; use ==, !=, and, or, not")
        return kernel(a, b)

    return apply


def interleaved(mask: pa.BooleanArray, yes: Datum, no: Datum) -> Datum:
    """if_else whose branches were computed for their own rows only: `yes` where `mask` is true, `no` elsewhere."""
    taken = numpy_of(mask)
    first = int(taken.sum())
    yes, no = alike("if_else", [yes, no])
    rows = ((yes, first), (no, len(taken) - first))
    sides = [pa.repeat(side, count) if isinstance(side, pa.Scalar) else side for side, count in rows]
    place = np.where(taken, np.cumsum(taken) - 1, first + np.cumsum(~taken) - 1)
    return pa.concat_arrays(sides).take(pa.array(place))


def concat(*values: Datum) -> Datum:
    """Texts one behind the other; missing if one is."""
    return pc.binary_join_element_wise(*values, "", null_handling="emit_null")


BINARY: dict[str, Callable[[Datum, Datum], Datum]] = {
    "Add": _arithmetic("+", pc.add_checked),
    "Sub": _arithmetic("-", pc.subtract_checked),
    "Mult": _arithmetic("*", pc.multiply_checked),
    "Div": _divide,
    "FloorDiv": _python_division("//", np.floor_divide),
    "Mod": _python_division("%", np.remainder),
    "Pow": _power,
}
COMPARISONS: dict[str, Callable[[Datum, Datum], Datum]] = {
    "Eq": _comparison("==", pc.equal),
    "NotEq": _comparison("!=", pc.not_equal),
    "Lt": _comparison("<", pc.less),
    "LtE": _comparison("<=", pc.less_equal),
    "Gt": _comparison(">", pc.greater),
    "GtE": _comparison(">=", pc.greater_equal),
}
