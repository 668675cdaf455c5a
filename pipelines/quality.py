"""Checks of a finished table, before it is committed: what was declared of its rows, and whether it is so.

    { check = "not_null", columns = ["id", "age"] }            { check = "unique", columns = ["id"] }
    { check = "range", column = "age", min = 0, max = 120 }    { check = "row_count", min = 1 }
    { check = "values", column = "sex", values = ["f", "m"] }  { check = "pattern", column = "zip", pattern = "[0-9]{5}" }
    { check = "foreign_key", columns = ["customer"], table = "customers", to = ["id"] }
    { check = "freshness", column = "at", max_hours = 36 }     { check = "apart", columns = ["customer"] }
    { check = "distribution", column = "price", max_psi = 0.2 }            # against the version before, or `table`
    { check = "k_anonymity", columns = ["zip", "age"], k = 5 }

severity = "block" (nothing is committed), "warn" (it is only said), or "quarantine" (the rows are set aside; those of
unique, apart and k_anonymity in keyed.py). A missing value breaks only not_null. Rows are counted where they are; only counts come to the driver. What has to be
asked of the finished files as a whole (unique, apart, freshness, distribution) is in measures.py, the verdicts in
verdicts.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import literal
from pipelines.errors import SpecError
from pipelines.fields import ORDERED, combined, require, shown
from pipelines.keys import strangers
from pipelines.names import did_you_mean
from pipelines.stage import SPLIT, Map, Rows, reject
from pipelines.storage import TableRef

__all__ = ["KEYED", "ROWS", "SEEN", "WHOLE", "Check", "count_broken", "row_checks", "told"]

Scalar = str | int | float | bool
_ALL = ("string", "bool", *ORDERED)
SEEN = "rows checked"
ROWS = ("not_null", "range", "values", "pattern", "foreign_key")
"""Checks of each row by itself."""
KEYED = ("unique", "apart", "k_anonymity")
"""Checks of all rows of a key together: where rows are to be set aside (keyed.py), they must meet."""
WHOLE = (*KEYED, "row_count", "freshness", "distribution")
"""Checks of the table as a whole."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check. `column` or `columns` say of what; several columns are checked one by one, as a key together.

    foreign_key: the key is in the columns `to` (default: of the same names) of `table`. apart: no key is in more than
    one part of the split. freshness: the newest time is at most `max_hours` old. distribution: values are spread as in
    `table`, or in the version before: by population stability index and Kolmogorov-Smirnov distance (drift.py).
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    check: Literal[
        "not_null",
        "range",
        "values",
        "pattern",
        "row_count",
        "unique",
        "foreign_key",
        "apart",
        "freshness",
        "distribution",
        "k_anonymity",
    ]
    column: str | None = None
    columns: tuple[str, ...] = ()
    min: str | int | float | None = None
    max: str | int | float | None = None
    values: tuple[Scalar, ...] | None = None
    pattern: str | None = None  # RE2; the whole text must match
    table: str | None = None
    to: tuple[str, ...] | None = None
    max_hours: float | None = None
    max_psi: float | None = None
    max_ks: float | None = None
    k: int | None = None
    severity: Literal["block", "warn", "quarantine"] = "block"
    name: str | None = None

    def __post_init__(self) -> None:
        needed, others = _SETTINGS[self.check]
        allowed = (*needed, *others)
        given = {key for key in _KEYS if getattr(self, key) is not None}
        if unknown := sorted(given - set(allowed)):
            raise SpecError(
                f"check {self.check}: {unknown[0]} has no meaning here; it takes {', '.join(allowed) or 'columns only'}"
            )
        if needed and not given & set(needed):
            raise SpecError(f"check {self.check}: {' or '.join(needed)} is missing")
        for key in ("max_hours", "max_psi", "max_ks"):
            limit = getattr(self, key)
            if limit is not None and not limit > 0:
                raise SpecError(f"check {self.check}: {key} = {limit!r}: expected a number above 0")
        if self.k is not None and self.k < 2:
            raise SpecError(f"check k_anonymity: k = {self.k}: expected at least 2")
        if self.check == "row_count" and self.targets:
            raise SpecError("check row_count: it is of the whole table, leave column out")
        if self.check != "row_count" and (self.column is None) == (not self.columns):
            raise SpecError(
                f'check {self.check}: say of which column: column = "name", or columns = ["a", "b"]'
            )
        if self.severity == "quarantine" and self.check not in (*ROWS, *KEYED):
            raise SpecError(
                f'check {self.check}: it is of the whole table, there are no rows to set aside; take severity = "warn" or "block"'
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns it is of."""
        return self.columns or (() if self.column is None else (self.column,))

    @property
    def needs(self) -> tuple[str, ...]:
        """Other tables that it looks at."""
        return () if self.table is None else (self.table,)

    @property
    def is_of_key(self) -> bool:
        """Whether its columns are one key, and not checked one by one."""
        return self.check in {"unique", "apart", "foreign_key", "k_anonymity"}

    @property
    def referenced(self) -> tuple[str, ...]:
        """Columns of the other table that hold the keys."""
        return self.to or self.targets

    def build(self, schema: pa.Schema, others: Mapping[str, pa.Schema] | None = None) -> pa.Schema:
        """The same columns; `others` are those of other tables, where they are known.

        Raises: SpecError if the table has no such column, or a setting does not fit its type.
        """
        where = f"check {self.check}"
        if self.check == "apart" and (gone := [name for name in self.targets if name not in schema.names]):
            raise SpecError(
                f"{where}: there is no column {gone[0]!r} at the end of the table, so nobody could tell whether the split "
                f"has torn rows of one key; keep it, in features by key = [{gone[0]!r}]"
            )
        require(schema, self.targets, step=where, kinds=_TYPES.get(self.check, ()))
        if self.check == "distribution" and self.max_ks is not None:
            require(schema, self.targets, step=f"{where} by max_ks", kinds=ORDERED)
        if self.check == "apart" and SPLIT not in schema.names:
            raise SpecError(f"{where}: no column {SPLIT!r}; it is for tables with a split step")
        if self.table is not None and others is not None and self.table in others:
            self._build_beside(schema, others[self.table], where)
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

    def _build_beside(self, schema: pa.Schema, other: pa.Schema, where: str) -> None:
        if len(self.referenced) != len(self.targets):
            raise SpecError(
                f"{where}: {len(self.targets)} columns here, {len(self.referenced)} in to; name one for each"
            )
        names = self.targets if self.check == "distribution" else self.referenced
        for here, there in zip(self.targets, names, strict=True):
            if there not in other.names:
                raise SpecError(
                    f"{where}: table {self.table!r} has no column {there!r}{did_you_mean(there, other.names)}"
                )
            if schema.field(here).type != other.field(there).type:
                raise SpecError(
                    f"{where}: {here!r} is {schema.field(here).type}, {self.table}.{there} is {other.field(there).type}; cast one of them"
                )

    def broken(self, table: pa.Table, column: str) -> pa.Array:
        """Where a column of these rows breaks the check."""
        return pc.fill_null(_BROKEN[self.check](self, combined(table[column])), fill_value=False)

    @property
    def measures(self) -> Iterator[tuple[str, str | None]]:
        """Name of each thing that is counted, and its column."""
        if self.check == "row_count" or self.is_of_key:
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
        match self.check:
            case "pattern":
                return f"the whole text matches {self.pattern!r}"
            case "values":
                known = self.values or ()
                more = ", ..." if len(known) > 8 else ""
                return f"one of {', '.join(repr(value) for value in known[:8])}{more}"
            case "not_null":
                return "a value in every row"
            case "unique":
                return "every key once"
            case "apart":
                return "every key in one part of the split"
            case "foreign_key":
                return f"a key of {self.table}.{', '.join(self.referenced)}"
            case "k_anonymity":
                return f"at least {self.k} rows of every combination"
            case "freshness":
                return f"at most {self.max_hours:g} hours old"
            case "distribution":
                limits = (("psi", self.max_psi), ("ks", self.max_ks))
                return ", ".join(f"{name} at most {limit:g}" for name, limit in limits if limit is not None)
        unit = " rows" if self.check == "row_count" else ""
        if self.max is None:
            return f"at least {_said(self.min)}{unit}"
        return (
            f"at most {_said(self.max)}{unit}"
            if self.min is None
            else f"{_said(self.min)} to {_said(self.max)}{unit}"
        )


_KEYS = ("min", "max", "values", "pattern", "table", "to", "max_hours", "max_psi", "max_ks", "k")
_SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # at least one of these; others
    "not_null": ((), ()),
    "unique": ((), ()),
    "apart": ((), ()),
    "range": (("min", "max"), ()),
    "row_count": (("min", "max"), ()),
    "values": (("values",), ()),
    "pattern": (("pattern",), ()),
    "k_anonymity": (("k",), ()),
    "foreign_key": (("table",), ("to",)),
    "freshness": (("max_hours",), ()),
    "distribution": (("max_psi", "max_ks"), ("table",)),
}
_TYPES: dict[str, tuple[str, ...]] = {
    "range": ORDERED,
    "pattern": ("string",),
    "values": _ALL,
    "unique": _ALL,
    "apart": _ALL,
    "k_anonymity": _ALL,
    "foreign_key": _ALL,
    "freshness": ("date", "timestamp"),
    "distribution": _ALL,
}


def row_checks(checks: Sequence[Check], reference: Callable[[str], TableRef] | None = None) -> Map:
    """The Map that counts what breaks each check of rows, and sets rows aside where the severity says so.

    `reference` gives the version of another table that foreign keys are looked up in; None: they are not run.

    Raises: SpecError if two checks have one name.
    """
    names = [name for check in checks for name, _ in check.measures]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"checks: two are called {twice[0]!r}; give one of them another name = ...")
    bound = tuple(
        (check, None if reference is None or check.table is None else reference(check.table))
        for check in checks
        if check.check in ROWS
    )
    return Map("checks", count_broken, {"checks": bound}, (), (), thins=True)


def count_broken(table: pa.Table, *, checks: tuple[tuple[Check, TableRef | None], ...]) -> Rows:
    """Counts in the notes; rows of checks with severity quarantine set aside first, so that they are counted once."""
    notes = {SEEN: table.num_rows}
    rejected = []
    for check, other in sorted(checks, key=lambda one: one[0].severity != "quarantine"):
        for name, column in check.measures:
            if check.check == "foreign_key":
                broken = strangers(table, check.targets, other, check.referenced)
            else:
                broken = check.broken(table, str(column))
            notes[name] = pc.sum(broken).as_py() or 0
            if check.severity == "quarantine" and notes[name]:
                aside = reject(
                    table, broken, rule=name, column=column, message=told(check, table.schema, column)
                )
                table = aside.kept
                rejected.append(aside.rejected)
    return Rows(table, pa.concat_tables(rejected) if rejected else None, notes=notes)


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


def told(check: Check, schema: pa.Schema, column: str | None) -> Callable[[dict[str, Any]], str]:
    """What is said of a row that breaks the check."""

    def text(row: dict[str, Any]) -> str:
        cells = (f"column {name!r}: {shown(schema, name, row[name])}" for name in names)
        return f"{', '.join(cells)} found, {check.expected} expected"

    names = check.targets if check.is_of_key or column is None else (column,)
    return text


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
