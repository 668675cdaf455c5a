"""Time series: rows with a time, in partitions by day or hour; what is missing, what was known when, and coarser steps.

Late rows are no special case: they are appended to the partition of their time, as files beside those that are there.
All three questions read only files whose times can matter, and give the same for any number of workers and any cut of
the rows into files.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.warehouse import keys, ranges
from pipelines.warehouse.columns import UTC
from pipelines.warehouse.feed import same_values
from pipelines.warehouse.file import LiveFile, read_file
from pipelines.warehouse.merge import workspace
from pipelines.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["AGGREGATES", "as_of", "gaps", "resample"]

AGGREGATES = ("count", "sum", "mean", "min", "max", "first", "last")
_BUCKET, _FILE, _ROW = "__bucket", "__file", "__row"


@dataclass(frozen=True)
class _Look:
    """One file, and what to look at in it."""

    number: int
    file: LiveFile
    columns: tuple[pa.Field, ...]
    time: str
    by: tuple[str, ...]
    since_us: int | None
    until_us: int | None
    every_us: int = 1

    def rows(self) -> pa.Table:
        """The rows with a time in the span, and the number of their step."""
        table = read_file(self.file, pa.schema(self.columns))
        return _stepped(table, self.time, self.every_us, self.since_us, self.until_us)


def gaps(
    snapshot: Snapshot,
    time: str,
    *,
    every: dt.timedelta,
    by: Sequence[str] = (),
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    runner: "Runner",
) -> pa.Table:
    """Steps of a series in which there is no row: from, to (exclusive) and how many steps are missing, by key and time.

    Between the first and the last row of each key, or from `since` to `until` where given. A key without any row is
    not known and has no gap.

    Raises: SpecError for a column that is no time in UTC or not there, or a step that is not positive.
    """
    every_us, edges = _span(snapshot, time, by, every, since, until)
    looks = _looks(snapshot, [*by, time], time, by, *edges, every_us)
    found = runner.run(_runs, looks, name="gaps", progress=_quiet)
    first = None if edges[0] is None else edges[0] // every_us
    stop = None if edges[1] is None else -(-edges[1] // every_us)
    empty = pa.schema(
        [*(snapshot.schema.field(name) for name in by), ("start", pa.int64()), ("end", pa.int64())]
    )
    runs = pa.concat_tables([empty.empty_table(), *found])
    return _between(keys.sorted_by(runs, [*by, "start"]).combine_chunks(), by, every_us, first, stop)


def resample(
    snapshot: Snapshot,
    time: str,
    *,
    every: dt.timedelta,
    values: Mapping[str, Sequence[str]],
    by: Sequence[str] = (),
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    runner: "Runner",
) -> pa.Table:
    """The series in coarser steps: for each key and step that has rows the wanted aggregates, as `<column>_<aggregate>`.

    Nulls count as nothing. Sums are taken in the order of the values, so they do not depend on files or workers.

    Raises: as `gaps`; SpecError for an aggregate or a column that is not there.
    """
    every_us, edges = _span(snapshot, time, by, every, since, until)
    for column, wanted in values.items():
        _require(snapshot, column)
        for name in wanted:
            if name not in AGGREGATES:
                raise SpecError(f"aggregate {name!r}{did_you_mean(name, AGGREGATES)}")
    names = list(dict.fromkeys([*by, time, *values]))
    looks = _looks(snapshot, names, time, by, *edges, every_us)
    schema = pa.schema([snapshot.schema.field(name) for name in names])
    with workspace(snapshot.uri) as work:
        paths, number = ranges.split_files(
            [look.file for look in looks],
            schema,
            [*by, time],
            work=work,
            runner=runner,
            align=lambda bounds: _aligned(bounds, time, every_us),
        )
        asked = [
            _Resample(tuple(paths), place, time, tuple(by), every_us, edges, dict(values))
            for place in range(number)
        ]
        found = runner.run(_resample, asked, name="resample", progress=_quiet)
    empty = _resampled(schema.empty_table(), time, by, every_us, (None, None), values)
    return pa.concat_tables([empty, *found])


def as_of(
    snapshot: Snapshot,
    time: str,
    at: dt.datetime,
    *,
    by: Sequence[str],
    columns: Sequence[str] | None = None,
    runner: "Runner",
) -> pa.Table:
    """For each key the last row whose time is not after `at`: what was known then; of one time the last row in order.

    Raises: as `gaps`.
    """
    _, (_, until_us) = _span(snapshot, time, by, dt.timedelta(microseconds=1), None, at)
    wanted = snapshot.schema.names if columns is None else list(columns)
    for name in wanted:
        _require(snapshot, name)
    names = list(dict.fromkeys([*by, time, *wanted]))
    looks = _looks(snapshot, names, time, by, None, (until_us or 0) + 1, 1)
    if not looks:
        return pa.schema([snapshot.schema.field(name) for name in wanted]).empty_table()
    found: pa.Table = runner.fold(_last, looks, _later, name="as-of", progress=_quiet)
    return keys.sorted_by(found, by).select(wanted)


@dataclass(frozen=True)
class _Resample:
    paths: tuple[str, ...]
    number: int
    time: str
    by: tuple[str, ...]
    every_us: int
    edges: tuple[int | None, int | None]
    values: Mapping[str, Sequence[str]]


def _span(
    snapshot: Snapshot,
    time: str,
    by: Sequence[str],
    every: dt.timedelta,
    since: dt.datetime | None,
    until: dt.datetime | None,
) -> tuple[int, tuple[int | None, int | None]]:
    for name in (time, *by):
        _require(snapshot, name)
    if (kind := snapshot.schema.field(time).type) != UTC:
        raise SpecError(
            f"{snapshot.uri}: column {time!r} is {kind}, expected {UTC}; name a column with times"
        )
    if every <= dt.timedelta(0):
        raise SpecError(f"step {every}, expected a positive one")
    since_us, until_us = (None if one is None else _microseconds(one) for one in (since, until))
    return every // dt.timedelta(microseconds=1), (since_us, until_us)


def _microseconds(moment: dt.datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _require(snapshot: Snapshot, name: str) -> None:
    if name not in snapshot.schema.names:
        raise SpecError(
            f"{snapshot.uri}: there is no column {name!r}{did_you_mean(name, snapshot.schema.names)}"
        )


def _looks(
    snapshot: Snapshot,
    names: Sequence[str],
    time: str,
    by: Sequence[str],
    since_us: int | None,
    until_us: int | None,
    every_us: int,
) -> list[_Look]:
    columns = tuple(snapshot.schema.field(name) for name in names)
    return [
        _Look(number, file, columns, time, tuple(by), since_us, until_us, every_us)
        for number, file in enumerate(snapshot.files())
        if _can_matter(file, time, since_us, until_us)
    ]


def _can_matter(file: LiveFile, time: str, since_us: int | None, until_us: int | None) -> bool:
    low, high = file.stats.get(f"min.{time}"), file.stats.get(f"max.{time}")
    if since_us is not None and high is not None and _microseconds(high) < since_us:
        return False
    return not (until_us is not None and low is not None and _microseconds(low) >= until_us)


def _stepped(
    table: pa.Table, time: str, every_us: int, since_us: int | None, until_us: int | None
) -> pa.Table:
    table = table.filter(pc.is_valid(table[time]))
    at = table[time].cast(pa.int64()).to_numpy()
    inside = np.ones(len(at), bool)
    if since_us is not None:
        inside &= at >= since_us
    if until_us is not None:
        inside &= at < until_us
    return table.append_column(_BUCKET, pa.array(at // every_us)).filter(pa.array(inside))


def _runs(look: _Look) -> pa.Table:
    """Unbroken runs of steps that have rows, by key."""
    rows = look.rows().select([*look.by, _BUCKET])
    groups = rows.group_by([*look.by, _BUCKET], use_threads=False).aggregate([])
    groups = keys.sorted_by(groups, [*look.by, _BUCKET]).combine_chunks()
    if not groups.num_rows:
        return groups.rename_columns([*look.by, "start"]).append_column("end", groups[_BUCKET])
    bucket = groups[_BUCKET].to_numpy()
    begins = _new_key(groups, look.by) | np.append([True], bucket[1:] != bucket[:-1] + 1)
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(bucket)) - 1
    first = groups.take(pa.array(starts)).select(list(look.by))
    return first.append_column("start", pa.array(bucket[starts])).append_column(
        "end", pa.array(bucket[ends] + 1)
    )


def _new_key(rows: pa.Table, by: Sequence[str]) -> np.ndarray:
    if not by or not rows.num_rows:
        return np.append([True], np.zeros(max(0, rows.num_rows - 1), bool))[: rows.num_rows]
    return np.append([True], ~same_values(rows.slice(1), rows.slice(0, rows.num_rows - 1), by))


def _between(
    runs: pa.Table, by: Sequence[str], every_us: int, first: int | None, stop: int | None
) -> pa.Table:
    start, end = (runs[name].to_numpy() for name in ("start", "end"))
    new = _new_key(runs, by)
    group = np.cumsum(new)
    width = int(end.max() - start.min()) + 1 if len(start) else 1
    low = int(start.min()) if len(start) else 0
    reached = np.maximum.accumulate(end - low + group * width) + low - group * width  # of the key, so far
    before = np.append([0], reached[:-1])[: len(start)]
    before = np.where(new, start if first is None else first, before)
    found = [(np.flatnonzero(before < start), before, start)]
    if stop is not None and len(start):
        last = np.append(new[1:], [True])
        found.append((np.flatnonzero(last & (reached < stop)), reached, np.full(len(start), stop)))
    places = np.concatenate([one[0] for one in found])
    begin = np.concatenate([one[1][one[0]] for one in found])
    finish = np.concatenate([one[2][one[0]] for one in found])
    table = runs.take(pa.array(places.astype(np.int64))).select(list(by))
    table = table.append_column("from", pa.array(begin * every_us).cast(UTC))
    table = table.append_column("to", pa.array(finish * every_us).cast(UTC))
    table = table.append_column("missing", pa.array(finish - begin))
    return keys.sorted_by(table, [*by, "from"])


def _aligned(bounds: pa.Table, time: str, every_us: int) -> pa.Table:
    """Bounds at the beginning of a step, so that a step of a key lies in one range; nulls first, as they sort last."""
    at = pc.fill_null(bounds[time].cast(pa.int64()), 0).to_numpy() // every_us * every_us
    place = bounds.schema.get_field_index(time)
    moved = bounds.set_column(place, bounds.schema.field(place), pa.array(at).cast(UTC))
    return keys.sorted_by(moved, bounds.column_names)


def _resample(asked: _Resample) -> pa.Table:
    rows = ranges.read_range(asked.paths, asked.number, [*asked.by, asked.time])
    return _resampled(rows, asked.time, asked.by, asked.every_us, asked.edges, asked.values)


def _resampled(
    rows: pa.Table,
    time: str,
    by: Sequence[str],
    every_us: int,
    edges: tuple[int | None, int | None],
    values: Mapping[str, Sequence[str]],
) -> pa.Table:
    rows = _stepped(rows, time, every_us, *edges)
    group = [*by, _BUCKET]
    heads = keys.sorted_by(rows.group_by(group, use_threads=False).aggregate([]), group)
    made = heads.select(list(by)).append_column(
        time, pa.array(heads[_BUCKET].to_numpy() * every_us).cast(UTC)
    )
    for column, wanted in values.items():
        by_value = keys.sorted_by(rows, list(dict.fromkeys([*group, column])))
        by_time = keys.sorted_by(rows, list(dict.fromkeys([*group, time, column])))
        for name in wanted:
            ordered = by_time if name in {"first", "last"} else by_value
            found = ordered.group_by(group, use_threads=False).aggregate([(column, name)])
            found = keys.sorted_by(found, group)
            made = made.append_column(f"{column}_{name}", found[f"{column}_{name}"])
    return made


def _last(look: _Look) -> pa.Table:
    rows = look.rows()
    rows = rows.append_column(_FILE, pa.array(np.full(rows.num_rows, look.number)))
    rows = rows.append_column(_ROW, pa.array(np.arange(rows.num_rows)))
    return _later_of(rows, look.by, look.time)


def _later(one: pa.Table, other: pa.Table) -> pa.Table:
    # the names of key and time travel in the metadata of the state, because a merge gets two states alone
    said = one.schema.metadata or {}
    by = tuple(name for name in said[b"by"].decode().split("\0") if name)
    return _later_of(pa.concat_tables([one, other]), by, said[b"time"].decode())


def _later_of(rows: pa.Table, by: Sequence[str], time: str) -> pa.Table:
    ordered = keys.sorted_by(rows, [*by, time, _FILE, _ROW]).combine_chunks()
    last = np.append(_new_key(ordered, by)[1:], [True])[: ordered.num_rows]
    kept = ordered.filter(pa.array(last))
    return kept.replace_schema_metadata({b"by": "\0".join(by).encode(), b"time": time.encode()})


def _quiet(*_: Any) -> None:
    return None
