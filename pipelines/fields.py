"""Columns of a table by name: found or refused with a "did you mean", read as plain arrays, replaced with their metadata.

Steps and expressions know eight kinds of columns, however Arrow stores them: integer, float, bool, string, date,
timestamp, null, and other (which no expression reads).
"""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.stage import Map, data_columns

__all__ = [
    "NUMBER",
    "ORDERED",
    "combined",
    "countable",
    "finite",
    "inherited",
    "kind_of",
    "numbers",
    "numpy_of",
    "refuse_private",
    "replaced",
    "require",
    "schema_after",
    "shown",
    "titled",
]

NUMBER = ("integer", "float")
ORDERED = ("integer", "float", "date", "timestamp")

_KINDS = (
    (pa.types.is_boolean, "bool"),
    (pa.types.is_integer, "integer"),
    (pa.types.is_floating, "float"),
    (pa.types.is_decimal, "float"),
    (pa.types.is_string, "string"),
    (pa.types.is_large_string, "string"),
    (pa.types.is_string_view, "string"),
    (pa.types.is_date, "date"),
    (pa.types.is_timestamp, "timestamp"),
    (pa.types.is_null, "null"),
)


def kind_of(arrow: pa.DataType) -> str:
    """The kind of an Arrow type.

    >>> kind_of(pa.dictionary(pa.int32(), pa.string()))
    'string'
    """
    if pa.types.is_dictionary(arrow):
        return kind_of(arrow.value_type)
    return next((kind for is_one, kind in _KINDS if is_one(arrow)), "other")


def require(schema: pa.Schema, names: Iterable[str], *, step: str, kinds: Collection[str] = ()) -> None:
    """Refuse names that are not columns, are there twice, or are not of one of `kinds` (empty: any).

    Raises: SpecError with every problem.
    """
    known = data_columns(schema)
    problems = []
    names = list(names)
    for name in dict.fromkeys(names):
        if name not in known:
            problems.append(f"{step}: no column {name!r}{did_you_mean(name, known)}")
        elif kinds and kind_of(schema.field(name).type) not in kinds:
            found = schema.field(name).type
            problems.append(
                f"{step}: column {name!r} is {found}, expected {' or '.join(kinds)}; cast it before"
            )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    problems.extend(f"{step}: column {name!r} is named twice" for name in twice)
    if problems:
        raise SpecError(*problems)


def combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column as one array, without a copy where it is one; dictionaries and views are decoded."""
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks or [pa.array([], column.type)]
        column = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def finite(values: pa.Array) -> pa.Array:
    """Floats without nan and infinities: null takes their place."""
    is_finite = pc.is_finite(values)
    if pc.all(is_finite).as_py() is not False:
        return values
    return pc.if_else(is_finite, values, pa.scalar(None, values.type))


def countable(values: pa.Array) -> pa.Array:
    """The values as those that are compared: nan and infinities are missing, -0.0 is 0.0."""
    if kind_of(values.type) != "float":
        return values
    return pc.add(finite(values), pa.scalar(0.0, values.type))


def numpy_of(values: pa.Array) -> np.ndarray:
    """Numbers or dates without nulls as a NumPy array that must not be written to; bools are copied.

    `Array.to_numpy` imports pandas, 0.4 s in each new worker; DLPack does not.
    """
    if pa.types.is_boolean(values.type):
        return np.from_dlpack(values.cast(pa.uint8())).astype(bool)
    if pa.types.is_temporal(values.type):
        values = values.view(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
    return np.from_dlpack(values)


def numbers(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """The values that count, float64 or int64: bools as 0 and 1, dates in days, times in microseconds, -0.0 as 0.0."""
    values = combined(column)
    kind = kind_of(values.type)
    if kind == "float" or pa.types.is_uint64(values.type):
        found: np.ndarray = numpy_of(values.cast(pa.float64(), safe=False).drop_null()) + 0.0
        counts = np.isfinite(found)
        return found if counts.all() else found[counts]
    if kind == "timestamp":
        values = values.cast(pa.timestamp("us"), safe=False)
    return numpy_of(values.drop_null()).astype(np.int64, copy=False)


def replaced(table: pa.Table, name: str, values: pa.Array, *, nullable: bool = False) -> pa.Table:
    """The table with new values of one column; its metadata stays, and it becomes nullable where `nullable` says so."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    return table.set_column(
        place, field.with_type(values.type).with_nullable(field.nullable or nullable), values
    )


def inherited(schema: pa.Schema, columns: Iterable[str]) -> dict[bytes, bytes] | None:
    """Metadata of a column made of others: their privacy classes, and no unit, which may be another now."""
    metadata = [schema.field(name).metadata or {} for name in columns]
    classes = {one for each in metadata if b"privacy" in each for one in each[b"privacy"].split(b"+")}
    return {b"privacy": b"+".join(sorted(classes))} if classes else None


def schema_after(stage: Map, schema: pa.Schema) -> pa.Schema:
    """The columns that a Map makes of tables of this schema."""
    return stage(schema.empty_table()).kept.schema


def refuse_private(schema: pa.Schema, columns: Iterable[str], *, step: str, allowed: Collection[str]) -> None:
    """Refuse columns whose values or labels would be told by what is fitted: those with a privacy class but a pseudonym's.

    Raises: SpecError for one that is not `allowed` by name.
    """
    for name in columns:
        privacy = (schema.field(name).metadata or {}).get(b"privacy", b"pseudonym")
        if privacy != b"pseudonym" and name not in allowed:
            raise SpecError(
                f"{step}: column {name!r} has privacy class {privacy.decode()!r}, and labels and values of groups are stored as they "
                f"are beside the table, also where a group is one person; pseudonymise or generalise it before, or allow it by "
                f"name: allow_private = [{name!r}]"
            )


def shown(schema: pa.Schema, name: str, value: Any) -> str:
    """A value for a message: cut to 60 characters, and not told at all where its column has a privacy class."""
    if b"privacy" in (schema.field(name).metadata or {}) and value is not None:
        return "a private value"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def titled(do: str, columns: Iterable[str]) -> str:
    """Name of a stage, as the report shows it: `trim name, city +3`."""
    names = list(columns)
    rest = f" +{len(names) - 3}" if len(names) > 3 else ""
    return f"{do} {', '.join(names[:3])}{rest}"
