"""From the typed columns of a file (Parquet, Arrow) to the declared types: nothing is rounded, cut or taken for another kind.

    declared            found in the file
    int8 .. int64       any integer; a value that does not fit sets its row aside
    float32, float64    any float or decimal (the nearest float), any integer that a float64 can hold
    bool, date          the same; a date64 with a time of day sets its row aside
    string              any string, plain or in a dictionary; bytes that are not UTF-8 set their row aside
    timestamp           any timestamp: without a zone it is local time of `zone`; finer than a microsecond sets its row aside;
                        an integer or float where the field has an epoch format
    tensor              fixed-size binary of the same form, or lists of numbers, of fixed size or with as many numbers

Any other pair is a difference of the schemas, told before a row is read. nan and infinite numbers set their row aside.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import difference, epochs, tensor
from pipelines.difference import type_name
from pipelines.errors import InputError
from pipelines.fields import combined, kind_of
from pipelines.literals import ARROW
from pipelines.schema import Field
from pipelines.sources.head import missing, remedy
from pipelines.sources.inputs import Part
from pipelines.sources.records import HEAD
from pipelines.sources.rows import typed_rows
from pipelines.sources.source import Source
from pipelines.stage import Rows
from pipelines.timestamps import read_local, where

__all__ = ["check_columns", "converted", "converted_rows", "field_of", "readable", "told"]

_ALLOWED = {
    "integer": ("integer",),
    "float": ("float", "integer"),
    "bool": ("bool",),
    "string": ("string",),
    "date": ("date",),
    "timestamp": ("timestamp",),
}
_SAME = ("int8", "int16", "int32", "int64")
_DECLARED: dict[str, Any] = {
    "integer": "int64",  # an unsigned one
    "bool": "bool",
    "string": "string",
    "date": "date",
    "timestamp": "timestamp",
    "null": "string",
}
Found = tuple[pa.Array, Mapping[int, str]]
"""Values of the declared type, null where there is none, and what was found in rows where it does not fit, in words."""


def check_columns(source: Source, path: str, schema: pa.Schema) -> None:
    """Raises: InputError with the difference between the columns of a file and those declared."""
    lines, known = [], set()
    optional = {source.names[column] for column in source.optional}
    for name, field in ((source.names[column], field) for column, field in source.columns.items()):
        known.add(name)
        found = [one for one in schema if one.name == name]
        if len(found) == 1 and readable(field, found[0]):
            continue
        if not found and name in optional:
            continue
        others = [other for other in schema.names if other not in source.names.values()]
        lines.append(f"- {name} {field.title}{missing(name, others) if not found else ''}")
        lines += [
            f"+ {name} {type_name(one)}: {_as_it_is(one) if len(found) == 1 else 'is there more than once'}"
            for one in found
        ]
    others = [one.name for one in schema if one.name not in known and one.name not in source.ignore]
    if source.extra == "error":
        lines += [f"+ {name} {type_name(schema.field(name))}: is not declared" for name in others]
    if lines:
        more = others if source.extra == "error" else []
        raise InputError(
            difference.told(
                f"{path}: the columns are not those declared (- declared, + in the file)",
                lines,
                remedy(source, more),
            )
        )


def _as_it_is(found: pa.Field) -> str:
    declared = field_of(found)
    return (
        "correct the file"
        if isinstance(declared, str)
        else f'declare "{declared.title}", or correct the file'
    )


def field_of(found: pa.Field) -> Field | str:
    """The column that one of a file could be declared as; or why it can be none."""
    kind = found.type.value_type if pa.types.is_dictionary(found.type) else found.type
    said = {key.decode(): text.decode() for key, text in (found.metadata or {}).items()}
    if tensor.is_tensor(found):
        scale = float(said["scale"]) if "scale" in said else None
        return Field(type="tensor", dtype=said["dtype"], shape=tuple(json.loads(said["shape"])), scale=scale)
    if str(kind) in _SAME:
        return Field(type=str(kind))  # type: ignore[arg-type] # one of its types
    if pa.types.is_floating(kind):
        return Field(type="float64" if pa.types.is_float64(kind) else "float32")
    declared = _DECLARED.get(kind_of(kind))
    return f"is {kind}" if declared is None else Field(type=declared)


def converted_rows(source: Source, part: Part, first: int, table: pa.Table) -> Rows:
    """Rows of the declared types from some rows of a file, of which the first is row `first`, from 0."""
    values, wrong = {}, {}
    for column, field in source.columns.items():
        name = source.names[column]
        found = combined(table[name]) if name in table.column_names else pa.nulls(table.num_rows)
        values[column], unfit = converted(found, field)
        if unfit:
            wrong[column] = told(unfit, len(found))

    def raw(rows: np.ndarray) -> list[str]:
        some = table.select([name for name in source.names.values() if name in table.column_names])
        some = some.take(pa.array(rows))
        return [json.dumps(row, default=_shown, ensure_ascii=False) for row in _records(some)]

    lines = np.arange(first + 1, first + 1 + table.num_rows)
    return typed_rows(source, part, lines, values, wrong, {}, raw)


def told(unfit: Mapping[int, str], rows: int) -> pa.StringArray:
    """What was found in some rows, null in the others."""
    words = np.full(rows, None, object)
    words[list(unfit)] = list(unfit.values())
    return pa.array(words, pa.string())


def _records(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python has them; text that is none as bytes, times as text: Python knows no nanoseconds."""
    for place, field in enumerate(table.schema):
        if kind_of(field.type) == "string":
            table = table.set_column(place, field.name, combined(table[place]).cast(pa.binary(), safe=False))
        elif kind_of(field.type) == "timestamp":
            table = table.set_column(place, field.name, table[place].cast(pa.string()))
    return table.to_pylist()


