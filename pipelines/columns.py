"""Which columns a table has: computed, chosen, left out, renamed, of another type. Their metadata goes with them."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from pipelines.casting import cast_cells, castable
from pipelines.errors import SpecError
from pipelines.expression import expression
from pipelines.fields import inherited, kind_of, replaced, require, schema_after, shown, titled
from pipelines.literals import ARROW
from pipelines.names import did_you_mean
from pipelines.stage import LINE, ORIGIN, SOURCE, Map, Rows, data_columns, rejects

__all__ = ["Cast", "Derive", "Drop", "Rename", "Select", "cast", "derive", "drop", "rename", "select"]


@dataclass(frozen=True, kw_only=True)
class Derive:
    """Adds columns, or replaces them, each by an expression that may use the ones before it.

    A column made from columns with a privacy class has this class (all of them, where they differ).
    """

    do: ClassVar[str] = "derive"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: dict[str, str]

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns, with the new ones at the end."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        if not self.columns:
            raise SpecError('derive: columns is empty; write columns = { total = "price * amount" }')
        if reserved := [name for name in self.columns if name.startswith("_") or not name]:
            raise SpecError(f"derive: {reserved[0]!r} is not a name for a column; a leading '_' is reserved")
        rows = schema.empty_table()
        for name, text in self.columns.items():
            if kind_of(expression(text).type(rows.schema)) == "null":
                raise SpecError(
                    f'derive of {name!r}: {text!r} is always missing; give it a type: cast(None, "float64")'
                )
            rows = derive(rows, columns={name: text})
        read: dict[str, None] = {}
        for place, text in enumerate(self.columns.values()):
            before = list(self.columns)[:place]
            read.update(dict.fromkeys(sorted(expression(text).columns - set(before))))
        params = {"columns": dict(self.columns)}
        written = tuple(self.columns)
        return Map(titled(self.do, self.columns), derive, params, tuple(read), written, narrows=True)


def derive(table: pa.Table, *, columns: dict[str, str], only: tuple[str, ...] | None = None) -> pa.Table:
    """The table with the answers of expressions as columns: of all, or of those that `only` these need."""
    wanted = set(columns if only is None else only)
    for name in reversed(columns) if only is not None else ():
        wanted |= expression(columns[name]).columns if name in wanted else set()
    for name, text in ((name, text) for name, text in columns.items() if name in wanted):
        formula = expression(text)
        values = formula.evaluate(table)
        field = pa.field(name, values.type, metadata=inherited(table.schema, formula.columns))
        place = table.schema.get_field_index(name)
        table = table.append_column(field, values) if place < 0 else table.set_column(place, field, values)
    return table


@dataclass(frozen=True, kw_only=True)
class Select:
    """Keeps these columns, in this order."""

    do: ClassVar[str] = "select"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]

    def build(self, schema: pa.Schema) -> pa.Schema:
        """These columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        if not self.columns:
            raise SpecError("select: columns is empty; a table needs at least one column")
        require(schema, self.columns, step=self.do)
        return Map(titled(self.do, self.columns), select, {"columns": self.columns}, (), ())


def select(table: pa.Table, *, columns: tuple[str, ...]) -> pa.Table:
    """These columns and the origin."""
    return table.select([*columns, *(name for name in ORIGIN.names if name in table.schema.names)])


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Leaves these columns out."""

    do: ClassVar[str] = "drop"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The other columns."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do)
        if set(self.columns) >= set(data_columns(schema)):
            raise SpecError("drop: no column would be left")
        return Map(titled(self.do, self.columns), drop, {"columns": self.columns}, (), ())


def drop(table: pa.Table, *, columns: tuple[str, ...]) -> pa.Table:
    """The table without these columns."""
    return table.drop_columns(list(columns))


@dataclass(frozen=True, kw_only=True)
class Rename:
    """Gives columns new names: { old = "new" }. Names may be exchanged."""

    do: ClassVar[str] = "rename"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: dict[str, str]

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns under their new names."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do)
        if reserved := [name for name in self.columns.values() if name.startswith("_") or not name]:
            raise SpecError(f"rename: {reserved[0]!r} is not a name for a column; a leading '_' is reserved")
        after = [self.columns.get(name, name) for name in data_columns(schema)]
        if twice := sorted({name for name in after if after.count(name) > 1}):
            raise SpecError(f"rename: there would be two columns {twice[0]!r}; drop or rename the other one")
        names = tuple(self.columns.values())
        return Map(
            titled(self.do, self.columns), rename, {"columns": dict(self.columns)}, tuple(self.columns), names
        )


def rename(table: pa.Table, *, columns: dict[str, str]) -> pa.Table:
    """The table with columns renamed; of some of its columns, too, a name that is taken over is free before."""
    taken = set(columns.values()) - set(columns)
    table = table.drop_columns([name for name in table.column_names if name in taken])
    return table.rename_columns([columns.get(name, name) for name in table.schema.names])


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Gives columns another type: { amount = "float64" }. A row with cells that do not fit is set aside; all are told.

    With on_error = "null" such a cell becomes missing, and is counted.
    """

    do: ClassVar[str] = "cast"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: dict[str, str]
    on_error: Literal["quarantine", "null"] = "quarantine"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, of other types."""
        return schema_after(self.stage(schema), schema)

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        require(schema, self.columns, step=self.do)
        problems = []
        for name, to in self.columns.items():
            if to not in ARROW:
                problems.append(f"cast of column {name!r}: no type {to!r}{did_you_mean(to, ARROW)}")
            elif not castable(schema.field(name).type, to):
                problems.append(f"cast of column {name!r}: {schema.field(name).type} cannot become {to}")
        if problems:
            raise SpecError(*problems)
        params = {"columns": dict(self.columns), "on_error": self.on_error}
        names, thins = tuple(self.columns), self.on_error == "quarantine"
        return Map(titled(self.do, self.columns), cast, params, names, names, thins)


def cast(table: pa.Table, *, columns: dict[str, str], on_error: str) -> Rows:
    """The table with columns of other types; rows with cells that do not fit are set aside, or the cells emptied."""
    made, notes = table, {}
    misfits: dict[int, list[str]] = {}  # by row: the columns of its cells that do not fit
    for name, to in columns.items():
        values, rows = cast_cells(table[name], to)
        made = replaced(made, name, values, nullable=on_error == "null")
        if on_error == "null":
            notes[f"emptied {name}"] = len(rows)
            continue
        for row in rows.tolist():
            misfits.setdefault(row, []).append(name)
    if not misfits:
        return Rows(made, notes=notes)
    order = sorted(misfits, key=lambda row: (misfits[row][0], row))
    aside = []
    for first, group in itertools.groupby(order, key=lambda row: misfits[row][0]):
        taken = list(group)
        texts = [_told(table, row, misfits[row], columns) for row in taken]
        rows_of = table.take(pa.array(taken))
        aside.append(rejects(rows_of, rule="type", column=first, message=_one_by_one(texts)))
    rejected = pa.concat_tables(aside).sort_by([(SOURCE, "ascending"), (LINE, "ascending")])
    kept = np.ones(table.num_rows, bool)
    kept[order] = False
    return Rows(made.filter(pa.array(kept)), rejected)


def _told(table: pa.Table, row: int, names: list[str], columns: dict[str, str]) -> str:
    """Every cell of a row that does not fit."""
    cells = (
        f"column {name!r}: cannot read {shown(table.schema, name, table[name][row].as_py())} as {columns[name]}"
        for name in names
    )
    return "; ".join(cells)


def _one_by_one(texts: list[str]) -> Callable[[Any], str]:
    rest = iter(texts)
    return lambda _: next(rest)
