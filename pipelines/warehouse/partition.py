"""Partition values as text, the form in which the log keeps them.

The path of a file says nothing about its values, so any text is safe. Two values cannot be told apart from null by
readers of Delta, or not stored at all, and are refused: the empty string, and text with a NUL.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SchemaMismatch, SpecError

__all__ = ["decode", "encode", "encode_all", "periods"]

_PERIODS = {"hour": "%Y-%m-%dT%H", "month": "%Y-%m"}
_LONGEST = 1024  # bytes; a longer one is free text, not a category


def encode(field: pa.Field, value: Any) -> str | None:
    """The text of one value of a partition column.

    >>> encode(pa.field("day", pa.date32()), dt.date(2026, 1, 5))
    '2026-01-05'

    Raises: SchemaMismatch.
    """
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if value is None:
        if not field.nullable:
            raise SchemaMismatch(
                f"partition column {field.name!r} is null, expected NOT NULL; fill or reject the rows"
            )
        return None
    expected = _python_type(field.type)
    if type(value) is not expected:
        raise SchemaMismatch(
            f"partition column {field.name!r} has {value!r}, expected {expected.__name__} for {field.type}; cast it"
        )
    if isinstance(value, str):
        return _text(field, value)
    try:
        pa.scalar(value, field.type)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise SchemaMismatch(
            f"partition column {field.name!r} has {value!r}, too large for {field.type}; cast it"
        ) from error
    return str(value).lower() if isinstance(value, bool) else str(value)


def encode_all(schema: pa.Schema, partition: Mapping[str, Any]) -> dict[str, str | None]:
    """The texts of the values of all partition columns.

    Raises: SchemaMismatch, also for a column that is not in the table.
    """
    for name in partition:
        if name not in schema.names:
            raise SchemaMismatch(
                f"partition column {name!r} is not in the table, columns are {schema.names}; add it"
            )
    return {name: encode(schema.field(name), value) for name, value in partition.items()}


def decode(field: pa.Field, text: str | None) -> Any:
    """The value of `encode`d text.

    Raises: SchemaMismatch for text that `encode` cannot have written.
    """
    if text is None:
        return encode(field, None)
    try:
        value = _READ[_python_type(field.type)](text)
    except (KeyError, ValueError) as error:
        raise SchemaMismatch(
            f"partition column {field.name!r} has {text!r}, expected {field.type}; write it anew"
        ) from error
    encode(field, value)
    return value


def periods(times: pa.ChunkedArray | pa.Array, every: str) -> pa.ChunkedArray | pa.Array:
    """The partition of each time: its day as a date, its hour ("2026-01-05T13") or month ("2026-01") as text, in UTC.

    Raises: SpecError for another period.
    """
    if every == "day":
        return times.cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
    if every not in _PERIODS:
        raise SpecError(f"period {every!r}, expected 'hour', 'day' or 'month'")
    return pc.strftime(times.cast(pa.timestamp("s"), safe=False), format=_PERIODS[every])


def _text(field: pa.Field, value: str) -> str:
    if not value:
        raise SchemaMismatch(
            f"partition column {field.name!r} has '', which readers of Delta take for null; use null, or a word"
        )
    if "\0" in value or len(value.encode("utf-8", "replace")) > _LONGEST:
        raise SchemaMismatch(
            f"partition column {field.name!r} has {value[:40]!r}, expected text without NUL of at most {_LONGEST} bytes; "
            "clean it, or partition by another column"
        )
    return value


def _python_type(kind: pa.DataType) -> type:
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_integer(kind):
        return int
    return dt.date if pa.types.is_date(kind) else str


_READ: dict[type, Callable[[str], Any]] = {
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    dt.date: dt.date.fromisoformat,
    str: str,
}
