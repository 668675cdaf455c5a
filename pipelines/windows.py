"""Columns from the rows before (and after) in time: lags, differences, moving summaries, and whole windows as tensors.

    columns = { before = "lag(temp, 1)", level = "mean(temp, 24)", week = "mean(temp, 7d)", x = "history(temp, humidity, 24)" }

A window holds the row itself and those before it in its group, in the order of time. One of a number of rows that is
not full, or holds a missing value, gives none: as pandas does. One of a stretch of time (spans.py) holds the values that
are there. Sums are taken in the order of time, so no cut can change a bit.
"""

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import (
    NUMBER,
    ORDERED,
    combined,
    inherited,
    kind_of,
    numpy_of,
    require,
    schema_after,
    titled,
)
from pipelines.names import did_you_mean
from pipelines.spans import SPAN, SUMMARIES, Spans, moments_of, span_of
from pipelines.stage import Exchange, Rows
from pipelines.timeline import Timeline, timeline

__all__ = ["Window", "window"]

_CALL = re.compile(rf"\s*([a-z]+)\s*\(\s*([^()]*?)\s*,\s*({SPAN}|[0-9]+)\s*\)\s*")
_MOST = 10_000


@dataclass(frozen=True, kw_only=True)
class Window:
    """Adds columns made from the rows of the same group `by` before or after in the order of `order_by`.

    lag, lead and diff of a column and a number of rows; sum, mean, std, min and max over the last n rows; history of one
    or more columns over the last n rows: a float32 tensor of shape [n, columns]. sum, mean, std, min, max and count over
    the time up to the row, as in mean(price, 7d): us, ms, s, min, h or d of the first column of order_by. incomplete =
    "leave out" leaves out, and counts, rows for which one of them is missing. Without `by` all rows are one group, and meet in one task.
    """

    do: ClassVar[str] = "window"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: dict[str, str]
    order_by: tuple[str, ...]
    by: tuple[str, ...] = ()
    incomplete: Literal["keep", "leave out"] = "keep"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns, with the new ones at the end."""
        return schema_after(self.stage(schema).mapped(), schema)

    def stage(self, schema: pa.Schema) -> Exchange:
        """An Exchange by the group."""
        require(schema, self.by, step=self.do, kinds=("string", "bool", *ORDERED))
        require(schema, self.order_by, step=self.do, kinds=ORDERED)
        if not self.order_by or not self.columns:
            raise SpecError(
                'window: order_by and columns are needed: order_by = ["at"], columns = { before = "lag(price, 1)" }'
            )
        calls = {name: _parsed(name, text, schema, self.order_by[0]) for name, text in self.columns.items()}
        params = {"calls": calls, "by": self.by, "order_by": self.order_by, "incomplete": self.incomplete}
        return Exchange(titled(self.do, self.columns), self.by, window, params)


Call = tuple[str, tuple[str, ...], int, bool]
"""Function, columns, and over how much: rows, or time in the numbers of `moments_of`."""


def _parsed(name: str, text: str, schema: pa.Schema, time: str) -> Call:
    where = f"window: {name} = {text!r}"
    if name in schema.names or name.startswith("_") or not name:
        raise SpecError(f"{where}: {name!r} is there already, or not a name for a column")
    match = _CALL.fullmatch(text)
    if match is None:
        raise SpecError(
            f"{where}: expected a function of columns and a number of rows or a time, such as mean(price, 24) or mean(price, 7d)"
        )
    do, columns = match[1], tuple(one.strip() for one in match[2].split(","))
    known = {**_FUNCTIONS, **SUMMARIES}
    if do not in known:
        raise SpecError(f"{where}: there is no function {do!r}{did_you_mean(do, known)}")
    require(
        schema,
        columns,
        step=f"window {name}",
        kinds=NUMBER if do not in {"lag", "lead"} else ("string", "bool", *ORDERED),
    )
    if len(columns) > 1 and do != "history":
        raise SpecError(f"{where}: {do} takes one column")
    if not match[3].isdigit():
        return do, columns, _span(do, match[3], schema.field(time), where), True
    if do not in _FUNCTIONS:
        raise SpecError(f"{where}: {do} takes a time, such as {do}({columns[0]}, 7d)")
    rows, least = int(match[3]), 2 if do == "std" else 1
    if not least <= rows <= _MOST:
        raise SpecError(f"{where}: expected {least} to {_MOST:,} rows")
    return do, columns, rows, False


def _span(do: str, text: str, time: pa.Field, where: str) -> int:
    if do not in SUMMARIES:
        raise SpecError(f"{where}: {do} takes a number of rows; over a time are {', '.join(SUMMARIES)}")
    kind = kind_of(time.type)
    if kind not in {"date", "timestamp"}:
        raise SpecError(
            f"{where}: {time.name!r}, the first of order_by, is {time.type}, expected date or timestamp"
        )
    return span_of(text, kind, where=where)


def window(
    table: pa.Table,
    *,
    calls: Mapping[str, Call],
    by: tuple[str, ...],
    order_by: tuple[str, ...],
    incomplete: str,
) -> Rows:
    """The table with columns from other rows."""
    line = timeline(table, by, order_by)
    made = table
    whole = pa.repeat(pa.scalar(True), table.num_rows)
    for name, (do, columns, much, is_time) in calls.items():
        values, metadata = (
            (_over_time(do, table, line, columns[0], order_by[0], much), {})
            if is_time
            else _FUNCTIONS[do](table, line, columns, much)
        )
        privacy = inherited(table.schema, columns) or {}
        made = made.append_column(
            pa.field(name, values.type, metadata={**metadata, **privacy} or None), values
        )
        whole = pc.and_(whole, pc.is_valid(values))
    if incomplete == "keep":
        return Rows(made)
    kept = made.filter(whole)
    return Rows(kept, filtered=table.num_rows - kept.num_rows)


Made = tuple[pa.Array, dict[bytes, bytes]]


def _over_time(do: str, table: pa.Table, line: Timeline, column: str, time: str, span: int) -> pa.Array:
    """A summary of the values up to each row that are less than `span` old; a count is of whole numbers."""
    values, there = _series(table, line, column)
    with np.errstate(all="ignore"):  # what leaves float64 is missing
        made = SUMMARIES[do](Spans(line, moments_of(table[time])[line.rows], span, values, there))
    found = _back(table, line, made, np.ones(len(made), bool))
    return found.cast(pa.int64()) if do == "count" else found


def _moved(step: int) -> Callable[[pa.Table, Timeline, tuple[str, ...], int], Made]:
    def apply(table: pa.Table, line: Timeline, columns: tuple[str, ...], rows: int) -> Made:
        source = _source(line, step * rows)
        place = np.full(table.num_rows, -1)
        place[line.rows] = np.where(source >= 0, line.rows[source], -1)
        return combined(table[columns[0]]).take(pa.array(place, mask=place < 0)), {}

    return apply


def _source(line: Timeline, distance: int) -> np.ndarray:
    """The place `distance` before each one, -1 where it is not in the group."""
    place = np.arange(len(line.rows)) - distance
    return np.where((place >= line.first) & (place <= line.last), place, -1)


def _series(table: pa.Table, line: Timeline, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The values as float64 by place, and where there is one."""
    values = combined(table[column]).cast(pa.float64(), safe=False)
    there = numpy_of(pc.fill_null(pc.is_finite(values), fill_value=False))
    return np.where(there, numpy_of(pc.fill_null(values, 0.0)), 0.0)[line.rows], there[line.rows]


