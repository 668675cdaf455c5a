"""The point-in-time join: each row with the newest row of another table that was known by then.

Within one key the other rows lie in the order of time; a binary search finds the one that counts. Keys and times
together are one number per row, so that one search answers all rows of a part.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.fields import ORDERED, combined, kind_of, numpy_of
from pipelines.integrate import Join, Joined, attached, broadcast_side
from pipelines.matching import Index, index_of, shown_keys
from pipelines.spans import UNITS
from pipelines.stage import Beside, Exchange, Map, Rows, Side, Stage
from pipelines.storage import TableRef

__all__ = ["AsOf", "JoinAsOf"]


@dataclass(frozen=True, kw_only=True)
class JoinAsOf:
    """Adds columns of that row of another table, with the same `by`, whose `on` is nearest in one direction.

    "backward" takes the latest that is not later, "forward" the earliest that is not earlier, "nearest" the nearer of
    the two (the earlier, if both are as near). `exact = false` leaves out equal times. A row farther away than
    `tolerance` ("90s", "2h", "7d"; a number for numbers) is none. Two rows of the other table with the same key and
    time are an error, or the first or last of them counts (ties). A missing key or time finds nothing.
    """

    do: ClassVar[str] = "join_asof"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    with_: str
    on: str | dict[str, str]
    by: tuple[str, ...] | dict[str, str] = ()
    direction: Literal["backward", "forward", "nearest"] = "backward"
    tolerance: str | float | None = None
    exact: bool = True
    ties: Literal["error", "first", "last"] = "error"
    how: Literal["left", "inner"] = "left"
    columns: tuple[str, ...] | None = None
    prefix: str = ""
    unmatched: Literal["keep", "quarantine"] = "keep"
    move: Literal["auto", "broadcast", "exchange"] = "auto"

    def __post_init__(self) -> None:
        if isinstance(self.on, Mapping) and len(self.on) != 1:
            raise SpecError('join_asof: on names one column: on = "at", or on = { at = "valid_from" }')
        if self.move == "exchange" and not self.by:
            raise SpecError('join_asof: move = "exchange" needs by = [...], the key by which rows meet')

    @property
    def keys(self) -> dict[str, str]:
        """This table's key columns and the other's."""
        return dict(self.by) if isinstance(self.by, Mapping) else {name: name for name in self.by}

    @property
    def times(self) -> tuple[str, str]:
        """This table's column that orders the rows, and the other's."""
        return next(iter(self.on.items())) if isinstance(self.on, Mapping) else (self.on, self.on)

    @property
    def order(self) -> tuple[tuple[str, ...], str, str]:
        """How the other table's rows lie: its keys, its column of times, and which of equal ones counts."""
        return tuple(self.keys.values()), self.times[1], self.ties

    @property
    def tables(self) -> tuple[str, ...]:
        """The other table."""
        return (self.with_,)

    def beside(self, other: TableRef) -> "AsOf":
        """The join with a version of the other table, or before a run with its coming columns."""
        return AsOf(self, other)


@dataclass(frozen=True)
class AsOf:
    """A point-in-time join whose other side is known: a step."""

    settings: JoinAsOf
    other: TableRef

    @property
    def tables(self) -> tuple[str, ...]:
        """The other table."""
        return self.settings.tables

    @functools.cached_property
    def joined(self) -> Joined:
        """What it has in common with a join by equal keys: columns, unmatched rows."""
        one = self.settings
        join = Join(
            with_=one.with_,
            on=one.keys | dict([one.times]),
            cardinality="m:1",
            how=one.how,
            columns=one.columns,
            prefix=one.prefix,
            unmatched=one.unmatched,
            move=one.move if one.by else "broadcast",
        )
        return Joined(join, self.other)

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The columns of this table and those taken over."""
        built = self.joined.build(schema)
        self.stage(schema)
        return built

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map with a broadcast, else an Exchange of both tables by the key."""
        mine, _ = self.settings.times
        params: dict[str, Any] = {"asof": self}
        if mine in schema.names:
            arrow = schema.field(mine).type
            if kind_of(arrow) not in ORDERED:
                raise SpecError(f"join_asof: {mine!r} is {arrow}, expected {', '.join(ORDERED)}")
            params["within"] = _tolerance(self.settings.tolerance, kind_of(arrow))
        name = f"join_asof {self.settings.with_}"
        if not self.way()[0]:
            return Map(name, asof_part, params)
        keys = self.settings.keys
        beside = Beside(self.other, tuple(keys.values()), self.joined.columns(), whole=False)
        return Exchange(name, tuple(keys), asof_bucket, params, alone=True, beside=beside)

    def way(self) -> tuple[bool, str]:
        """Whether both tables move, and why."""
        return self.joined.way() if self.settings.by else (False, "there is no key by which rows could meet")


def asof_part(table: pa.Table, *, asof: AsOf, within: float | None) -> Rows:
    """One part of this table with the partners of its rows, from the broadcast."""
    other, timeline = _broadcast(asof.other, asof.joined.columns(), *asof.settings.order)
    return _attached(table, asof, within, other, timeline)


def asof_bucket(table: pa.Table, *, asof: AsOf, within: float | None, side: Side) -> Rows:
    """The rows of one bucket of both tables."""
    return _attached(
        table, asof, within, side.rows, _timeline(asof.other.name, side.rows, *asof.settings.order)
    )


