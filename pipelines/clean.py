"""Cleaning of cells: blanks, case, accents, spelling. Every step says in its notes how many cells it changed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import cast_cells, literal
from pipelines.errors import SpecError
from pipelines.fields import NUMBER, combined, kind_of, replaced, require, schema_after, shown, titled
from pipelines.names import did_you_mean
from pipelines.stage import Map, Rows, data_columns, reject

__all__ = ["MapValues", "Text", "Trim", "map_values", "text", "trim"]

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
        return Map(
            titled(self.do, self.columns or ("all texts",)), trim, {"columns": columns}, columns, columns
        )


def trim(table: pa.Table, *, columns: tuple[str, ...]) -> Rows:
    """Texts without blanks at their ends."""
    return _changed(table, columns, pc.utf8_trim_whitespace, "trimmed")


@dataclass(frozen=True, kw_only=True)
class Text:
    """Gives texts one form: Unicode composition, accents, case, and runs of blanks (line ends too) as one space.

    accents = "remove" takes the marks off letters ("\u00e9" becomes "e"); letters without a plain form ("\u00f8") stay.
    """

    do: ClassVar[str] = "text"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    case: Literal["lower", "upper", "keep"] = "keep"
    collapse: bool = False
    unicode: Literal["NFC", "NFKC", "keep"] = "keep"
    accents: Literal["remove", "keep"] = "keep"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do, kinds=("string",))
        if {self.case, self.unicode, self.accents} == {"keep"} and not self.collapse:
            raise SpecError(
                'text: nothing to do; set case = "lower", collapse = true, unicode = "NFC" or accents = "remove"'
            )
        params = {
            "columns": self.columns,
            "case": self.case,
            "collapse": self.collapse,
            "unicode": self.unicode,
            "accents": self.accents,
        }
        return Map(titled(self.do, self.columns), text, params, self.columns, self.columns)


def text(
    table: pa.Table, *, columns: tuple[str, ...], case: str, collapse: bool, unicode: str, accents: str
) -> Rows:
    """Texts in one form."""

    def composed(values: pa.Array) -> pa.Array:
        if accents == "remove":
            values = pc.utf8_normalize(values, form="NFKD" if unicode == "NFKC" else "NFD")
            values = pc.replace_substring_regex(values, pattern=r"\p{Mn}+", replacement="")
            return pc.utf8_normalize(values, form=unicode if unicode != "keep" else "NFC")
        return values if unicode == "keep" else pc.utf8_normalize(values, form=unicode)

    def formed(values: pa.Array) -> pa.Array:
        values = composed(values)
        if case != "keep":  # another case may have another composition
            values = composed(pc.utf8_lower(values) if case == "lower" else pc.utf8_upper(values))
        return pc.replace_substring_regex(values, pattern=_BLANKS, replacement=" ") if collapse else values

    return _changed(table, columns, formed, "rewritten")


@dataclass(frozen=True, kw_only=True)
class MapValues:
    """Replaces values of one column by a table of them; what is not in it stays, becomes missing, or sets the row aside.

    Keys are written as text, as in `{ "1" = "north" }` for a column of numbers. A missing value stays missing. With
    other = "keep" the column keeps its type; else it takes the type of the new values. `known` is a list of codes that
    are right as they are: then `values` are their synonyms, each for one of them.
    """

    do: ClassVar[str] = "map_values"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    column: str
    values: dict[str, Scalar] = field(default_factory=dict)
    other: Literal["keep", "null", "quarantine"] = "keep"
    known: tuple[str | int, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, one of them perhaps of another type."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, [self.column], step=self.do, kinds=("string", "bool", *NUMBER, "date", "timestamp"))
        table = self._table()
        arrow = schema.field(self.column).type
        where = f"map_values of column {self.column!r}"
        keys, misfits = cast_cells(pa.array(list(table), pa.string()), _named(arrow))
        if len(misfits):
            raise SpecError(f"{where}: key {list(table)[int(misfits[0])]!r} is no {kind_of(arrow)}")
        target = arrow if self.other == "keep" else _type(table.values(), arrow, where)
        new = pa.array([literal(value, target, where=where).as_py() for value in table.values()], target)
        params = {
            "column": self.column,
            "keys": keys,
            "values": new,
            "other": self.other,
            "right": len(set(self.known)),
        }
        one = (self.column,)
        return Map(titled(self.do, one), map_values, params, one, one, self.other == "quarantine")

    def _table(self) -> dict[str, Scalar]:
        """What becomes of each value that is known."""
        if not self.values and not self.known:
            raise SpecError('map_values: values is empty; write values = { "old" = "new" }')
        if self.known and self.other == "keep":
            raise SpecError(
                'map_values: known has no meaning with other = "keep", which keeps every value; set other = "quarantine" or "null"'
            )
        for old, new in self.values.items():
            if self.known and new not in self.known:
                near = did_you_mean(str(new), [str(code) for code in self.known])
                raise SpecError(f"map_values: {old!r} becomes {new!r}, which is not one of known{near}")
            if self.known and old in {str(code) for code in self.known}:
                raise SpecError(
                    f"map_values: {old!r} is one of known, and values says that it becomes {new!r}; leave it out of one of them"
                )
        return {str(code): code for code in self.known} | self.values


def _type(values: Iterable[Scalar], arrow: pa.DataType, where: str) -> pa.DataType:
    """The type that a column has with new values."""
    kinds = {type(value) for value in values}
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


def map_values(
    table: pa.Table, *, column: str, keys: pa.Array, values: pa.Array, other: str, right: int
) -> Rows:
    """One column with its values replaced; the first `right` of the keys are right as they are."""
    old = combined(table[column])
    place = pc.index_in(old.cast(keys.type, safe=False), value_set=keys, skip_nulls=True)
    unknown = pc.and_(pc.is_valid(old), pc.is_null(place))
    found = values.take(place)
    new = pc.if_else(unknown, old, found) if other == "keep" else found
    notes = {f"mapped {column}": pc.sum(pc.greater_equal(place, right)).as_py() or 0}
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
