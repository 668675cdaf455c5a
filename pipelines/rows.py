"""Which rows go on: those that satisfy a condition, and those that break no rule."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.expression import expression
from pipelines.fields import kind_of, shown
from pipelines.stage import Map, Rows, reject

__all__ = ["Keep", "Quarantine", "keep", "quarantine"]


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Leaves out, and counts, every row for which `where` is not true: one for which it cannot be told is left out too."""

    do: ClassVar[str] = "keep"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    where: str

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        _require_condition(self.do, self.where, schema)
        return Map(f"keep {self.where}", keep, {"where": self.where}, (), (), thins=True)


def keep(table: pa.Table, *, where: str) -> Rows:
    """The rows for which a condition is true."""
    kept = table.filter(pc.fill_null(expression(where).evaluate(table), fill_value=False))
    return Rows(kept, filtered=table.num_rows - kept.num_rows)


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """Sets aside every row for which `where` is true, under the name of the rule; where it cannot be told, the row stays."""

    do: ClassVar[str] = "quarantine"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    where: str
    rule: str
    message: str | None = None

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Map:
        """A Map."""
        _require_condition(self.do, self.where, schema)
        if not self.rule:
            raise SpecError("quarantine: rule is empty; give it the name under which the rows are counted")
        params = {"where": self.where, "rule": self.rule, "message": self.message}
        return Map(f"quarantine {self.rule}", quarantine, params, (), (), thins=True)


def quarantine(table: pa.Table, *, where: str, rule: str, message: str | None) -> Rows:
    """Rows that break a rule set aside; the message shows the values that the rule looked at."""
    condition = expression(where)
    names = sorted(condition.columns)

    def told(row: dict[str, Any]) -> str:
        values = ", ".join(f"{name} = {shown(table.schema, name, row[name])}" for name in names)
        return f"{message or where} ({values})" if values else message or where

    column = names[0] if len(names) == 1 else None
    return reject(table, condition.evaluate(table), rule=rule, column=column, message=told)


def _require_condition(do: str, where: str, schema: pa.Schema) -> None:
    kind = kind_of(expression(where).type(schema))
    if kind != "bool":
        raise SpecError(f"{do}: where = {where!r} gives {kind}, expected true or false; write a comparison")
