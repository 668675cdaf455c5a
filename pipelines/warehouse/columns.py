"""Arrow columns as a Delta table declares them: the same, but fixed-size binary is `binary` plus a note.

Delta has no fixed-size binary. The files keep it (an array of vectors costs nothing to read back), the log says
`binary` and keeps the width in the field's metadata, and `from_delta` restores it. All other field metadata
(b"dtype", b"shape", b"names", b"unit", b"privacy") goes through the log unchanged.
"""

import re
from collections.abc import Sequence

import pyarrow as pa

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import names

__all__ = ["UTC", "check", "difference", "evolution", "file_schema", "from_delta", "settled", "to_delta"]

UTC = pa.timestamp("us", "UTC")
_NOTE = b"dlflow.type"
_PLAIN = {
    pa.string(), pa.binary(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(),
    pa.float32(), pa.float64(), pa.date32(), UTC,
}  # fmt: skip
_PARTITION = {pa.string(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.date32()}
_REMEDY = {
    "uint": "a signed type of the next width",
    "timestamp": "timestamp[us, tz=UTC]",
    "dictionary": "string",
    "large_": "string or binary",
    "list": "a fixed-size binary column, or one column per value",
    "halffloat": "float32",
}


def check(schema: pa.Schema, partition_by: Sequence[str] = ()) -> None:
    """Nothing, if a table can have these columns.

    Raises: SpecError for names, SchemaMismatch for types.
    """
    names.check_columns(schema.names)
    for field in schema:
        if not _allowed(field.type):
            raise SchemaMismatch(
                f"column {field.name!r} is {field.type}, expected a type that every reader of Delta knows; "
                f"cast it to {_instead(field.type)}"
            )
        for key, value in (field.metadata or {}).items():
            _check_text(field.name, key, value)
    for name in partition_by:
        if name not in schema.names:
            raise SchemaMismatch(
                f"partition column {name!r} is not in the table, columns are {schema.names}; add it"
            )
        if (found := schema.field(name).type) not in _PARTITION:
            raise SchemaMismatch(
                f"partition column {name!r} is {found}, expected string, integer, date or bool; partition by another"
            )
    if len(partition_by) == len(schema):
        raise SchemaMismatch(
            f"all columns {schema.names} are partition columns, expected one more; leave one out"
        )


def to_delta(schema: pa.Schema) -> pa.Schema:
    """The columns as the log declares them."""
    return pa.schema([_to_delta(field) for field in schema])


def from_delta(schema: pa.Schema) -> pa.Schema:
    """The columns as they were given to `to_delta`."""
    return pa.schema([_from_delta(field) for field in schema])


def file_schema(schema: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """The columns of a data file: those of the table without the partition columns."""
    return pa.schema([field for field in schema if field.name not in partition_by])


def difference(found: pa.Schema, expected: pa.Schema) -> str | None:
    """What is the first difference of two schemas in name, type, nullability, order or metadata, in words; or None."""
    if found.names != expected.names:
        more, less = (
            sorted(set(found.names) - set(expected.names)),
            sorted(set(expected.names) - set(found.names)),
        )
        return f"columns are {found.names}, expected {expected.names} (extra {more}, missing {less})"
    for one, other in zip(found, expected, strict=True):
        if one.type != other.type:
            return f"column {one.name!r} is {one.type}, expected {other.type}"
        if one.nullable != other.nullable:
            return f"column {one.name!r} is {_null(one)}, expected {_null(other)}"
        if (one.metadata or {}) != (other.metadata or {}):
            return f"column {one.name!r} has metadata {one.metadata}, expected {other.metadata}"
    return None


def evolution(wanted: pa.Schema, there: pa.Schema) -> str | None:
    """Why a table with the columns `there` cannot get those that are `wanted` with its rows staying as they are; or None.

    It can get further columns that may be null, anywhere among the others: old rows have null in them. Nothing else.
    """
    known = set(there.names)
    if found := difference(pa.schema([field for field in wanted if field.name in known]), there):
        return found
    bare = [field.name for field in wanted if field.name not in known and not field.nullable]
    return (
        f"new column {bare[0]!r} is NOT NULL, expected nullable for the rows that are there" if bare else None
    )


def settled(schema: pa.Schema, table: pa.Schema) -> pa.Schema:
    """The same columns in the order of the table, those that it does not have behind."""
    names = [name for name in table.names if name in schema.names]
    return pa.schema([schema.field(name) for name in dict.fromkeys([*names, *schema.names])])


def _allowed(kind: pa.DataType) -> bool:
    return kind in _PLAIN or pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal128(kind)


def _instead(kind: pa.DataType) -> str:
    for start, remedy in _REMEDY.items():
        if start in str(kind):
            return remedy
    return (
        "string, bool, int8 to int64, float32, float64, decimal128, date32, timestamp[us, tz=UTC] or binary"
    )


def _check_text(column: str, key: bytes, value: bytes) -> None:
    try:
        key.decode(), value.decode()
    except UnicodeDecodeError as error:
        raise SchemaMismatch(
            f"column {column!r} has metadata {key!r}={value!r}, expected UTF-8; write it as text"
        ) from error


def _null(field: pa.Field) -> str:
    return "nullable" if field.nullable else "NOT NULL"


def _to_delta(field: pa.Field) -> pa.Field:
    if not pa.types.is_fixed_size_binary(field.type) or pa.types.is_decimal(field.type):
        return field
    return field.with_type(pa.binary()).with_metadata(
        {**(field.metadata or {}), _NOTE: str(field.type).encode()}
    )


def _from_delta(field: pa.Field) -> pa.Field:
    metadata = dict(field.metadata or {})
    note = metadata.pop(_NOTE, b"").decode()
    width = re.fullmatch(r"fixed_size_binary\[(\d+)\]", note)
    kind = pa.binary(int(width[1])) if width else field.type
    return pa.field(field.name, kind, field.nullable, metadata or None)
