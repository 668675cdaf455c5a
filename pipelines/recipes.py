"""What rows must look like to be read by a model: the columns that a recipe of features says, and rows brought into them.

A recipe holds everything that scoring needs: the columns with their types, what was learned of each, the classes. So the
rows may come from a table, a file or a request, and become the same numbers as in training (`features.encode`).
"""

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import tensor
from pipelines.casting import cast_cells, castable
from pipelines.errors import InputError, SpecError
from pipelines.fields import combined, kind_of, shown
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.tensors import Form

__all__ = ["conform", "described", "from_records", "schema_of", "type_of", "usable"]

_DECIMAL = re.compile(r"decimal128\((\d+), (-?\d+)\)")
_NAMES = {str(arrow): name for name, arrow in ARROW.items()}
_JSON: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "float": (int, float),
    "bool": (bool,),
    "string": (str,),
    "date": (str,),
    "timestamp": (str,),
}


def described(schema: pa.Schema, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The columns of these names as a recipe keeps them: type, and of a tensor its form."""
    made: dict[str, dict[str, Any]] = {}
    for name in names:
        field = schema.field(name)
        form = Form.of(field)
        if form is not None:
            made[name] = {"dtype": form.dtype, "shape": list(form.shape), "scale": form.scale}
        else:
            plain = combined(pa.array([], field.type)).type  # dictionaries and views are a matter of storage
            made[name] = {"type": str(plain)}
    return made


def schema_of(recipe: Mapping[str, Any]) -> pa.Schema:
    """The columns that a model reads, in the order of the recipe.

    Raises: SpecError for a recipe that was made before recipes kept their columns.
    """
    if "columns" not in recipe:
        raise SpecError(
            "the model does not know the types of its columns, an older dlflow made it; train it again"
        )
    names = dict.fromkeys(one["column"] for one in recipe["inputs"])
    return pa.schema([_field(name, recipe["columns"][name]) for name in names])


def type_of(said: Mapping[str, Any]) -> pa.DataType:
    """The Arrow type of a column that a recipe describes.

    >>> type_of({"type": "decimal128(9, 2)"})
    Decimal128Type(decimal128(9, 2))
    """
    if "shape" in said:
        return tensor.arrow_type(said["dtype"], said["shape"])
    if number := _DECIMAL.fullmatch(said["type"]):
        return pa.decimal128(int(number[1]), int(number[2]))
    return ARROW[_NAMES[said["type"]]] if said["type"] in _NAMES else pa.type_for_alias(said["type"])


def conform(table: pa.Table, recipe: Mapping[str, Any], *, where: str, first: int = 0) -> pa.Table:
    """The columns that a model reads, as it was trained on them; others are left out.

    Text is read by the grammar of literals, so a CSV file of text will do. `first` is the number of the first row, for messages.

    Raises: SpecError for a column that is not there or cannot be of its type; InputError for a value that does not fit.
    """
    wanted, problems = schema_of(recipe), []
    for field in wanted:
        if field.name not in table.schema.names:
            near = did_you_mean(field.name, table.schema.names)
            problems.append(
                f"{where}: no column {field.name!r}, the model reads {', '.join(wanted.names)}{near}"
            )
        elif not _may_become(table.schema.field(field.name), field):
            found = _told(table.schema.field(field.name))
            problems.append(
                f"{where}: column {field.name!r} is {found}, the model was trained on {_told(field)}; cast it"
            )
    if problems:
        raise SpecError(*problems)
    return pa.table([_cast(table, field, where, first) for field in wanted], schema=wanted)


def from_records(records: Sequence[Any], recipe: Mapping[str, Any], *, where: str = "rows") -> pa.Table:
    """Rows of a request: a mapping each, with exactly the columns that the model reads; null where a value is missing.

    Raises: InputError with the row and the column, and what was expected.
    """
    wanted = schema_of(recipe)
    for number, row in enumerate(records):
        if not isinstance(row, Mapping):
            raise InputError(
                f"{where}[{number}] is {_short(row)}, expected an object with {', '.join(wanted.names)}"
            )
        if missing := [name for name in wanted.names if name not in row]:
            raise InputError(
                f"{where}[{number}] has no {missing[0]!r}, expected all of {', '.join(wanted.names)}; null is a missing value"
            )
        if unknown := [name for name in row if name not in wanted.names]:
            near = did_you_mean(unknown[0], wanted.names)
            raise InputError(
                f"{where}[{number}] has {unknown[0]!r}, expected {', '.join(wanted.names)} alone{near}"
            )
    columns = [_of_json([row[field.name] for row in records], field, where) for field in wanted]
    return pa.table(columns, schema=wanted)


def usable(table: pa.Table, recipe: Mapping[str, Any]) -> np.ndarray:
    """Which rows a model can read: those that lack no tensor. Shapes: (rows,), bool."""
    there = np.ones(table.num_rows, bool)
    for one in recipe["inputs"]:
        if one["encode"] == "tensor":
            there &= ~np.asarray(combined(table[one["column"]]).is_null().to_numpy(zero_copy_only=False))
    return there


def _field(name: str, said: Mapping[str, Any]) -> pa.Field:
    metadata = tensor.metadata(said["dtype"], said["shape"], said["scale"]) if "shape" in said else None
    return pa.field(name, type_of(said), metadata=metadata)


def _may_become(found: pa.Field, wanted: pa.Field) -> bool:
    form = Form.of(wanted)
    if form is not None:
        return Form.of(found) == form or _is_list(found.type) or _is_text(found.type)
    name = _NAMES.get(str(wanted.type))
    return found.type == wanted.type or (name is not None and castable(found.type, name))


def _cast(table: pa.Table, field: pa.Field, where: str, first: int) -> pa.Array:
    column = combined(table[field.name])
    if column.type == field.type and Form.of(field) == Form.of(table.schema.field(field.name)):
        return column
    if Form.of(field) is not None:
        if _is_text(column.type):
            column = _lists(column, field, where, first)
        return _tensors(column, field, where, first)
    values, misfits = cast_cells(column, _NAMES[str(field.type)])
    if len(misfits):
        row = int(misfits[0])
        value = shown(table.schema, field.name, column[row].as_py())
        raise InputError(
            f"{where}, row {first + row}: column {field.name!r} is {value}, expected {_told(field)} ({len(misfits):,} such rows)"
        )
    return values


def _of_json(values: list[Any], field: pa.Field, where: str) -> pa.Array:
    form = Form.of(field)
    if form is not None:
        return _tensors(_nested(values, field, where), field, where, 0)
    kinds = _JSON[kind_of(field.type)]
    for number, value in enumerate(values):
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if value is not None and wrong:
            raise InputError(
                f"{where}[{number}]: {field.name!r} is {_short(value)}, expected {_told(field)} or null"
            )
    if str in kinds or bool in kinds:
        column = pa.array(values, pa.string() if str in kinds else pa.bool_())
    else:
        column = pa.array([None if value is None else repr(value) for value in values], pa.string())
    if pa.types.is_decimal(field.type):
        return pc.cast(column, field.type)
    found, misfits = cast_cells(column, _NAMES[str(field.type)])
    if len(misfits):
        row = int(misfits[0])
        raise InputError(
            f"{where}[{row}]: {field.name!r} is {_short(values[row])}, expected {_told(field)} or null"
        )
    return found


def _nested(values: Sequence[Any], field: pa.Field, where: str, first: int = 0) -> pa.Array:
    """Arrays of JSON, nested by shape or flat, as lists of numbers."""
    form = Form.of(field)
    if form is None:
        raise AssertionError(field)
    flat: list[Any] = []
    for number, value in enumerate(values):
        try:
            found = None if value is None else np.array(value, np.float64)
        except (TypeError, ValueError, OverflowError):
            found = np.zeros(0)
        if found is not None and found.shape not in {form.shape, (int(np.prod(form.shape)),)}:
            raise InputError(
                f"{where}[{first + number}]: {field.name!r} is {_short(value)}, expected {_told(field)} or null"
            )
        flat.append(None if found is None else found.reshape(-1))
    return pa.array(flat, pa.list_(pa.float64()))


def _lists(texts: pa.Array, field: pa.Field, where: str, first: int) -> pa.Array:
    values = []
    for number, text in enumerate(texts.to_pylist()):
        try:
            values.append(None if text is None else json.loads(text))
        except ValueError as error:
            raise InputError(
                f"{where}[{first + number}]: {field.name!r} is {_short(text)}, expected {_told(field)} as JSON"
            ) from error
    return _nested(values, field, where, first)


def _tensors(column: pa.Array, field: pa.Field, where: str, first: int) -> pa.Array:
    form = Form.of(field)
    if form is None:
        raise AssertionError(field)
    made, wrong = tensor.of_lists(column, form.dtype, form.shape)
    if wrong:
        row = min(wrong)
        raise InputError(f"{where}[{first + row}]: {field.name!r} is a {wrong[row]}, expected {_told(field)}")
    return made


def _is_list(arrow: pa.DataType) -> bool:
    return pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow)


def _is_text(arrow: pa.DataType) -> bool:
    return kind_of(arrow) == "string"


def _told(field: pa.Field) -> str:
    form = Form.of(field)
    if form is not None:
        return f"{form.dtype} numbers of shape {list(form.shape)}"
    example = {"date": f' ("{dt.date(2026, 1, 31)}")', "timestamp": ' ("2026-01-31T12:00:00Z")'}
    return f"{field.type}{example.get(kind_of(field.type), '')}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
