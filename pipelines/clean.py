"""Cleaning of cells: blanks, case, spelling, and what stands in for a missing value.

Every step says in its notes how many cells it changed. Nothing a step does to one row depends on the rows beside it
in the part; what depends on all rows (a mean, a mode) is fitted first, over all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import cast_cells, literal
from pipelines.errors import InputError, SpecError
from pipelines.fields import NUMBER, combined, kind_of, replaced, require, schema_after, shown, titled
from pipelines.sketch import Grouped, Moments, Quantiles, Several, Values, group_labels
from pipelines.stage import Fit, Map, Rows, Sketch, data_columns, reject

__all__ = ["Fill", "MapValues", "Text", "Trim", "fill_fitted", "fill_value", "map_values", "text", "trim"]

Scalar = str | int | float | bool
_BLANKS = r"[\s\p{Z}]+"


@dataclass(frozen=True, kw_only=True)
class Trim:
    """Removes blanks (of Unicode) at both ends of texts; without `columns`, of all text columns."""

    do: ClassVar[str] = "trim"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do, kinds=("string",))
        columns = self.columns or tuple(
            name for name in data_columns(schema) if kind_of(schema.field(name).type) == "string"
        )
        return Map(titled(self.do, self.columns or ("all texts",)), trim, {"columns": columns})


def trim(table: pa.Table, *, columns: tuple[str, ...]) -> Rows:
    """Texts without blanks at their ends."""
    return _changed(table, columns, pc.utf8_trim_whitespace, "trimmed")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Gives texts one form: Unicode composition, case, and runs of blanks (line ends too) as one space."""

    do: ClassVar[str] = "text"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    case: Literal["lower", "upper", "keep"] = "keep"
    collapse: bool = False
    unicode: Literal["NFC", "NFKC", "keep"] = "keep"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do, kinds=("string",))
        if self.case == "keep" and not self.collapse and self.unicode == "keep":
            raise SpecError('text: nothing to do; set case = "lower", collapse = true or unicode = "NFC"')
        params = {
            "columns": self.columns,
            "case": self.case,
            "collapse": self.collapse,
            "unicode": self.unicode,
        }
        return Map(titled(self.do, self.columns), text, params)


def text(table: pa.Table, *, columns: tuple[str, ...], case: str, collapse: bool, unicode: str) -> Rows:
    """Texts in one form."""

    def formed(values: pa.Array) -> pa.Array:
        if unicode != "keep":
            values = pc.utf8_normalize(values, form=unicode)
        if case != "keep":
            values = pc.utf8_lower(values) if case == "lower" else pc.utf8_upper(values)
            if unicode != "keep":  # another case may have another composition
                values = pc.utf8_normalize(values, form=unicode)
        return pc.replace_substring_regex(values, pattern=_BLANKS, replacement=" ") if collapse else values

    return _changed(table, columns, formed, "rewritten")


@dataclass(frozen=True, kw_only=True)
class MapValues:
    """Replaces values of one column by a table of them; what is not in it stays, becomes missing, or sets the row aside.

    Keys are written as text, as in `{ "1" = "north" }` for a column of numbers. A missing value stays missing. With
    other = "keep" the column keeps its type; else it takes the type of the new values.
    """

    do: ClassVar[str] = "map_values"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str
    values: dict[str, Scalar]
    other: Literal["keep", "null", "quarantine"] = "keep"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, one of them perhaps of another type."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, [self.column], step=self.do, kinds=("string", "bool", *NUMBER, "date", "timestamp"))
        if not self.values:
            raise SpecError('map_values: values is empty; write values = { "old" = "new" }')
        arrow = schema.field(self.column).type
        where = f"map_values of column {self.column!r}"
        keys, misfits = cast_cells(pa.array(list(self.values), pa.string()), _named(arrow))
        if len(misfits):
            raise SpecError(f"{where}: key {list(self.values)[int(misfits[0])]!r} is no {kind_of(arrow)}")
        target = arrow if self.other == "keep" else self._type(arrow, where)
        new = pa.array(
            [literal(value, target, where=where).as_py() for value in self.values.values()], target
        )
        params = {"column": self.column, "keys": keys, "values": new, "other": self.other}
        return Map(titled(self.do, [self.column]), map_values, params)

    def _type(self, arrow: pa.DataType, where: str) -> pa.DataType:
        kinds = {type(value) for value in self.values.values()}
        for new, known in (
            (pa.string(), {str}),
            (pa.bool_(), {bool}),
            (pa.int64(), {int}),
            (pa.float64(), {int, float}),
        ):
            if kinds <= known:
                return arrow if kind_of(arrow) == kind_of(new) else new
        raise SpecError(
            f"{where}: the new values are of several types: {', '.join(sorted(kind.__name__ for kind in kinds))}"
        )