def _shown(value: Any) -> str:
    if not isinstance(value, bytes):
        return str(value)
    return value[:HEAD].decode("utf-8", "backslashreplace")


def readable(field: Field, found: pa.Field) -> bool:
    """Whether a column of a file can be read as the declared type."""
    kind = kind_of(found.type)
    if kind == "null":
        return True
    if field.type == "tensor":
        if pa.types.is_fixed_size_binary(found.type):
            form = {
                key.encode(): text.encode()
                for key, text in tensor.metadata(field.dtype or "", field.shape or (), None).items()
            }
            said = {key: text for key, text in (found.metadata or {}).items() if key in form}
            return found.type == field.arrow and said in ({}, form)
        return _is_list(found.type) and kind_of(_values_of(found.type)) in {"integer", "float"}
    if field.format in epochs.FORMATS:
        return kind in {"integer", "float"}
    if pa.types.is_decimal(found.type) and kind_of(ARROW[field.type]) != "float":
        return False
    return kind in _ALLOWED[kind_of(ARROW[field.type])]


def converted(values: pa.Array, field: Field) -> Found:
    """Values of a column that is `readable`, as the declared type."""
    if pa.types.is_null(values.type):
        return pa.nulls(len(values), field.arrow), {}
    match field.type:
        case "tensor":
            return _tensor(values, field)
        case "timestamp":
            return _timestamp(values, field)
        case "string":
            return _string(values)
        case "bool":
            return values, {}
        case "date":
            return _date(values)
        case _:
            return _number(values, field.arrow)


def _number(values: pa.Array, target: pa.DataType) -> Found:
    """Numbers by a cast that is then compared with what was there."""
    if pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64(), safe=False)
    if pa.types.is_integer(target) or pa.types.is_integer(values.type):
        try:
            return values.cast(target), {}
        except pa.ArrowInvalid:
            made = values.cast(target, safe=False)
            fits = _integers_fit(values, target)
            return _split(values, made, fits, str(values.type))
    made = values.cast(target)
    fits = pc.is_finite(made)
    return (made, {}) if pc.all(fits).as_py() is not False else _split(values, made, fits, str(values.type))


