r"""The grammar of each type: which text is a value, read by whole Arrow columns.

    int8 .. int64      -?[0-9]+                 no '+', no '_', no hex, no '2.0'; leading zeros are fine; must fit the type
    float32, float64   -?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?
                                                no '+5', 'inf', 'nan', hex or thousands; '1e309' does not fit; the nearest
                                                float is taken, so '1e-400' is 0; `decimal` may be ',' (then '.' is refused)
    bool               true, false, 1, 0        in any case: True, TRUE
    date, timestamp    see timestamps.py
    string             any text without NUL

No type takes blanks around the value: `trim` of the field removes them first, where it is declared. There is no other
way in: nan never comes out, nothing is rounded into an integer, and the fate of a text does not depend on its neighbours:
plain texts of a column are read at once, which costs 10 ns each, the others by expression, and the answer is the same.
"""

import functools
import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import timestamps
from pipelines.halves import in_halves
from pipelines.odd import has_others, matching, odd_numbers, without

__all__ = ["ARROW", "Reader", "nowhere", "reader", "reason"]

ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}

Reader = Callable[[pa.StringArray], tuple[pa.Array, np.ndarray]]
"""Text -> values (null where the text is null or does not fit), row numbers of the texts that do not fit."""

_INT = r"^-?[0-9]+$"
_SMALL_INT = r"^-?0*[0-9]{1,18}$"  # cannot overflow int64
_FLOAT = r"^-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DIGITS = {  # that any number of the type can have, whatever they are
    pa.int8(): 2,
    pa.int16(): 4,
    pa.int32(): 9,
    pa.int64(): 18,
    pa.float32(): 37,
    pa.float64(): 307,
}
_FEW = 128  # odd texts of a column that are not tried at once first
_BOOL = pa.array(["false", "0", "true", "1"])


def reader(kind: str, *, pattern: str | None = None, zone: str = "UTC", decimal: str = ".") -> Reader:
    """What reads a column of text as `kind`, a key of ARROW; `pattern` is the format of dates and times."""
    arrow = ARROW[kind]
    if kind == "string":
        return _strings
    if kind == "bool":
        return _bools
    if kind == "date":
        return lambda text: timestamps.dates(text, pattern)
    if kind == "timestamp":
        return lambda text: timestamps.timestamps(text, pattern, zone)
    if pa.types.is_integer(arrow):
        return lambda text: _ints(text, arrow)
    return lambda text: _floats(text, arrow, decimal)


@functools.lru_cache(1024)  # what does not fit is often the same few texts
def reason(text: str, kind: str, *, pattern: str | None = None, zone: str = "UTC", decimal: str = ".") -> str:
    """Why one text does not fit `kind`, in parentheses to put behind the message; empty if there is no more to say.

    >>> reason("300", "int8")
    ' (int8 holds -128 to 127)'
    """
    arrow = ARROW[kind]
    if kind == "string":
        return " (it holds a NUL character)"
    if kind in {"date", "timestamp"}:
        return timestamps.reason(text, pattern, zone, date=kind == "date")
    if pa.types.is_integer(arrow) and re.fullmatch(_INT, text):
        bits = arrow.bit_width - 1
        return f" ({kind} holds {-(2**bits)} to {2**bits - 1})"
    if pa.types.is_floating(arrow):
        if re.fullmatch(_FLOAT, text) and decimal == ".":
            return f" (more than {kind} can hold)"
        if decimal == "." and re.fullmatch(r"-?[0-9]+,[0-9]+", text):
            return ' (for a decimal comma set decimal = ",")'
    return ""


def nowhere() -> np.ndarray:
    """No row numbers."""
    return np.zeros(0, np.int64)


def _strings(text: pa.StringArray) -> tuple[pa.Array, np.ndarray]:
    if b"\0" not in timestamps.characters(text):
        return text, nowhere()
    bad = pc.match_substring(text, "\0")
    return _without(text, bad), timestamps.where(bad)


def _bools(text: pa.StringArray) -> tuple[pa.Array, np.ndarray]:
    code = pc.index_in(pc.ascii_lower(text), _BOOL)
    return pc.greater_equal(code, 2), timestamps.where(pc.and_(pc.is_valid(text), pc.is_null(code)))