@dataclass(frozen=True)
class _Windows:
    """The last `rows` values of each place, one after the other, so that a long window costs no more memory."""

    line: Timeline
    values: np.ndarray
    rows: int

    def each(self) -> Iterator[np.ndarray]:
        """The values `rows - 1` places before each one, then one nearer, up to its own; anything where it is not full."""
        for distance in range(self.rows - 1, -1, -1):
            yield np.concatenate([np.zeros(min(distance, len(self.values))), self.values])[: len(self.values)]

    def full(self, there: np.ndarray) -> np.ndarray:
        """Where all of them are in the group, and none is missing."""
        place = np.arange(len(there))
        start = place - (self.rows - 1)
        gap = np.maximum.accumulate(np.where(there, -1, place)) if len(there) else place
        made: np.ndarray = (start >= self.line.first) & (gap < start)
        return made


def _back(table: pa.Table, line: Timeline, values: np.ndarray, full: np.ndarray) -> pa.Array:
    made, mask = np.zeros(table.num_rows), np.ones(table.num_rows, bool)
    made[line.rows], mask[line.rows] = values, ~(full & np.isfinite(values))
    return pa.array(made, mask=mask)


def _summary(
    combine: Callable[[_Windows], np.ndarray],
) -> Callable[[pa.Table, Timeline, tuple[str, ...], int], Made]:
    def apply(table: pa.Table, line: Timeline, columns: tuple[str, ...], rows: int) -> Made:
        values, there = _series(table, line, columns[0])
        windows = _Windows(line, values, rows)
        with np.errstate(all="ignore"):  # what leaves float64 is missing
            return _back(table, line, combine(windows), windows.full(there)), {}

    return apply


