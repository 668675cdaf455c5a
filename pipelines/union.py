"""Rows of several sources or tables as one: columns meet by name, and nothing is reconciled that was not declared.

    union = { missing = "null", cast = { amount = "float64" }, source_column = "origin" }

Columns come in the order in which they first appear. Text of a column that is to be cast and does not fit sets its
row aside. Columns of different units are never mixed: a `units` step in the table before makes them alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa

from pipelines.casting import castable
from pipelines.columns import cast as cast_columns
from pipelines.errors import SpecError
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.stage import ORIGIN, Map, Rows, data_columns

if TYPE_CHECKING:
    from pipelines.document import Document
    from pipelines.spec import Pipeline, Table

__all__ = ["Union", "conform", "conforming", "input_schema", "merged"]


@dataclass(frozen=True, kw_only=True)
class Union:
    """How the columns of several inputs become those of one table.

    A column that an input does not have is an error, or null in its rows (missing = "null"). A column of several types
    is an error unless `cast` says its type. `source_column` names a text column that says which input a row is from.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    missing: Literal["error", "null"] = "error"
    cast: dict[str, str] = field(default_factory=dict)
    source_column: str | None = None


def merged(union: Union, schemas: Mapping[str, pa.Schema]) -> pa.Schema:
    """The columns of all inputs together, origin last.

    Raises: SpecError with every conflict.
    """
    names = list(dict.fromkeys(name for schema in schemas.values() for name in data_columns(schema)))
    problems = [
        f"union: cast names {name!r}, which no input has{did_you_mean(name, names)}"
        for name in union.cast
        if name not in names
    ]
    if union.source_column in names:
        problems.append(
            f"union: there is a column {union.source_column!r} already; choose another source_column"
        )
    fields = []
    for name in names:
        found = {other: schema.field(name) for other, schema in schemas.items() if name in schema.names}
        problems += _conflicts(union, name, found, schemas)
        first = next(iter(found.values()))
        arrow = ARROW.get(union.cast.get(name, ""), first.type)
        nullable = len(found) < len(schemas) or any(one.nullable for one in found.values())
        fields.append(first.with_type(arrow).with_nullable(nullable))
    if problems:
        raise SpecError(*problems)
    if union.source_column is not None:
        fields.append(pa.field(union.source_column, pa.string(), nullable=False))
    return pa.schema([*fields, *ORIGIN])


def _conflicts(
    union: Union, name: str, found: Mapping[str, pa.Field], schemas: Mapping[str, pa.Schema]
) -> list[str]:
    problems = []
    absent = [other for other in schemas if other not in found]
    if absent and union.missing == "error":
        problems.append(
            f'union: {absent[0]!r} has no column {name!r}; add it, drop it from the others, or set missing = "null"'
        )
    to = union.cast.get(name)
    if to is not None:
        if to not in ARROW:
            problems.append(f"union: cast of {name!r}: no type {to!r}{did_you_mean(to, ARROW)}")
        else:
            problems += [
                f"union: {other}.{name} is {one.type} and cannot become {to}"
                for other, one in found.items()
                if not castable(one.type, to)
            ]
    elif len({one.type for one in found.values()}) > 1:
        types = ", ".join(f"{other}: {one.type}" for other, one in found.items())
        problems.append(
            f'union: column {name!r} has several types ({types}); set cast = {{ {name} = "..." }}'
        )
    for key in (b"unit", b"privacy"):
        values = {(one.metadata or {}).get(key) for one in found.values()}
        if len(values) > 1:
            told = ", ".join(
                f"{other}: {((one.metadata or {}).get(key) or b'none').decode()}"
                for other, one in found.items()
            )
            what = "units" if key == b"unit" else "privacy classes"
            problems.append(f"union: column {name!r} has several {what} ({told}); make them alike before")
    return problems


def conforming(union: Union, name: str, schema: pa.Schema, target: pa.Schema) -> Map:
    """The Map that gives the rows of one input the columns of all."""
    casts = {
        one: to
        for one, to in union.cast.items()
        if one in schema.names and schema.field(one).type != target.field(one).type
    }
    params: dict[str, Any] = {"name": name, "casts": casts, "source_column": union.source_column}
    return Map("union", conform, {**params, "fields": tuple(target)})


def conform(
    table: pa.Table,
    *,
    name: str,
    casts: Mapping[str, str],
    source_column: str | None,
    fields: tuple[pa.Field, ...],
) -> Rows:
    """The rows with all columns: cast where declared, null where they had none."""
    rows = cast_columns(table, columns=dict(casts), on_error="quarantine") if casts else Rows(table)
    kept, columns = rows.kept, []
    for one in fields:
        if one.name == source_column:
            columns.append(pa.chunked_array([pa.repeat(pa.scalar(name), kept.num_rows)]))
        elif one.name in kept.schema.names:
            columns.append(kept[one.name])
        else:
            columns.append(pa.chunked_array([pa.nulls(kept.num_rows, one.type)]))
    return Rows(
        pa.Table.from_arrays(columns, schema=pa.schema(fields)),
        rows.rejected,
        notes={f"from {name}": kept.num_rows},
    )


def input_schema(
    document: "Document", pipeline: "Pipeline", schemas: Mapping[str, pa.Schema], name: str, table: "Table"
) -> pa.Schema | None:
    """The columns that a table reads, with those of the origin; None after its problems are noted."""
    found = []
    for other in table.inputs:
        if table.source is not None and other in pipeline.sources:
            found.append(pipeline.sources[other].schema.with_origin())
        elif table.source is None and other in schemas:
            schema = schemas[other]
            for field in ORIGIN:
                schema = schema.append(field)
            found.append(schema)
    if len(found) < len(table.inputs) or not found:
        return None
    if any(other not in schemas for other in table.joined):
        return None
    if table.union is not None:
        try:
            return merged(table.union, dict(zip(table.inputs, found, strict=True)))
        except SpecError as error:
            for text in error.problems:
                document.problem(("tables", name, "union"), f"tables.{name}: {text}")
            return None
    for other, schema in zip(table.inputs[1:], found[1:], strict=True):
        if not schema.equals(found[0]):
            different = sorted(
                {f"{field.name} {field.type}" for field in schema}
                ^ {f"{field.name} {field.type}" for field in found[0]}
            )
            document.problem(
                ("tables", name),
                f"tables.{name}: {table.inputs[0]!r} and {other!r} do not have the same columns: "
                f"{', '.join(different)}; say how they meet: union = {{ ... }}",
            )
            return None
    return found[0]