def _integers_fit(values: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_integer(target):
        bits = target.bit_width - 1
        low, high = -(2**bits), 2**bits - 1
        if pa.types.is_unsigned_integer(values.type):
            return pc.less_equal(values, pa.scalar(min(high, 2**values.type.bit_width - 1), values.type))
        return pc.and_(
            pc.greater_equal(values, pa.scalar(low, values.type)),
            pc.less_equal(values, pa.scalar(high, values.type)),
        )
    exact = 1 << (53 if target == pa.float64() else 24)
    if pa.types.is_unsigned_integer(values.type):
        return pc.less_equal(values, pa.scalar(exact, values.type))
    return pc.and_(
        pc.greater_equal(values, pa.scalar(-exact, values.type)),
        pc.less_equal(values, pa.scalar(exact, values.type)),
    )


def _date(values: pa.Array) -> Found:
    try:
        return values.cast(pa.date32()), {}
    except pa.ArrowInvalid:
        made = values.cast(pa.date32(), safe=False)
        return _split(values, made, pc.equal(made.cast(values.type), values), "date with a time of day")


def _string(values: pa.Array) -> Found:
    try:
        values.validate(full=True)
        return values.cast(pa.string()), {}
    except pa.ArrowInvalid:
        pass  # at least one text is none: one by one
    wrong: dict[int, str] = {}
    texts: list[str | None] = []
    for row, value in enumerate(values.cast(pa.large_binary(), safe=False).to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError as error:
            wrong[row] = f"text with byte 0x{value[error.start]:02X} at {error.start}, which is not UTF-8,"
            texts.append(None)
    return pa.array(texts, pa.string()), wrong


def _timestamp(values: pa.Array, field: Field) -> Found:
    if not pa.types.is_timestamp(values.type):
        made, fits = epochs.of_numbers(values, field.format or "")
        return _split(values, made, fits, "number")
    naive = values.type.tz is None
    try:
        micros = values.cast(pa.timestamp("us", values.type.tz))
        fits = pc.is_valid(values)
    except pa.ArrowInvalid:
        micros = values.cast(pa.timestamp("us", values.type.tz), safe=False)
        fits = pc.equal(micros.cast(values.type, safe=False), values)
    if not naive:
        made = micros.cast(field.arrow)
    else:
        made, clear = read_local(micros, field.zone)
        fits = pc.and_(fits, clear)
    return _split(values, made, fits, "timestamp")


def _tensor(values: pa.Array, field: Field) -> Found:
    kept, wrong = values, dict[int, str]()
    if not pa.types.is_fixed_size_binary(values.type):
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        if pa.types.is_list_view(values.type) or pa.types.is_large_list(values.type):
            values = values.cast(pa.list_(values.type.value_type))
        kept, wrong = tensor.of_lists(values, field.dtype or "", field.shape or ())
    if (field.dtype or "").startswith("float"):
        numbers = np.frombuffer(kept.buffers()[1], f"<{np.dtype(field.dtype).str[1:]}")
        numbers = numbers.reshape(-1, max(1, np.prod(field.shape or (), dtype=int)))[kept.offset :][
            : len(kept)
        ]
        bad = ~np.isfinite(numbers).all(axis=1) & np.from_dlpack(pc.is_valid(kept).cast(pa.uint8())).astype(
            bool
        )
        if bad.any():
            wrong = {
                **wrong,
                **dict.fromkeys(np.flatnonzero(bad).tolist(), "tensor with a number that is not finite"),
            }
            kept = pc.if_else(pa.array(bad), pa.scalar(None, kept.type), kept)
    return kept, wrong


def _split(values: pa.Array, made: pa.Array, fits: pa.Array, what: str) -> Found:
    """The values that fit; the others in words."""
    bad = where(pc.and_(pc.is_valid(values), pc.invert(pc.fill_null(fits, fill_value=False))))
    wrong = {
        row: f"{what} {values[row].as_py() if 'timestamp' not in what else values[row].cast(pa.string()).as_py()}"
        for row in bad.tolist()
    }
    if not wrong:
        return made, {}
    mask = np.zeros(len(made), bool)
    mask[bad] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, made.type), made), wrong


def _is_list(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
    )


def _values_of(kind: pa.DataType) -> pa.DataType:
    return (kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind).value_type
