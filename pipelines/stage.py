"""The three ways rows may move: Map (they stay), Fit (only summaries move), Exchange (they move once).

A step of the pipeline file becomes one of the three. Each holds pure functions of Arrow tables; the engine alone
knows where they run. Every function accounts for its rows: what does not go on is in `Rows`.

    part --Map--Map--+--sketch--> merge --> fitted --+
                     |                               v
                     +--rows kept on disk----------> Map(fitted) --> one file, a batch per bucket --> Exchange fn
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from pipelines.storage import TableRef

__all__ = [
    "EVIDENCE",
    "LINE",
    "OFFSET",
    "ORIGIN",
    "REJECTS",
    "SOURCE",
    "SPLIT",
    "Beside",
    "Exchange",
    "Fit",
    "Map",
    "Rows",
    "Side",
    "Stage",
    "Step",
    "data_columns",
    "reject",
    "tables_of",
]

SOURCE, LINE, OFFSET = "_source", "_line", "_offset"
ORIGIN = pa.schema([(SOURCE, pa.int32()), (LINE, pa.int64()), (OFFSET, pa.int64())])
"""Columns that travel with every row until it is written: number of its input file or table, line (from 1; of a table: row
ordinal), byte offset (-1 where there is none). `(_source, _line)` orders all rows of a run, however they were cut."""

SPLIT = "split"
"""Column that says which rows train, validate and test a model."""

REJECTS = pa.schema(
    [
        (SOURCE, pa.int32()),
        (LINE, pa.int64()),
        (OFFSET, pa.int64()),
        ("rule", pa.string()),
        ("column", pa.string()),
        ("message", pa.string()),
        ("raw", pa.string()),
    ]
)
"""A row that was set aside: origin, rule that it broke, column (null: the whole row), what to read, raw text or JSON."""

EVIDENCE = pa.schema(
    [
        *ORIGIN,
        ("first_source", pa.int32()),
        ("first_line", pa.int64()),
        ("key", pa.string()),
        ("column", pa.string()),
        ("value", pa.string()),
        ("chosen", pa.string()),
        ("policy", pa.string()),
        ("decided", pa.string()),
        ("origin", pa.string()),
        ("time", pa.string()),
    ]
)
"""A value in dispute: who says so (its row), where its key was first seen, the key, the column, the value, the one that
was chosen (null: none), by which policy, and what decided against this one (null: it was chosen), source, and time."""


@dataclass(frozen=True)
class Rows:
    """What a step made of the rows of one part.

    `rows in + added = kept + rejected + deduplicated + filtered`: the engine checks it after every step.
    """

    kept: pa.Table
    rejected: pa.Table | None = None  # REJECTS
    deduplicated: int = 0
    filtered: int = 0  # left out by a declared rule
    added: int = 0  # declared fan-out of a join
    notes: Mapping[str, int] = field(default_factory=dict)  # counts to show: {"filled age": 12}
    evidence: pa.Table | None = None  # EVIDENCE: of what was in dispute; no rows of the ledger


MapFunction = Callable[..., Rows | pa.Table]


@dataclass(frozen=True)
class Map:
    """Rows stay: `fn(table, **params)`, one part in, one part out. Neighbours run in one pass.

    `fn` is a module-level function (workers import it by name) and never changes its argument. If it keeps every row,
    `writes` are the only columns that it makes or changes (it may leave others out), and `reads` all that these follow
    from: then a sketch behind it that needs none of them does without it. None: it may do anything. One that `thins`
    may leave rows out or set them aside; what it says of columns is true of the rows that stay.
    """

    name: str
    fn: MapFunction
    params: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] | None = None
    writes: tuple[str, ...] | None = None
    thins: bool = False
    narrows: bool = False  # `fn` takes `only`: which of the columns that it writes are asked for

    def narrowed(self, columns: Iterable[str]) -> "Map":
        """The same for whoever asks for these columns alone."""
        return replace(self, params={**self.params, "only": tuple(sorted(columns))}) if self.narrows else self

    def __call__(self, table: pa.Table) -> Rows:
        """What becomes of the rows of one part."""
        made = self.fn(table, **self.params)
        return made if isinstance(made, Rows) else Rows(made)

    def beside(self, side: "Side") -> "Map":
        """The same with the rows of the other table that have met in this part."""
        return replace(self, params={**self.params, "side": side})


class Sketch(Protocol):
    """A mergeable summary in one or more rounds; its answer does not depend on how the rows were cut."""

    def sketch(self, table: pa.Table, request: Any) -> Any:
        """The state of one part. `request` is None in the first round."""

    def merge(self, left: Any, right: Any) -> Any:
        """The state of both parts together."""

    def finish(self, state: Any, request: Any) -> tuple[bool, Any]:
        """`(True, fitted)` at the end, `(False, request of the next round)` before. `fitted` is JSON-able, or has a ByGroup."""


@dataclass(frozen=True)
class Fit:
    """Only summaries move: sketch every part, merge, then map with the result.

    `apply(table, fitted=..., **params)` runs in the next pass. `columns` are the only ones the sketch reads.
    `writes` are the only ones that `apply` changes, by these alone, if it keeps every row: then a fit behind it that
    reads others is sketched in the same pass.
    """

    name: str
    sketch: Sketch
    apply: MapFunction
    columns: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    writes: tuple[str, ...] | None = None  # None: it may change anything

    def mapped(self, fitted: Any) -> Map:
        """The Map that uses what was fitted."""
        params = {**self.params, "fitted": fitted}
        return Map(self.name, self.apply, params, None if self.writes is None else self.columns, self.writes)


@dataclass(frozen=True)
class Beside:
    """Another table whose rows move too: those of equal `by` meet this table's."""

    ref: "TableRef"
    by: tuple[str, ...]
    columns: tuple[str, ...]  # that are needed of it, `by` included
    whole: bool  # its rows without partner matter too: one task must know all keys of a bucket


