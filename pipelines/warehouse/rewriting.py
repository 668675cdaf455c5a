"""What workers do when rows change by key: look for keys, take rows out, put rows in; and what of it need not be done again.

A task holds one file and one range of the source, as `merge` says. What was done stays done when the plan is made again
after a lost race: a file that is still live is not rewritten a second time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import keys, ranges
from pipelines.warehouse.file import LiveFile, Receipt, part_of, read_file, write_file
from pipelines.warehouse.lean import lean
from pipelines.warehouse.ranges import Range
from pipelines.warehouse.split import write_rows

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["Job", "Memory", "News", "Rule", "Taken", "count"]

_PLACE = "__place"  # of the row's key in its range

Rule = Callable[[pa.Table, pa.Table], tuple[pa.Table, Mapping[str, int]]]
"""From the rows of the table that have a key of the source, and the source's rows, to the rows that the table gets and
what is counted. A value that can be sent to a worker."""

News = Callable[[pa.Table, pa.Table], tuple[np.ndarray, Mapping[str, int]]]
"""From the same to which rows of the source change anything, and what is counted of those that do not."""


@dataclass(frozen=True)
class _TakeOut:
    uri: str
    file: LiveFile
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    ranges: tuple[Range, ...]
    whole: bool  # whether the rule needs whole rows, not their places alone
    work: str
    rewrite: bool = True  # or only look at the rows that are hit


@dataclass(frozen=True)
class Taken:
    """What a file has of the keys that are looked for."""

    file: LiveFile
    hits: int
    kept: Receipt | None
    found: str | None  # file with the rows that were hit, a record batch per range
    ranges: tuple[int, ...]


@dataclass(frozen=True)
class _Narrow:
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    range: Range
    found: tuple[tuple[str, int], ...]
    news: News
    work: str


@dataclass(frozen=True)
class _PutIn:
    uri: str
    columns: tuple[pa.Field, ...]
    partition_by: tuple[str, ...]
    by: tuple[str, ...]
    range: Range
    found: tuple[tuple[str, int], ...]  # file, number of the record batch
    rule: Rule
    one: bool  # whether the table may have a key once only


@dataclass(frozen=True)
class _Put:
    receipts: list[Receipt]
    rows: int
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    """What all tasks of a merge share."""

    uri: str
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    work: str
    runner: "Runner"
    operation: str


class Memory:
    """What is done and stays done when the plan is made again."""

    def __init__(self) -> None:
        self.ranges: list[Range] | None = None
        self.taken: dict[tuple[Any, ...], Taken] = {}
        self.narrow: dict[tuple[Any, ...], tuple[Range | None, Mapping[str, int]]] = {}
        self.put: dict[tuple[Any, ...], _Put] = {}

    def take_out(
        self,
        job: Job,
        live: Sequence[LiveFile],
        found: Sequence[Range],
        *,
        whole: bool,
        rewrite: bool = True,
    ) -> list[Taken]:
        """The files that hold keys of some ranges, without them; or with `rewrite` false only their rows."""
        near = [(file, _near(file, found, job.by)) for file in live]
        asked = {
            (file.path, rewrite, *(one.path for one in some)): _TakeOut(
                job.uri, file, job.columns, job.by, some, whole, job.work, rewrite
            )
            for file, some in near
            if some
        }
        missing = [key for key in asked if key not in self.taken]
        made = job.runner.run(
            _take_out, [asked[key] for key in missing], name=f"{job.operation}-take-out", progress=_quiet
        )
        self.taken.update(zip(missing, made, strict=True))
        return [self.taken[key] for key in asked if self.taken[key].hits]

    def narrowed(self, job: Job, live: Sequence[LiveFile], news: News) -> tuple[list[Range], dict[str, int]]:
        """The ranges with the rows alone that change anything, and what is counted of the others."""
        hit = self.take_out(job, live, self.ranges or (), whole=True, rewrite=False)
        asked = {
            (one.path, found): _Narrow(job.columns, job.by, one, found, news, job.work)
            for one in self.ranges or ()
            for found in [_found(hit, one)]
        }
        missing = [key for key in asked if key not in self.narrow]
        made = job.runner.run(
            _narrow, [asked[key] for key in missing], name=f"{job.operation}-compare", progress=_quiet
        )
        self.narrow.update(zip(missing, made, strict=True))
        counts: dict[str, int] = {}
        for key in asked:
            count(counts, self.narrow[key][1])
        return [one for key in asked if (one := self.narrow[key][0]) is not None], counts

    def put_in(
        self,
        job: Job,
        ranges: Sequence[Range],
        hit: Sequence[Taken],
        rule: Rule,
        partition_by: Sequence[str],
        *,
        one: bool,
    ) -> list[_Put]:
        """What the rule makes of each range and of what was taken out for it."""
        asked = {
            (each.path, found): _PutIn(
                job.uri, job.columns, tuple(partition_by), job.by, each, found, rule, one
            )
            for each in ranges
            for found in [_found(hit, each)]
        }
        missing = [key for key in asked if key not in self.put]
        made = job.runner.run(
            _put_in, [asked[key] for key in missing], name=f"{job.operation}-put-in", progress=_quiet
        )
        self.put.update(zip(missing, made, strict=True))
        return [self.put[key] for key in asked]


def _found(hit: Sequence[Taken], one: Range) -> tuple[tuple[str, int], ...]:
    """Where the rows are that were taken out for a range."""
    return tuple((t.found, t.ranges.index(one.number)) for t in hit if t.found and one.number in t.ranges)


def count(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add what was counted to `counts`."""
    for name, number in more.items():
        counts[name] = counts.get(name, 0) + number


