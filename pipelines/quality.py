"""Checks of a finished table, before it is committed: what was declared of its rows, and whether it is so.

    { check = "not_null", columns = ["id", "age"] }            { check = "unique", columns = ["id"] }
    { check = "range", column = "age", min = 0, max = 120 }    { check = "row_count", min = 1 }
    { check = "values", column = "sex", values = ["f", "m"] }  { check = "pattern", column = "zip", pattern = "[0-9]{5}" }

severity = "block" (nothing is committed), "warn" (it is only said), or "quarantine" (the rows are set aside). A
missing value breaks only not_null. Rows are counted where they are; only counts come to the driver.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import literal
from pipelines.errors import CheckFailed, PipelineError, SpecError
from pipelines.fields import ORDERED, combined, require, shown
from pipelines.stage import Map, Rows, reject

__all__ = ["Check", "count_broken", "refuse_failed", "row_checks", "surplus", "unique_keys", "verdicts"]

Scalar = str | int | float | bool
_ALL = ("string", "bool", *ORDERED)
SEEN = "rows checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `column` or `columns` say of what; several columns are checked one by one, for unique together."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    check: Literal["not_null", "range", "values", "pattern", "row_count", "unique"]
    column: str | None = None
    columns: tuple[str, ...] = ()
    min: str | int | float | None = None
    max: str | int | float | None = None
    values: tuple[Scalar, ...] | None = None
    pattern: str | None = None  # RE2; the whole text must match
    severity: Literal["block", "warn", "quarantine"] = "block"
    name: str | None = None

    def __post_init__(self) -> None:
        needed, allowed = _SETTINGS[self.check]
        given = {key for key in ("min", "max", "values", "pattern") if getattr(self, key) is not None}
        if unknown := sorted(given - set(allowed)):
            raise SpecError(
                f"check {self.check}: {unknown[0]} has no meaning here; it takes {', '.join(allowed) or 'columns only'}"
            )
        if needed and not given:
            raise SpecError(f"check {self.check}: {' or '.join(allowed)} is missing")
        if self.check == "row_count" and self.targets:
            raise SpecError("check row_count: it is of the whole table, leave column out")
        if self.check != "row_count" and (self.column is None) == (not self.columns):
            raise SpecError(
                f'check {self.check}: say of which column: column = "name", or columns = ["a", "b"]'
            )
        if self.check in {"row_count", "unique"} and self.severity == "quarantine":
            what = (
                "a count has no rows to set aside"
                if self.check == "row_count"
                else "use the step deduplicate or resolve"
            )
            raise SpecError(f'check {self.check}: severity = "quarantine" is for rows by themselves; {what}')

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns it is of."""
        return self.columns or (() if self.column is None else (self.column,))

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns.

        Raises: SpecError if the table has no such column, or a setting does not fit its type.
        """
        kinds = {"range": ORDERED, "pattern": ("string",), "values": _ALL, "unique": _ALL}.get(self.check, ())
        require(schema, self.targets, step=f"check {self.check}", kinds=kinds)
        if self.check == "row_count":
            for value in (self.min, self.max):
                if value is not None and (not isinstance(value, int) or value < 0):
                    raise SpecError(f"check row_count: {value!r} is no number of rows")
        if isinstance(self.min, int | float) and isinstance(self.max, int | float) and self.min > self.max:
            raise SpecError(f"check {self.check}: min = {self.min!r} is above max = {self.max!r}")
        _require_pattern(self.pattern)
        empty = schema.empty_table()
        for column in self.targets:
            if self.check in _BROKEN:
                self.broken(empty, column)
        return schema

    def broken(self, table: pa.Table, column: str) -> pa.Array:
        """Where a column of these rows breaks the check."""
        return pc.fill_null(_BROKEN[self.check](self, combined(table[column])), fill_value=False)

    @property
    def measures(self) -> Iterator[tuple[str, str | None]]:
        """Name of each thing that is counted, and its column."""
        if self.check in {"row_count", "unique"}:
            label = self.name or " ".join([self.check, ", ".join(self.targets)]).strip()
            yield label, ", ".join(self.targets) or None
            return
        for column in self.targets:
            if self.name is None:
                yield f"{self.check} {column}", column
            else:
                yield self.name if len(self.targets) == 1 else f"{self.name} {column}", column

    @property
    def expected(self) -> str:
        """What should be."""
        if self.check == "pattern":
            return f"the whole text matches {self.pattern!r}"
        if self.check == "values":
            known = self.values or ()
            return (
                f"one of {', '.join(repr(value) for value in known[:8])}{', ...' if len(known) > 8 else ''}"
            )
        if self.check in {"not_null", "unique"}:
            return "a value in every row" if self.check == "not_null" else "every key once"
        unit = " rows" if self.check == "row_count" else ""
        if self.max is None:
            return f"at least {_said(self.min)}{unit}"
        return (
            f"at most {_said(self.max)}{unit}"
            if self.min is None
            else f"{_said(self.min)} to {_said(self.max)}{unit}"
        )


_SETTINGS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "not_null": (False, ()),
    "unique": (False, ()),
    "range": (True, ("min", "max")),
    "row_count": (True, ("min", "max")),
    "values": (True, ("values",)),
    "pattern": (True, ("pattern",)),
}
_WORDS = {
    "not_null": "have no value",
    "range": "are outside",
    "values": "have another value",
    "pattern": "do not match",
    "unique": "repeat the key of another",
}


def row_checks(checks: Sequence[Check]) -> Map:
    """The Map that counts what breaks each check of rows, and sets rows aside where the severity says so.

    Raises: SpecError if two checks have one name.
    """
    names = [name for check in checks for name, _ in check.measures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"checks: two are called {twice[0]!r}; give one of them another name = ...")
    return Map("checks", count_broken, {"checks": tuple(check for check in checks if check.check in _BROKEN)})


def count_broken(table: pa.Table, *, checks: tuple[Check, ...]) -> Rows:
    """Counts in the notes; rows of checks with severity quarantine set aside first, so that they are counted once."""
    notes = {SEEN: table.num_rows}
    rejected = []
    for check in sorted(checks, key=lambda one: one.severity != "quarantine"):
        for name, column in check.measures:
            broken = check.broken(table, str(column))
            notes[name] = pc.sum(broken).as_py() or 0
            if check.severity == "quarantine" and notes[name]:
                aside = reject(
                    table, broken, rule=name, column=column, message=_teller(check, table.schema, str(column))
                )
                table = aside.kept
                rejected.append(aside.rejected)
    return Rows(table, pa.concat_tables(rejected) if rejected else None, notes=notes)


def unique_keys(checks: Sequence[Check]) -> list[tuple[str, ...]]:
    """The keys that checks declare unique: each has to be counted by `surplus`, all rows of a key together."""
    return list(dict.fromkeys(check.targets for check in checks if check.check == "unique"))


def surplus(table: pa.Table, keys: tuple[str, ...]) -> int:
    """Rows beyond the first of each key, among rows of which all of one key are here; a missing value repeats nothing."""
    keyed = table.select(list(keys)).drop_null()
    return keyed.num_rows - keyed.group_by(list(keys), use_threads=False).aggregate([]).num_rows


def verdicts(
    checks: Sequence[Check],
    notes: Mapping[str, int],
    *,
    rows: int,
    surplus: Mapping[tuple[str, ...], int],
    there: int = 0,
) -> list[dict[str, Any]]:
    """What was found of every check; `notes` are those of all parts added, `rows` those to be committed, beside those that are `there`.

    Raises: PipelineError if a check was not run on all rows: silence is no proof.
    """
    found = []
    seen = notes.get(SEEN, 0)
    for check in checks:
        for name, column in check.measures:
            if check.check == "row_count":
                total = there + rows
                least, most = check.min or 0, math.inf if check.max is None else check.max
                passed = least <= total <= most  # type: ignore[operator]
                text = f"{total:,} rows"
            elif (check.check == "unique" and check.targets not in surplus) or (
                check.check != "unique" and seen < rows
            ):
                raise PipelineError(
                    f"check {name!r} was not run on all of the {rows:,} rows; nothing was committed"
                )
            else:
                count = surplus[check.targets] if check.check == "unique" else notes.get(name, 0)
                passed = count == 0
                of = there + rows if check.check == "unique" else seen
                text = f"{count:,} of {of:,} rows {_WORDS[check.check]}"
            found.append(
                {
                    "name": name,
                    "column": column,
                    "severity": check.severity,
                    "passed": passed,
                    "found": text,
                    "expected": check.expected,
                }
            )
    return found


def refuse_failed(table: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Stop a commit.

    Raises: CheckFailed with every failed check of severity block.
    """
    failed = [one for one in found if one["severity"] == "block" and not one["passed"]]
    if not failed:
        return
    lines = [f"  {one['name']}: found {one['found']}, expected {one['expected']}" for one in failed]
    many = "a check" if len(failed) == 1 else f"{len(failed)} checks"
    raise CheckFailed(
        f"table {table!r}: {many} failed, nothing was committed:\n" + "\n".join(lines) + "\n"
        'correct the data or the check; with severity = "quarantine" such rows are set aside, with "warn" the table is committed'
    )