def _ints(text: pa.StringArray, arrow: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    return _numbers(text, arrow, lambda some: _cast(some, arrow), lambda some: _ints_by_value(some, arrow))


def _numbers(
    text: pa.StringArray,
    arrow: pa.DataType,
    at_once: Callable[[pa.StringArray], pa.Array | None],
    by_value: Callable[[pa.StringArray], tuple[pa.Array, np.ndarray]],
) -> tuple[pa.Array, np.ndarray]:
    """Numbers of the texts: of all at once, else of the plain ones, and the others with more care."""
    values = at_once(text)
    if values is not None:
        return values, nowhere()
    rows = odd_numbers(text, digits=_DIGITS[arrow], point=pa.types.is_floating(arrow))
    values = pc.cast(without(text, rows), arrow)
    some = text.take(pa.array(rows))
    found, bad = by_value(some) if len(rows) <= _FEW else in_halves(some, at_once, by_value)
    if len(bad) < len(rows):
        mask = np.zeros(len(text), bool)
        mask[rows] = True
        values = pc.replace_with_mask(values, pa.array(mask), found)
    return values, rows[bad]


def _cast(text: pa.StringArray, arrow: pa.DataType) -> pa.Array | None:
    """The numbers of texts; None if one does not fit, or has a letter that Arrow takes and the grammar does not ('+5')."""
    if has_others(text, point=pa.types.is_floating(arrow)):
        return None
    try:
        return pc.cast(text, arrow)
    except pa.ArrowInvalid:
        return None


def _ints_by_value(text: pa.StringArray, arrow: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    if not pc.any(matching(text, _INT)).as_py():
        return _none_fits(text, arrow)
    small = matching(text, _SMALL_INT)
    values = pc.cast(_without(text, pc.invert(small)), pa.int64())
    limit = 2 ** (arrow.bit_width - 1)
    large = timestamps.where(pc.and_(pc.invert(small), matching(text, _INT)))
    if len(large):
        values = _put(values, large, [_large(text[row].as_py()) for row in large.tolist()])
    fits = pc.and_(pc.greater_equal(values, -limit), pc.less_equal(values, limit - 1))
    values = pc.if_else(fits, values, pa.scalar(None, pa.int64()))
    return pc.cast(values, arrow), timestamps.where(pc.and_(pc.is_valid(text), pc.is_null(values)))


def _large(digits: str) -> int | None:
    """The integer of 19 or more digits if int64 holds it; int() itself refuses thousands of digits."""
    significant = digits.lstrip("-").lstrip("0")
    if len(significant) > 19:
        return None
    value = -int(significant) if digits.startswith("-") else int(significant)
    return value if -(2**63) <= value < 2**63 else None


def _put(values: pa.Array, rows: np.ndarray, new: list[int | None]) -> pa.Array:
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    return pc.replace_with_mask(values, pa.array(mask), pa.array(new, values.type))


def _floats(text: pa.StringArray, arrow: pa.DataType, decimal: str) -> tuple[pa.Array, np.ndarray]:
    points = text
    if decimal == ",":
        if b"." in timestamps.characters(text):
            points = _without(text, pc.match_substring(text, "."))
        points = pc.replace_substring(points, ",", ".")

    def at_once(some: pa.StringArray) -> pa.Array | None:
        values = _cast(some, arrow)
        return None if values is None or pc.all(pc.is_finite(values)).as_py() is False else values

    values, bad = _numbers(points, arrow, at_once, lambda some: _floats_by_value(some, arrow))
    if points.null_count == text.null_count:
        return values, bad
    return values, timestamps.where(pc.and_(pc.is_valid(text), pc.is_null(values)))


def _floats_by_value(text: pa.StringArray, arrow: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    written = matching(text, _FLOAT)
    if not pc.any(written).as_py():
        return _none_fits(text, arrow)
    values = pc.cast(_without(text, pc.invert(written)), arrow)
    values = _without(values, pc.invert(pc.is_finite(values)))
    return values, timestamps.where(pc.and_(pc.is_valid(text), pc.is_null(values)))


def _none_fits(text: pa.StringArray, arrow: pa.DataType) -> tuple[pa.Array, np.ndarray]:
    return pa.nulls(len(text), arrow), timestamps.where(pc.is_valid(text))


def _without(values: pa.Array, bad: pa.Array) -> pa.Array:
    return pc.if_else(bad, pa.scalar(None, values.type), values)