@dataclass(frozen=True)
class Side:
    """What a part of an exchange of two tables gets of the other one, in the order of its origin."""

    rows: pa.Table
    answers: bool  # this task answers for what must be known of the whole bucket
    elsewhere: pa.Table | None = None  # then: keys of this table's rows that other tasks have of it


@dataclass(frozen=True)
class Exchange:
    """Rows move once: all rows of equal `by` meet in one part, in the order of their origin; then `fn` as in a Map.

    With `beside` the rows of another table come to the same part, and `fn` has them as `side`. Then a bucket with far
    more rows than others (a hot key) is given to several tasks, each with the whole other side of the bucket.

    If `fn` does nothing but leave rows out, `looks` are all the columns that it looks at beside the origin: then they
    alone move, and the rows wait where they are for its answer.
    """

    name: str
    by: tuple[str, ...]
    fn: MapFunction
    params: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False  # a row with a missing value in `by` meets no other: it may go anywhere
    beside: Beside | None = None
    apart: bool = True  # False: all rows of a bucket stay in one task, also with `beside`
    looks: tuple[str, ...] | None = None

    def mapped(self) -> Map:
        """The Map that runs after the rows have moved."""
        return Map(self.name, self.fn, self.params)


Stage = Map | Fit | Exchange


class Step(Protocol):
    """One step of the pipeline file: a frozen dataclass of settings that holds no data (see `spec.STEPS`)."""

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns after this step.

        Raises: SpecError with a "did you mean" for a column that is not there or has the wrong type.
        """

    def stage(self, schema: pa.Schema) -> Stage:
        """What the engine runs, for rows of this schema."""


def tables_of(step: Any) -> tuple[str, ...]:
    """The other tables that a step reads; `step.beside(version of it)` is the step that can be built."""
    return getattr(step, "tables", ())


def data_columns(schema: pa.Schema) -> list[str]:
    """Column names without those of the origin."""
    return [name for name in schema.names if name not in ORIGIN.names]


def reject(
    table: pa.Table,
    bad: pa.Array | pa.ChunkedArray,
    *,
    rule: str,
    column: str | None,
    message: Callable[[dict[str, Any]], str] | str,
) -> Rows:
    """Set aside the rows where `bad` is true (null counts as false); their raw text is the row as JSON."""
    bad = pc.fill_null(bad, fill_value=False)
    if not pc.any(bad).as_py():
        return Rows(table)
    return Rows(
        table.filter(pc.invert(bad)), rejects(table.filter(bad), rule=rule, column=column, message=message)
    )


def rejects(
    rows: pa.Table, *, rule: str, column: str | None, message: Callable[[dict[str, Any]], str] | str
) -> pa.Table:
    """These rows as quarantine records (REJECTS)."""
    shown = rows.select(data_columns(rows.schema))
    private = [name for name in shown.column_names if b"privacy" in (shown.schema.field(name).metadata or {})]
    records = shown.to_pylist()
    texts: Iterable[str] = (
        (message(record) for record in records) if callable(message) else [message] * len(records)
    )
    return pa.table(
        [
            rows[SOURCE],
            rows[LINE],
            rows[OFFSET],
            pa.array([rule] * len(records), pa.string()),
            pa.array([column] * len(records), pa.string()),
            pa.array(list(texts), pa.string()),
            pa.array([_as_json(record, private) for record in records], pa.string()),
        ],
        schema=REJECTS,
    )


def _as_json(record: dict[str, Any], private: list[str]) -> str:
    """The row, with the values of private columns hidden: a quarantine has more readers than its table."""
    return json.dumps(
        record | {name: "***" for name in private if record[name] is not None},
        default=_shown,
        ensure_ascii=False,
    )


def _shown(value: Any) -> str:
    """A value that JSON does not know; of bytes (a tensor) only how many they are."""
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)
