"""From text to declared types: a row is kept whole, or set aside with the first column that it breaks, and why.

    null tokens -> type -> null? -> range -> values -> pattern     per column, in the declared order of the columns

Everything runs on whole columns; Python sees only the cells that do not fit. The fate of a row depends on the row alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError
from pipelines.fields import combined
from pipelines.literals import nowhere, reader, reason
from pipelines.schema import Field, Schema
from pipelines.stage import LINE, OFFSET, ORIGIN, REJECTS, SOURCE, Rows
from pipelines.timestamps import where

__all__ = ["Raw", "Rejection", "cast", "quarantine"]

Raw = Callable[[np.ndarray], "list[str] | pa.StringArray"]
"""Row numbers, in their order, -> the text of these rows as it stands in the file."""


class Rejection(NamedTuple):
    """Why one row is set aside."""

    rule: str
    column: str | None
    message: str


def cast(
    strings: pa.Table,
    schema: Schema,
    null: tuple[str, ...],
    raw: Raw,
    *,
    decimal: str = ".",
    wrong: Mapping[str, pa.StringArray] | None = None,
    where: str = "",
) -> Rows:
    """Rows of the declared types from columns of text (null: missing) and their origin.

    A column may have its declared type already; it is then only checked. `null`: texts that mean missing, for fields that
    name none. `wrong`: of a source with types of its own, what was found in cells that have another one ("text 'a'");
    their text is null. `where`: name of the file, for errors.

    Raises: InputError at the first bad value of a column with on_error = "fail".
    """
    fate: dict[int, Rejection] = {}
    columns, nulled = [], {}
    for name, field in schema.fields.items():
        text = combined(strings[name])
        column = _Column(name, field, _prepared(text, field, null), decimal, (wrong or {}).get(name))
        values, failures = column.read()
        broken = np.concatenate([rows for _, rows in failures] or [nowhere()])
        if len(broken) and field.on_error == "fail":
            rule, rows = min(
                ((rule, rows) for rule, rows in failures if len(rows)), key=lambda one: int(one[1].min())
            )
            row = int(rows.min())
            raise InputError(
                f"{where}:{strings[LINE][row].as_py()}: {column.messages(rule, rows[rows == row])[0]}; correct the file, or set "
                'on_error = "quarantine" to set such rows aside'
            )
        if len(broken) and field.on_error == "null":
            nulled[name] = broken
            values = _nulled(values, broken)
        elif len(broken):
            for rule, rows in failures:
                for row, message in zip(rows.tolist(), column.messages(rule, rows), strict=True):
                    fate.setdefault(row, Rejection(rule, name, message))
        columns.append(values)
    columns += [strings[name] for name in ORIGIN.names]
    kept = pa.Table.from_arrays(columns, schema=schema.with_origin())
    keep = np.ones(strings.num_rows, bool)
    keep[list(fate)] = False
    notes = {f"nulled {name}": int(keep[rows].sum()) for name, rows in nulled.items() if keep[rows].any()}
    if not fate:
        return Rows(kept, notes=notes)
    rows = np.array(sorted(fate), np.int64)
    rejected = quarantine(
        strings.select(ORIGIN.names).take(pa.array(rows)), [fate[row] for row in rows.tolist()], raw(rows)
    )
    return Rows(kept.filter(pa.array(keep)), rejected, notes=notes)


def quarantine(origin: pa.Table, why: list[Rejection], raw: "list[str] | pa.StringArray") -> pa.Table:
    """Quarantine records (REJECTS) of rows with this origin."""
    return pa.table(
        [
            origin[SOURCE],
            origin[LINE],
            origin[OFFSET],
            pa.array([one.rule for one in why], pa.string()),
            pa.array([one.column for one in why], pa.string()),
            pa.array([one.message for one in why], pa.string()),
            raw if isinstance(raw, pa.StringArray) else pa.array(raw, pa.string()),
        ],
        schema=REJECTS,
    )


@dataclass(frozen=True)
class _Column:
    name: str
    field: Field
    text: pa.StringArray
    decimal: str
    wrong: pa.StringArray | None
    known: dict[tuple[str, str | None], str] = dataclasses.field(
        default_factory=dict
    )  # many cells say the same

    def read(self) -> tuple[pa.Array, list[tuple[str, np.ndarray]]]:
        """The values, and the rows that break each rule; a row breaks at most one."""
        field = self.field
        values, bad = self.text, nowhere()
        if values.type == pa.string():
            read = reader(field.type, pattern=field.format, zone=field.zone, decimal=self.decimal)
            values, bad = read(self.text)
        failures = [("type", bad)]
        if self.wrong is not None:
            failures.append(("type", where(pc.is_valid(self.wrong))))
        if not self.field.nullable and self.text.null_count:
            missing = pc.is_null(self.text)
            if self.wrong is not None:
                missing = pc.and_(missing, pc.is_null(self.wrong))
            failures.append(("null", where(missing)))
        seen = nowhere()
        for rule, rows in self._rules(values):
            new = np.setdiff1d(rows, seen, assume_unique=True)
            seen = np.concatenate([seen, new])
            failures.append((rule, new))
        return values, failures

    def _rules(self, values: pa.Array) -> Iterator[tuple[str, np.ndarray]]:
        if self.field.range is not None:
            lower, upper = self.field.bounds()
            if lower is not None:
                yield "range", where(pc.less(values, lower))
            if upper is not None:
                yield "range", where(pc.greater(values, upper))
        allowed = self.field.allowed()
        if allowed is not None:
            yield (
                "values",
                where(pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=allowed)))),
            )
        if self.field.pattern is not None:
            yield "pattern", where(pc.invert(pc.match_substring_regex(values, f"^(?:{self.field.pattern})$")))

    def messages(self, rule: str, rows: np.ndarray) -> list[str]:
        """What is wrong with the cells of these rows."""
        if not len(rows):
            return []
        values = self.text.take(pa.array(rows)).to_pylist()
        wrong = [None] * len(rows) if self.wrong is None else self.wrong.take(pa.array(rows)).to_pylist()
        return [self._of_cell(rule, value, found) for value, found in zip(values, wrong, strict=True)]

    def _of_cell(self, rule: str, value: Any, found: str | None) -> str:
        if found is not None:
            what = found.partition(" ")[0] if self.field.privacy else found
            return f"column {self.name!r}: {what} found, {self.field.title} expected"
        text = None if value is None else str(value)
        if (rule, text) not in self.known:
            self.known[rule, text] = self._message(rule, text)
        return self.known[rule, text]

    def _message(self, rule: str, text: str | None) -> str:
        field = self.field
        if text is None:
            return f"column {self.name!r}: missing, and nullable is false"
        shown = _shown(text) if field.privacy is None else f"a text of {len(text)} characters"
        if rule == "type":
            why = reason(text, field.type, pattern=field.format, zone=field.zone, decimal=self.decimal)
            return f"column {self.name!r}: cannot read {shown} as {field.type}{why}"
        if rule == "range" and field.range is not None:
            lower, upper = field.range
            return f"column {self.name!r}: {shown} is outside [{'-inf' if lower is None else lower}, {'inf' if upper is None else upper}]"
        if rule == "values" and field.values is not None:
            known = ", ".join(map(repr, field.values[:5])) + (", ..." if len(field.values) > 5 else "")
            return f"column {self.name!r}: {shown} is not one of {known}"
        return f"column {self.name!r}: {shown} does not match {field.pattern!r}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _prepared(text: pa.StringArray, field: Field, null: tuple[str, ...]) -> pa.StringArray:
    if text.type != pa.string():
        return text
    if field.trim:
        text = pc.utf8_trim(text, " \t")
    tokens = null if field.null is None else field.null
    if not tokens:
        return text
    missing = pc.is_in(text, value_set=pa.array(tokens, pa.string()))
    return pc.if_else(missing, pa.scalar(None, pa.string()), text) if pc.any(missing).as_py() else text


def _nulled(values: pa.Array, rows: np.ndarray) -> pa.Array:
    mask = np.zeros(len(values), bool)
    mask[rows] = True
    return pc.if_else(pa.array(mask), pa.scalar(None, values.type), values)
