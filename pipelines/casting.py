"""From one type to another, cell by cell: what does not fit is told, never rounded, cut or guessed.

    text -> any          by the grammar of literals.py
    any -> text          as Arrow prints it
    number -> integer    the value must be kept: 2.5 and 300 (as int8) are misfits
    number -> float      the nearest float; only what is too large is a misfit
    bool <-> integer     0 and 1 only
    date <-> timestamp   midnight UTC; the day in UTC

All other pairs are refused when the step is built.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import literals
from pipelines.errors import SpecError
from pipelines.fields import combined, kind_of
from pipelines.literals import ARROW

__all__ = ["cast_cells", "castable", "literal"]

_ALLOWED = {
    "integer": {"integer", "float", "bool", "string"},
    "float": {"integer", "float", "string"},
    "bool": {"integer", "float", "bool", "string"},
    "string": {"integer", "float", "bool", "string", "date", "timestamp"},
    "date": {"date", "timestamp", "string"},
    "timestamp": {"date", "timestamp", "string"},
    "null": {"integer", "float", "bool", "string", "date", "timestamp"},
}


def castable(arrow: pa.DataType, name: str) -> bool:
    """Whether cells of an Arrow type may become the type of this name (a key of ARROW)."""
    return kind_of(ARROW[name]) in _ALLOWED.get(kind_of(arrow), ())


def cast_cells(column: pa.ChunkedArray | pa.Array, name: str) -> tuple[pa.Array, np.ndarray]:
    """The column as the type of this name, null where a cell does not fit, and the row numbers of those cells."""
    array, target = combined(column), ARROW[name]
    source, kind = kind_of(array.type), kind_of(target)
    if source == "string" and kind != "string":
        values, rows = literals.reader(name)(array.cast(pa.string()))
        return values, rows
    if source == "integer" and kind == "bool":
        array = pc.if_else(
            pc.is_in(array, value_set=pa.array([0, 1], array.type)), array, pa.scalar(None, array.type)
        )
    values = _cast(array, target)
    if kind == "float":
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, target))
    return values, _rows(pc.and_(pc.is_valid(combined(column)), pc.is_null(values)))


def literal(value: Any, arrow: pa.DataType, *, where: str) -> pa.Scalar:
    """A constant of the pipeline file as a value of a column; dates and times are ISO 8601 text.

    Raises: SpecError if it is not of the column's type.
    """
    kind = kind_of(arrow)
    given = {bool: "bool", int: "integer", float: "float", str: "string"}.get(type(value))
    if given == kind or (given == "integer" and kind == "float"):
        try:
            return pa.scalar(value, arrow)
        except (pa.ArrowInvalid, OverflowError):
            raise SpecError(f"{where}: {value!r} does not fit {arrow}") from None
    if given == "string" and kind in {"date", "timestamp"}:
        values, misfits = cast_cells(pa.array([value]), kind)
        if not len(misfits):
            return values.cast(arrow)[0]
    raise SpecError(f"{where}: {value!r} is no {kind}")


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array:
    """Arrow's safe cast; where it refuses the whole, each distinct value by itself."""
    if pa.types.is_floating(target):
        return pc.cast(array, target, safe=False)
    try:
        return pc.cast(array, target)
    except pa.ArrowInvalid:
        encoded = array.dictionary_encode()
        return _halves(encoded.dictionary, target).take(encoded.indices)


def _halves(array: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        return pc.cast(array, target)
    except pa.ArrowInvalid:
        middle = len(array) // 2
        if middle == 0:
            return pa.nulls(1, target)
        return pa.concat_arrays([_halves(array[:middle], target), _halves(array[middle:], target)])


def _rows(mask: pa.Array) -> np.ndarray:
    return np.from_dlpack(pc.indices_nonzero(mask)).astype(np.int64)