# ---- what breaks a check


def _outside(check: Check, values: pa.Array) -> pa.Array:
    where = f"check range of type {values.type}"
    broken = pa.scalar(False)
    for limit, beyond in ((check.min, pc.less), (check.max, pc.greater)):
        if limit is not None:
            whole = pa.types.is_integer(values.type) and isinstance(limit, float)
            typed = pa.scalar(limit) if whole else literal(limit, values.type, where=where)
            broken = pc.or_kleene(broken, beyond(values, typed))
    return broken


def _other_value(check: Check, values: pa.Array) -> pa.Array:
    where = f"check values of type {values.type}"
    known = [literal(value, values.type, where=where).as_py() for value in check.values or ()]
    return pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=pa.array(known, values.type))))


def _unmatched(check: Check, values: pa.Array) -> pa.Array:
    return pc.invert(pc.match_substring_regex(values, f"^(?:{check.pattern})$"))


def _require_pattern(pattern: str | None) -> None:
    if pattern is None:
        return
    try:
        pc.match_substring_regex(pa.array([""]), pattern)  # an empty array would not be looked at
    except pa.ArrowInvalid as error:
        raise SpecError(f"check pattern: {pattern!r} is no RE2 expression: {error}") from None


_BROKEN: dict[str, Callable[[Check, pa.Array], pa.Array]] = {
    "not_null": lambda _, values: pc.is_null(values),
    "range": _outside,
    "values": _other_value,
    "pattern": _unmatched,
}


def _teller(check: Check, schema: pa.Schema, column: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: (
        f"column {column!r}: {shown(schema, column, row[column])} found, {check.expected} expected"
    )


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
