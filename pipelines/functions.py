"""The functions of expressions, by name.

A missing argument gives a missing answer, except where a function is about missing values (coalesce, is_null,
if_else). What has no answer is missing too: sqrt(-1), log(0), date(y, 2, 30). Parts of a timestamp are in UTC.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import cast_cells, castable
from pipelines.fields import NUMBER, kind_of, numpy_of
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.operators import TYPES, Datum, Misuse, alike, as_float, canonical, concat, finite_only

__all__ = ["FUNCTIONS", "Function", "call"]

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Function:
    """One function: what computes it, and what it takes.

    `takes`: a kind, "number", "moment" (date or timestamp) or "any" for each argument, the last one for all further
    ones; "'text'" and "digits" are literals in the expression itself. `least` and `most` count the arguments.
    """

    apply: Callable[..., Datum]
    takes: tuple[str, ...]
    least: int
    most: int | None

    def kind(self, place: int) -> str:
        """What the argument at `place` must be."""
        return self.takes[min(place, len(self.takes) - 1)]


def call(function: Function, name: str, arguments: Sequence[Any]) -> Datum:
    """The answer of a function, after its arguments are checked."""
    for place, argument in enumerate(arguments):
        wanted = function.kind(place)
        if wanted in {"'text'", "digits"}:
            continue
        found = kind_of(argument.type)
        fits = {"number": NUMBER, "moment": ("date", "timestamp"), "any": (*TYPES, "null")}.get(
            wanted, (wanted,)
        )
        if found not in fits:
            none = '; None has no type here: write cast(None, "float64")' if found == "null" else ""
            raise Misuse(f"{name} takes {wanted} as argument {place + 1}, not {found}{none}")
    return function.apply(*arguments)


def _of_float(kernel: Callable[[Datum], Datum]) -> Callable[[Datum], Datum]:
    return lambda value: finite_only(kernel(as_float(value)))


def _rounded(value: Datum, digits: int = 0) -> Datum:
    return finite_only(pc.round(value, ndigits=digits))


def _whole(kernel: Callable[[Datum], Datum]) -> Callable[[Datum], Datum]:
    return lambda value: value if kind_of(value.type) == "integer" else kernel(value)


def _extreme(name: str, kernel: Callable[..., Datum]) -> Callable[..., Datum]:
    def apply(*values: Datum) -> Datum:
        values = tuple(alike(name, values))
        if kind_of(values[0].type) in {"bool", "null"}:
            raise Misuse(f"{name} takes no {kind_of(values[0].type)}")
        if kind_of(values[0].type) != "timestamp":
            return kernel(*values, skip_nulls=False)
        naive = [value.cast(pa.timestamp("us")) for value in values]  # the kernels know no zones
        return kernel(*naive, skip_nulls=False).cast(TYPES["timestamp"])

    return apply


def _if_else(condition: Datum, yes: Datum, no: Datum) -> Datum:
    yes, no = alike("if_else", [yes, no])
    return pc.if_else(pc.fill_null(condition, fill_value=False), yes, no)  # as CASE WHEN: unknown is not true


# ---- text, dates and times


def _cast(value: Datum, name: str) -> Datum:
    if name not in ARROW:
        raise Misuse(f"cast: no type {name!r}{did_you_mean(name, ARROW)}")
    if not castable(value.type, name):
        raise Misuse(f"cast: {kind_of(value.type)} cannot become {name}")
    array = pa.repeat(value, 1) if isinstance(value, pa.Scalar) else value
    values, misfits = cast_cells(array, name)
    if len(misfits):
        raise pa.ArrowInvalid(
            f"cannot read {array[int(misfits[0])].as_py()!r} as {name}; the step cast sets such rows aside"
        )
    values = canonical(pa.chunked_array([values]))
    return values[0] if isinstance(value, pa.Scalar) else values


def _part(kernel: Callable[..., Datum], **options: Any) -> Callable[[Datum], Datum]:
    """A part of a date or time, in UTC (without a zone the kernels need no zone database)."""

    def apply(value: Datum) -> Datum:
        naive = value.cast(pa.timestamp("us")) if kind_of(value.type) == "timestamp" else value
        return kernel(naive, **options).cast(pa.int64())

    return apply


def _date(year: Datum, month: Datum, day: Datum) -> Datum:
    """The day, missing where there is no such day between the years 1 and 9999."""
    parts = [year, month, day]
    scalar = all(isinstance(part, pa.Scalar) for part in parts)
    rows = next((len(part) for part in parts if isinstance(part, pa.Array)), 1)
    arrays = [pa.repeat(part, rows) if isinstance(part, pa.Scalar) else part for part in parts]
    valid = functools.reduce(pc.and_, (pc.is_valid(array) for array in arrays))
    y, m, d = (numpy_of(pc.fill_null(array, 0)) for array in arrays)
    sane = (y >= 1) & (y <= 9999) & (m >= 1) & (m <= 12) & (d >= 1) & (d <= 31)
    start = ((np.where(sane, y, 1970) - 1970) * 12 + np.where(sane, m, 1) - 1).astype("datetime64[M]")
    days = start.astype("datetime64[D]") + (np.where(sane, d, 1) - 1).astype("timedelta64[D]")
    sane &= days.astype("datetime64[M]") == start
    array = pa.array(days.astype(np.int64).astype(np.int32)).view(pa.date32())
    made = pc.if_else(pc.and_(valid, pa.array(sane)), array, pa.scalar(None, pa.date32()))
    if scalar and not made[0].is_valid and valid[0].as_py():
        raise Misuse(f"date: there is no day {tuple(part.as_py() for part in parts)}")
    return made[0] if scalar else made


def _days_between(start: Datum, end: Datum) -> Datum:
    """Days from `start` to `end`: whole for dates, with fractions once a timestamp is there."""
    start, end = alike("days_between", [start, end])
    if kind_of(start.type) == "date":
        return pc.subtract(*(value.cast(pa.int32()).cast(pa.int64()) for value in (end, start)))
    return pc.divide(
        as_float(pc.subtract_checked(end.cast(pa.int64()), start.cast(pa.int64()))), float(_DAY_US)
    )


FUNCTIONS: dict[str, Function] = {
    "abs": Function(pc.abs_checked, ("number",), 1, 1),
    "cast": Function(_cast, ("any", "'text'"), 2, 2),
    "ceil": Function(_whole(pc.ceil), ("number",), 1, 1),
    "coalesce": Function(lambda *values: pc.coalesce(*alike("coalesce", values)), ("any",), 2, None),
    "concat": Function(concat, ("string",), 2, None),
    "contains": Function(pc.match_substring, ("string", "'text'"), 2, 2),
    "cos": Function(_of_float(pc.cos), ("number",), 1, 1),
    "date": Function(_date, ("integer",), 3, 3),
    "day": Function(_part(pc.day), ("moment",), 1, 1),
    "day_of_year": Function(_part(pc.day_of_year), ("moment",), 1, 1),
    "days_between": Function(_days_between, ("moment",), 2, 2),
    "ends_with": Function(pc.ends_with, ("string", "'text'"), 2, 2),
    "exp": Function(_of_float(pc.exp), ("number",), 1, 1),
    "floor": Function(_whole(pc.floor), ("number",), 1, 1),
    "hour": Function(_part(pc.hour), ("timestamp",), 1, 1),
    "if_else": Function(_if_else, ("bool", "any"), 3, 3),
    "is_null": Function(pc.is_null, ("any",), 1, 1),
    "length": Function(lambda text: pc.utf8_length(text).cast(pa.int64()), ("string",), 1, 1),
    "log": Function(_of_float(pc.ln), ("number",), 1, 1),
    "lower": Function(pc.utf8_lower, ("string",), 1, 1),
    "max": Function(_extreme("max", pc.max_element_wise), ("any",), 2, None),
    "min": Function(_extreme("min", pc.min_element_wise), ("any",), 2, None),
    "minute": Function(_part(pc.minute), ("timestamp",), 1, 1),
    "month": Function(_part(pc.month), ("moment",), 1, 1),
    "replace": Function(
        lambda text, old, new: pc.replace_substring(text, pattern=old, replacement=new),
        ("string", "'text'"),
        3,
        3,
    ),
    "round": Function(_rounded, ("number", "digits"), 1, 2),
    "second": Function(_part(pc.second), ("timestamp",), 1, 1),
    "sin": Function(_of_float(pc.sin), ("number",), 1, 1),
    "sqrt": Function(_of_float(pc.sqrt), ("number",), 1, 1),
    "starts_with": Function(pc.starts_with, ("string", "'text'"), 2, 2),
    "trim": Function(pc.utf8_trim_whitespace, ("string",), 1, 1),
    "upper": Function(pc.utf8_upper, ("string",), 1, 1),
    "weekday": Function(_part(pc.day_of_week, count_from_zero=True, week_start=1), ("moment",), 1, 1),
    "year": Function(_part(pc.year), ("moment",), 1, 1),
}
