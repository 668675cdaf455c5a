"""Quantities in one unit: "3 kg", "2.5 lb" and "500 g" become kilograms, by a declared table of factors and offsets."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import NUMBER, combined, kind_of, replaced, require, schema_after, shown
from pipelines.names import did_you_mean
from pipelines.stage import Map, Rows, reject

__all__ = ["Unit", "Units", "units"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How a value is brought to the wanted unit: value * factor + offset."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Units:
    """Brings one column to the unit `to`; `units` says by what each other unit is multiplied (and what is added).

    A text column holds number and unit ("3 kg"; with decimal = "," "2,5 kg"), and becomes float64. A column of numbers
    needs `unit_column`, the text column that names the unit of each row; that one then says `to` everywhere. What
    names no unit has the unit `default`, if there is one. A quantity that cannot be read sets its row aside, or
    becomes missing with other = "null".
    """

    do: ClassVar[str] = "units"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str
    to: str
    units: dict[str, float | Unit]
    unit_column: str | None = None
    default: str | None = None
    decimal: Literal[".", ","] = "."
    other: Literal["quarantine", "null"] = "quarantine"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, this one as float64 with its unit."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        where = f"units of column {self.column!r}"
        require(
            schema, [self.column], step=self.do, kinds=("string",) if self.unit_column is None else NUMBER
        )
        if self.unit_column is not None:
            require(schema, [self.unit_column], step=self.do, kinds=("string",))
        known: dict[str, tuple[float, float]] = {self.to: (1.0, 0.0)}
        for name, one in self.units.items():
            factor, offset = (one.factor, one.offset) if isinstance(one, Unit) else (float(one), 0.0)
            if factor == 0 or not all(abs(value) < float("inf") for value in (factor, offset)):
                raise SpecError(
                    f"{where}: the factor of {name!r} is {factor!r}; expected a number other than 0"
                )
            if name == self.to and (factor, offset) != (1.0, 0.0):
                raise SpecError(f"{where}: {name!r} is the wanted unit, its factor is 1; leave it out")
            if not name or name != name.strip():
                raise SpecError(f"{where}: {name!r} is not a name for a unit")
            known[name] = (factor, offset)
        if self.default is not None and self.default not in known:
            raise SpecError(
                f"{where}: default = {self.default!r} is not in units{did_you_mean(self.default, known)}"
            )
        params = {
            "column": self.column,
            "to": self.to,
            "known": known,
            "unit_column": self.unit_column,
            "default": self.default,
            "decimal": self.decimal,
            "other": self.other,
        }
        touched = (self.column,) if self.unit_column is None else (self.column, self.unit_column)
        return Map(f"units {self.column}", units, params, touched, touched, self.other != "null")


def units(
    table: pa.Table,
    *,
    column: str,
    to: str,
    known: Mapping[str, tuple[float, float]],
    unit_column: str | None,
    default: str | None,
    decimal: str,
    other: str,
) -> Rows:
    """One column in one unit."""
    old = combined(table[column])
    if unit_column is None:
        numbers, names = _read(old, decimal)
    else:
        numbers, names = old.cast(pa.float64(), safe=False), combined(table[unit_column])
        names = pc.fill_null(pc.utf8_trim_whitespace(names), "")
    if default is not None:
        names = pc.if_else(pc.equal(names, ""), default, names)
    place = pc.index_in(names, value_set=pa.array(list(known), pa.string()), skip_nulls=True)
    factors, offsets = (
        pa.array([one[part] for one in known.values()], pa.float64()).take(place) for part in (0, 1)
    )
    new = pc.add(pc.multiply(numbers, factors), offsets)
    new = pc.if_else(pc.is_finite(new), new, pa.scalar(None, pa.float64()))
    misfit = pc.and_(_given(old), pc.is_null(new))
    converted = pc.and_(pc.is_valid(new), pc.not_equal(names, to))
    notes = {f"converted {column}": pc.sum(converted).as_py() or 0}
    if other == "null":
        notes[f"emptied {column}"] = pc.sum(misfit).as_py() or 0
    made = replaced(table, column, new, nullable=other == "null")
    field = made.schema.field(column)
    metadata = {**(field.metadata or {}), b"unit": to.encode()}
    made = made.set_column(made.schema.get_field_index(column), field.with_metadata(metadata), new)
    if unit_column is not None:
        named = pc.if_else(pc.is_valid(new), pa.scalar(to), combined(table[unit_column]))
        made = replaced(made, unit_column, named)
    if other == "null" or not pc.any(misfit).as_py():
        return Rows(made, notes=notes)

    def told(row: dict[str, Any]) -> str:
        value = shown(table.schema, column, row[column])
        unit = (
            "" if unit_column is None else f" with unit {shown(table.schema, unit_column, row[unit_column])}"
        )
        return f"column {column!r}: {value}{unit} is not a number in one of {', '.join(known)}"

    aside = reject(table, misfit, rule="unit", column=column, message=told)
    return Rows(made.filter(pc.invert(misfit)), aside.rejected, notes=notes)


def _given(values: pa.Array) -> pa.Array:
    """Where there is a quantity: nan and infinities are none."""
    if kind_of(values.type) == "float":
        return pc.fill_null(pc.is_finite(values), fill_value=False)
    return pc.is_valid(values)


def _read(texts: pa.Array, decimal: str) -> tuple[pa.Array, pa.Array]:
    """The numbers and the names of the units; null where a text is no number."""
    point = "[.]" if decimal == "." else ","
    pattern = (
        r"^[\s\p{Z}]*(?P<sign>[-+]?)"
        rf"(?P<number>(?:[0-9]+(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][-+]?[0-9]+)?)"
        r"[\s\p{Z}]*(?P<unit>(?:[^\s\p{Z}0-9.,](?:.*[^\s\p{Z}])?)?)[\s\p{Z}]*$"
    )
    parts = pc.extract_regex(texts, pattern)
    number, sign, unit = (pc.struct_field(parts, name) for name in ("number", "sign", "unit"))
    if decimal == ",":
        number = pc.replace_substring(number, ",", ".")
    number = pc.cast(number, pa.float64())
    return pc.if_else(pc.equal(sign, "-"), pc.negate(number), number), unit