def map_values(table: pa.Table, *, column: str, keys: pa.Array, values: pa.Array, other: str) -> Rows:
    """One column with its values replaced."""
    old = combined(table[column])
    place = pc.index_in(old.cast(keys.type, safe=False), value_set=keys, skip_nulls=True)
    unknown = pc.and_(pc.is_valid(old), pc.is_null(place))
    found = values.take(place)
    new = pc.if_else(unknown, old, found) if other == "keep" else found
    notes = {f"mapped {column}": len(place) - place.null_count}
    if other == "null":
        notes[f"emptied {column}"] = pc.sum(unknown).as_py() or 0
    if other != "quarantine":
        return Rows(replaced(table, column, new, nullable=other == "null"), notes=notes)
    known = ", ".join(repr(key) for key in keys[:8].to_pylist()) + (", ..." if len(keys) > 8 else "")
    aside = reject(
        table,
        unknown,
        rule="map_values",
        column=column,
        message=lambda row: (
            f"column {column!r}: {shown(table.schema, column, row[column])} is not one of {known}"
        ),
    )
    return Rows(replaced(aside.kept, column, new.filter(pc.invert(unknown))), aside.rejected, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Replaces missing values: by a constant, or by the mean, median or mode of the column over all rows.

    With `by`, of the rows of the same group; a group without a value takes that of all rows. In a column of integers
    mean and median are rounded, half to even. Of equally frequent values the mode is the smallest.
    """

    do: ClassVar[str] = "fill"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    value: Scalar | None = None
    with_: Literal["mean", "median", "mode"] | None = None
    by: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Map | Fit:
        """A Map with a constant, a Fit with a statistic."""
        if (self.value is None) == (self.with_ is None):
            raise SpecError('fill: give either value = ... or with = "mean", "median" or "mode"')
        if self.by and self.with_ is None:
            raise SpecError('fill: by needs with = "mean", "median" or "mode"')
        kinds = (
            NUMBER if self.with_ in {"mean", "median"} else ("string", "bool", *NUMBER, "date", "timestamp")
        )
        require(schema, self.columns, step=self.do, kinds=kinds)
        require(schema, self.by, step=self.do, kinds=("string", "bool", *NUMBER, "date", "timestamp"))
        if both := sorted(set(self.by) & set(self.columns)):
            raise SpecError(f"fill: {both[0]!r} cannot be both filled and grouped by")
        if self.with_ is None:
            for name in self.columns:
                literal(self.value, schema.field(name).type, where=f"fill of column {name!r}")
            return Map(
                titled(self.do, self.columns), fill_value, {"columns": self.columns, "value": self.value}
            )
        sketches: dict[str, Sketch] = {name: _SKETCHES[self.with_](name) for name in self.columns}
        fit: dict[str, Sketch] = {"all": Several(sketches)}
        if self.by:
            fit["groups"] = Grouped(self.by, Several(sketches))
        params = {"columns": self.columns, "with_": self.with_, "by": self.by}
        return Fit(
            titled(self.do, self.columns), Several(fit), fill_fitted, (*self.columns, *self.by), params
        )


_SKETCHES: dict[str, Callable[[str], Sketch]] = {
    "mean": Moments,
    "median": lambda name: Quantiles(name, (0.5,)),
    "mode": lambda name: Values(name, top=1),
}


def fill_value(table: pa.Table, *, columns: tuple[str, ...], value: Scalar) -> Rows:
    """Missing values replaced by a constant."""
    constants = {name: literal(value, table.schema.field(name).type, where=name) for name in columns}
    return _filled(table, constants)


def fill_fitted(
    table: pa.Table, *, columns: tuple[str, ...], with_: str, by: tuple[str, ...], fitted: Mapping[str, Any]
) -> Rows:
    """Missing values replaced by what is typical of the column, or of the row's group."""
    replacements: dict[str, pa.Array | pa.Scalar] = {}
    labels = group_labels(table, by) if by else None
    for name in columns:
        arrow = table.schema.field(name).type
        if not table[name].null_count:
            replacements[name] = pa.scalar(None, arrow)
            continue
        typical = _typical(with_, name, fitted["all"][name], arrow)
        if not typical.is_valid:
            raise InputError(
                f"fill: column {name!r} has no value at all, so no {with_}; give value = ... instead"
            )
        if labels is not None:
            groups = fitted["groups"]
            values = pa.array(
                [_typical(with_, name, one[name], arrow).as_py() for one in groups.values()], arrow
            )
            place = pc.index_in(labels, value_set=pa.array(list(groups), pa.string()), skip_nulls=True)
            typical = pc.coalesce(values.take(place), typical)
        replacements[name] = typical
    return _filled(table, replacements)


def _typical(with_: str, name: str, summary: Mapping[str, Any], arrow: pa.DataType) -> pa.Scalar:
    """The mean, median or mode of a summary, as a value of the column; null if there is none."""
    if with_ == "mode":
        if summary["values"] is None:
            raise InputError(
                f"fill: column {name!r} has too many different values for a mode; give value = ... instead"
            )
        value = summary["values"][0][0] if summary["values"] else None
    else:
        value = summary["mean"] if with_ == "mean" else summary["quantiles"][0][1]
    if value is None:
        return pa.scalar(None, arrow)
    if with_ != "mode" and kind_of(arrow) == "integer":
        value = round(value)
    return literal(value, arrow, where=f"fill of column {name!r}")


def _filled(table: pa.Table, replacements: Mapping[str, pa.Array | pa.Scalar]) -> Rows:
    notes = {}
    for name, replacement in replacements.items():
        old = combined(table[name])
        new = pc.coalesce(old, replacement)
        notes[f"filled {name}"] = old.null_count - new.null_count
        table = replaced(table, name, new)
    return Rows(table, notes=notes)


def _changed(
    table: pa.Table, columns: tuple[str, ...], fn: Callable[[pa.Array], pa.Array], verb: str
) -> Rows:
    """Columns after a function of their values; the notes count the cells that differ."""
    notes = {}
    for name in columns:
        old = combined(table[name])
        new = fn(old)
        notes[f"{verb} {name}"] = pc.sum(pc.not_equal(old, new)).as_py() or 0
        table = replaced(table, name, new)
    return Rows(table, notes=notes)


def _named(arrow: pa.DataType) -> str:
    """The type of the pipeline file that holds every value of an Arrow type."""
    return {"integer": "int64", "float": "float64"}.get(kind_of(arrow), kind_of(arrow))
