"""What the columns of a table hold: counts, extremes, mean, histogram, most frequent values; exact, in two rounds.

The first round finds counts, sums, extremes and values; the second, around what the first has found, squares and
histogram. `sketch_of(schema)` is a Sketch as those of Fit steps: it runs over the files of a table wherever they are.

A column with a privacy class shows how many values it has, and none of them. Dates and times are ISO 8601 text.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import combined, kind_of
from pipelines.literals import ARROW
from pipelines.sketch import Histogram, Moments, Several, Values, plain, summarise
from pipelines.stage import Sketch, data_columns

__all__ = ["BINS", "Measured", "Named", "Opaque", "profile", "sketch_of"]

BINS = 30
TOP = 10  # most frequent values shown
DISTINCT = 10_000  # distinct values that are counted; with more, `distinct` is null
TEXT = 100  # characters shown of a text


def profile(tables: Iterable[pa.Table]) -> dict[str, dict[str, Any]]:
    """The profile of every column over all rows of these tables, at least one, of one schema."""
    parts = list(tables)
    return summarise(sketch_of(parts[0].schema), parts)


def sketch_of(schema: pa.Schema) -> Several:
    """The sketch of a table's profile. Fitted: {column: {"type", "rows", "nulls", "min", ..., "histogram", "top"}}."""
    return Several({name: _of_column(schema.field(name)) for name in data_columns(schema)})


def _of_column(field: pa.Field) -> Sketch:
    kind, private = kind_of(field.type), b"privacy" in (field.metadata or {})
    if kind in {"other", "null"}:
        return Opaque(field.name, _type_name(field.type))
    if kind in {"string", "bool"}:
        return Named(field.name, _type_name(field.type), private)
    decode = {"date": _date, "timestamp": _timestamp}.get(kind)
    return Measured(field.name, _type_name(field.type), private, decode)


def _nothing() -> dict[str, Any]:
    fields = ("min", "max", "mean", "std", "distinct", "histogram")
    return {**dict.fromkeys(fields), "top": []}


def _type_name(arrow: pa.DataType) -> str:
    return next((name for name, known in ARROW.items() if known.equals(arrow)), str(arrow))


def _date(days: float) -> str:
    return plain(pa.scalar(int(days), pa.int32()).cast(pa.date32()).as_py())


def _timestamp(micros: float) -> str:
    return plain(pa.scalar(int(micros), pa.timestamp("us")).as_py()) + "+00:00"


@dataclass(frozen=True)
class Opaque:
    """A column whose values are not looked at: rows and missing values."""

    column: str
    type: str

    def sketch(self, table: pa.Table, request: None) -> tuple[int, int]:
        """Rows, missing values."""
        del request
        return table.num_rows, table[self.column].null_count

    def merge(self, left: tuple[int, int], right: tuple[int, int]) -> tuple[int, int]:
        """The counts of both."""
        return left[0] + right[0], left[1] + right[1]

    def finish(self, state: tuple[int, int], request: None) -> tuple[bool, Any]:
        """The column's profile."""
        del request
        return True, {"type": self.type, "rows": state[0], "nulls": state[1], **_nothing()}


@dataclass(frozen=True)
class Named:
    """A column of texts or bools: how often each value occurs, the first and the last in order."""

    column: str
    type: str
    private: bool

    def sketch(self, table: pa.Table, request: None) -> tuple[Any, Any, Any]:
        """State of the values, least, greatest."""
        del request
        ends = pc.min_max(combined(table[self.column]).drop_null()).as_py()
        return self._values.sketch(table, None), ends["min"], ends["max"]

    def merge(self, left: tuple[Any, Any, Any], right: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        """Those of both; texts in the order of their UTF-8 bytes, as Arrow has it."""
        ends = [end for end in (*left[1:], *right[1:]) if end is not None]
        values = self._values.merge(left[0], right[0])
        return values, min(ends, default=None), max(ends, default=None)  # code points order as UTF-8 does

    def finish(self, state: tuple[Any, Any, Any], request: None) -> tuple[bool, Any]:
        """The column's profile."""
        del request
        _, values = self._values.finish(state[0], None)
        found = {
            "type": self.type,
            "rows": values["rows"],
            "nulls": values["nulls"],
            **_nothing(),
            "distinct": values["distinct"],
        }
        if self.private:
            return True, found
        top = [[_cut(value), count] for value, count in values["values"] or []]
        return True, {**found, "min": _cut(state[1]), "max": _cut(state[2]), "top": top}

    @property
    def _values(self) -> Values:
        return Values(self.column, limit=DISTINCT, top=TOP)


@dataclass(frozen=True)
class Measured:
    """A column of numbers, dates or times; `decode` writes one of its numbers as text."""

    column: str
    type: str
    private: bool
    decode: Callable[[float], str] | None

    def sketch(self, table: pa.Table, request: Mapping[str, Any] | None) -> dict[str, Any]:
        """States of the moments and the values, then of the histogram."""
        if request is None:
            return {"moments": self._moments.sketch(table, None), "values": self._values.sketch(table, None)}
        return {"histogram": Histogram(self.column, request["edges"]).sketch(table, None)}

    def merge(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        """Those of both."""
        merge: dict[str, Callable[[Any, Any], Any]] = {
            "moments": self._moments.merge,
            "values": self._values.merge,
            "histogram": Histogram(self.column, ()).merge,
        }
        return {name: merge[name](left[name], right[name]) for name in left}

    def finish(self, state: dict[str, Any], request: Mapping[str, Any] | None) -> tuple[bool, Any]:
        """The edges for the second round, then the column's profile."""
        if request is not None:
            return True, self._profile(request["moments"], request, list(state["histogram"][1:-1]))
        moments = self._moments.finish(state["moments"], None)[1]
        values = self._values.finish(state["values"], None)[1]
        if not moments["count"]:
            return True, self._profile(moments, {"values": values, "edges": ()}, [])
        return False, {"moments": moments, "values": values, "edges": _edges(moments["min"], moments["max"])}

    def _profile(
        self, moments: Mapping[str, Any], request: Mapping[str, Any], counts: list[int]
    ) -> dict[str, Any]:
        values = request["values"]
        found = {
            "type": self.type,
            "rows": moments["rows"],
            "nulls": moments["nulls"],
            **_nothing(),
            "distinct": values["distinct"],
        }
        if self.private or not moments["count"]:
            return found
        say: Callable[[float], Any] = self.decode or (lambda number: number)
        found |= {"min": say(moments["min"]), "max": say(moments["max"]), "top": values["values"] or []}
        found["histogram"] = {"edges": [say(edge) for edge in request["edges"]], "counts": counts}
        return found if self.decode else {**found, "mean": moments["mean"], "std": moments["std"]}

    @property
    def _moments(self) -> Moments:
        return Moments(self.column, spread=self.decode is None)

    @property
    def _values(self) -> Values:
        return Values(self.column, limit=DISTINCT, top=TOP)


def _edges(low: float, high: float) -> tuple[float, ...]:
    """Edges of BINS bins of equal width, the last of them exactly the extremes; one bin if there is one value."""
    if low == high:
        return (float(low), float(high))
    share = np.arange(BINS + 1) / BINS
    edges = np.maximum.accumulate(low * (1 - share) + high * share)  # high - low may leave float64
    return tuple(np.clip(edges, float(low), float(high)).tolist())


def _cut(value: Any) -> Any:
    return value[: TEXT - 3] + "..." if isinstance(value, str) and len(value) > TEXT else value