@dataclass(frozen=True)
class _Timeline:
    """The other rows that can be found, ordered by key and time."""

    index: Index | None
    times: np.ndarray  # distinct, ascending
    codes: np.ndarray  # (key, place of the time + 1) as one number, ascending, each once
    rows: np.ndarray  # of each code, in the other table
    span: int  # codes of one key

    def groups(self, keys: Sequence[pa.ChunkedArray], rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the key of each row, and whether it is there."""
        if self.index is None:
            return np.zeros(rows, np.int64), np.ones(rows, bool)
        first, count = self.index.partners(keys)
        return np.where(count > 0, first, 0), count > 0


@functools.lru_cache(maxsize=8)
def _broadcast(
    other: TableRef, columns: tuple[str, ...], keys: tuple[str, ...], theirs: str, ties: str
) -> tuple[pa.Table, _Timeline]:
    table = broadcast_side(other, columns)
    return table, _timeline(other.name, table, keys, theirs, ties)


def _timeline(name: str, other: pa.Table, keys: tuple[str, ...], theirs: str, ties: str) -> _Timeline:
    moments, known = _moments(other[theirs])
    index = index_of([other[key] for key in keys]) if keys else None
    groups = np.zeros(len(moments), np.int64)
    if index is not None:
        first, count = index.partners([other[key] for key in keys])
        groups, known = np.where(count > 0, first, 0), known & (count > 0)
    rows = np.flatnonzero(known)
    times, place = np.unique(moments[rows], return_inverse=True)
    span = len(times) + 2
    codes = groups[rows] * span + place + 1
    order = np.argsort(codes, kind="stable")
    codes, rows = codes[order], rows[order]
    same = codes[1:] == codes[:-1]
    if same.any():
        if ties == "error":
            row = int(rows[1:][same][0])
            raise InputError(
                f"join_asof with {name!r}: {int(same.sum()):,} of its rows have the key and the time of another, e.g. "
                f'{shown_keys(other, [*keys, theirs], row)}; deduplicate it, or say which counts: ties = "last"'
            )
        pick = np.concatenate([[True], ~same] if ties == "first" else [~same, [True]])
        codes, rows = codes[pick], rows[pick]
    return _Timeline(index, times, codes, rows, span)


def _moments(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Times as numbers: microseconds, days, or the numbers themselves; and where there is one."""
    values = combined(column)
    kind = kind_of(values.type)
    if kind == "timestamp":
        values = values.cast(pa.timestamp("us"), safe=False).view(pa.int64())
    elif kind == "date":
        values = values.cast(pa.date32()).view(pa.int32()).cast(pa.int64())
    else:
        values = values.cast(pa.float64() if kind == "float" else pa.int64(), safe=False)
    known = numpy_of(pc.is_valid(values))
    moments = numpy_of(pc.fill_null(values, pa.scalar(0, values.type)))
    if kind == "float":
        known = known & np.isfinite(moments)
    return moments, known


def _attached(
    table: pa.Table, asof: AsOf, within: float | None, other: pa.Table, timeline: _Timeline
) -> Rows:
    settings = asof.settings
    moments, known = _moments(table[settings.times[0]])
    groups, there = timeline.groups([table[name] for name in settings.keys], len(moments))
    known &= there
    earlier = later = np.full(len(moments), -1)
    if settings.direction != "forward" and len(timeline.codes):
        place = np.searchsorted(timeline.times, moments, "right" if settings.exact else "left")
        earlier = np.searchsorted(timeline.codes, groups * timeline.span + place, "right") - 1
    if settings.direction != "backward" and len(timeline.codes):
        place = np.searchsorted(timeline.times, moments, "left" if settings.exact else "right")
        later = np.searchsorted(timeline.codes, groups * timeline.span + place + 1, "left")
    before, to_before = _distance(timeline, earlier, groups, known, moments, within)
    after, to_after = _distance(timeline, later, groups, known, moments, within)
    found = np.where(before & (~after | (to_before <= to_after)), earlier, np.where(after, later, -1))
    rows = np.zeros(len(found), np.int64)
    matched = found >= 0
    rows[matched] = timeline.rows[found[matched]]
    return attached(table, asof.joined, other, rows, matched.astype(np.int64), np.arange(other.num_rows))


def _distance(
    timeline: _Timeline,
    place: np.ndarray,
    groups: np.ndarray,
    known: np.ndarray,
    moments: np.ndarray,
    within: float | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the row at each place may be the partner, and how far away it is."""
    good = known & (place >= 0) & (place < len(timeline.codes))
    codes = (
        timeline.codes[np.where(good, place, 0)] if len(timeline.codes) else np.zeros(len(place), np.int64)
    )
    good &= codes // timeline.span == groups
    times = timeline.times[np.where(good, codes % timeline.span - 1, 0)] if len(timeline.times) else moments
    away = np.abs(moments - times)
    if within is not None:
        good &= away <= within
    return good, away


def _tolerance(given: str | float | None, kind: str) -> float | None:
    """The tolerance in the numbers of `_moments`."""
    if given is None:
        return None
    if kind in {"integer", "float"}:
        if isinstance(given, str) or given < 0:
            raise SpecError(f"join_asof: tolerance = {given!r}: expected a number that is not negative")
        return given
    match = re.fullmatch(r"(\d+)\s*(us|ms|s|min|h|d)", given) if isinstance(given, str) else None
    if match is None:
        raise SpecError(
            f'join_asof: tolerance = {given!r}: expected a time such as "90s", "15min", "2h" or "7d"'
        )
    time = int(match[1]) * UNITS[match[2]]
    if kind == "date":
        if time % UNITS["d"]:
            raise SpecError(f"join_asof: tolerance = {given!r}: dates are whole days apart")
        return time // UNITS["d"]
    return time