def _sum(windows: _Windows) -> np.ndarray:
    total = np.zeros(len(windows.values))
    for one in windows.each():
        total += one
    return total


def _mean(windows: _Windows) -> np.ndarray:
    made: np.ndarray = _sum(windows) / windows.rows
    return made


def _std(windows: _Windows) -> np.ndarray:
    mean, total = _mean(windows), np.zeros(len(windows.values))
    for one in windows.each():
        total += np.square(one - mean)
    made: np.ndarray = np.sqrt(total / (windows.rows - 1))
    return made


def _extreme(pick: Callable[..., np.ndarray]) -> Callable[[_Windows], np.ndarray]:
    return lambda windows: functools.reduce(pick, windows.each())


def _diff(table: pa.Table, line: Timeline, columns: tuple[str, ...], rows: int) -> Made:
    values, there = _series(table, line, columns[0])
    source = _source(line, rows)
    full = there & (source >= 0) & there[source] if len(source) else there
    return _back(table, line, values - values[source], full), {}


def _history(table: pa.Table, line: Timeline, columns: tuple[str, ...], rows: int) -> Made:
    shape = (rows, len(columns))
    made = np.zeros((table.num_rows, *shape), "<f4")
    full = np.ones(len(line.rows), bool)
    for place, column in enumerate(columns):
        values, known = _series(table, line, column)
        windows = _Windows(line, values, rows)
        full &= windows.full(known)
        for distance, one in enumerate(windows.each()):
            made[line.rows, distance, place] = one
    there = np.zeros(table.num_rows, bool)
    there[line.rows] = full
    bitmap = pa.array(there).buffers()[1]
    kind = pa.binary(4 * rows * len(columns))
    array = pa.FixedSizeBinaryArray.from_buffers(kind, table.num_rows, [bitmap, pa.py_buffer(made)])
    return array, {b"dtype": b"float32", b"shape": json.dumps(list(shape)).encode()}


_FUNCTIONS: dict[str, Callable[[pa.Table, Timeline, tuple[str, ...], int], Any]] = {
    "lag": _moved(1),
    "lead": _moved(-1),
    "diff": _diff,
    "sum": _summary(_sum),
    "mean": _summary(_mean),
    "std": _summary(_std),
    "min": _summary(_extreme(np.minimum)),
    "max": _summary(_extreme(np.maximum)),
    "history": _history,
}