def _near(file: LiveFile, found: Sequence[Range], by: Sequence[str]) -> tuple[Range, ...]:
    """The ranges whose keys may be in the file, by its bounds and partition."""
    return tuple(one for one in found if all(_overlaps(file, one, name) for name in by))


def _overlaps(file: LiveFile, one: Range, name: str) -> bool:
    if name in file.partition:
        value = file.partition[name]
        return value is not None and bool(one.low[name] <= value <= one.high[name])
    low, high = file.stats.get(f"min.{name}"), file.stats.get(f"max.{name}")
    return not ((high is not None and high < one.low[name]) or (low is not None and low > one.high[name]))


@lean()
def _take_out(asked: _TakeOut) -> Taken:
    schema = pa.schema(asked.columns)
    there = read_file(asked.file, schema, names=asked.by)
    place = np.full(there.num_rows, -1)
    number = np.full(there.num_rows, -1)
    for one in asked.ranges:
        first, wanted = keys.near(ranges.read_batch(one.keys, 0), asked.by[0], there)
        at = keys.positions(there, wanted, asked.by)
        place = np.where(at >= 0, at + first, place)
        number = np.where(at >= 0, one.number, number)
    hit = number >= 0
    hits = int(hit.sum())
    numbers = tuple(one.number for one in asked.ranges)
    if not hits:
        return Taken(asked.file, 0, None, None, numbers)
    kept = None
    if hits < len(hit) and asked.rewrite:
        rest = read_file(asked.file, schema, keep=pa.array(~hit))
        kept = write_file(
            asked.uri, rest, partition=asked.file.partition, schema=schema, part=part_of(asked.file.path)
        )
        del rest
    places = pa.array(place[hit])
    rows = pa.table({_PLACE: places})
    if asked.whole:
        rows = read_file(asked.file, schema, keep=pa.array(hit)).append_column(_PLACE, places)
    pieces = [rows.filter(pa.array(number[hit] == one)) for one in numbers]
    return Taken(asked.file, hits, kept, ranges.write_batches(asked.work, rows.schema, pieces), numbers)


def _narrow(asked: _Narrow) -> tuple[Range | None, Mapping[str, int]]:
    new = ranges.read_batch(asked.range.path, 0)
    rows, counts = asked.news(_old(asked.columns, asked.found), new)
    if not rows.any():
        return None, counts
    return ranges.range_of(asked.range.number, new.filter(pa.array(rows)), asked.by, asked.work), counts


def _old(columns: Sequence[pa.Field], found: Sequence[tuple[str, int]]) -> pa.Table:
    """Whole rows that were taken out, without the places of their keys."""
    tables = [ranges.read_batch(path, number).drop_columns([_PLACE]) for path, number in found]
    return pa.concat_tables([pa.schema(columns).empty_table(), *tables])


@lean()
def _put_in(asked: _PutIn) -> _Put:
    schema = pa.schema(asked.columns)
    new = ranges.read_batch(asked.range.path, 0)
    if asked.one:
        found = [ranges.read_batch(path, number) for path, number in asked.found]
        places = np.concatenate([np.zeros(0, np.int64), *(table[_PLACE].to_numpy() for table in found)])
        values, times = np.unique(places, return_counts=True)
        if (times > 1).any():
            key = new.select(list(asked.by)).slice(int(values[times > 1][0]), 1).to_pylist()[0]
            raise SchemaMismatch(
                f"{asked.uri}: key {key} is in the table twice, expected once; deduplicate the table by {list(asked.by)}"
            )
        old = new.select(list(asked.by)).take(pa.array(values))
    else:
        old = _old(asked.columns, asked.found)
    rows, counts = asked.rule(old, new)
    receipts = write_rows(
        asked.uri, rows, schema=schema, partition_by=asked.partition_by, part=asked.range.number
    )
    return _Put(receipts, rows.num_rows, counts)


def _quiet(*_: object) -> None:
    return None
