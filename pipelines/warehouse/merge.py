"""Changing rows by key in a large table: workers rewrite the files that hold the keys, the driver swaps them at once.

    source -> ranges of the key, sorted, no key twice                                   (pipelines.warehouse.ranges)
    live file, ranges that overlap its bounds -> the file without the rows that are hit   take out, a task per file
    range, rows that were hit -> new rows -> files                                        put in, a task per range

What is put in follows from a rule: the new rows alone (upsert), nothing (delete), old and new rows together (a
dimension with history). A task holds one file and one range. After a lost race the plan is made again; files that
were rewritten and are still live are not rewritten again. What was written in vain is for `vacuum`.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import SchemaMismatch
from pipelines.places import place, remove_tree
from pipelines.warehouse import keys, loads, ranges
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.disk import refused
from pipelines.warehouse.file import LiveFile, Receipt, part_of, read_file, write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.names import SYSTEM
from pipelines.warehouse.ranges import Range
from pipelines.warehouse.snapshot import Snapshot
from pipelines.warehouse.split import write_rows

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["REWRITES", "Changed", "Rule", "merge", "workspace"]

REWRITES = "rewrites"
_PLACE = "__place"  # of the row's key in its range

Rule = Callable[[pa.Table, pa.Table], tuple[pa.Table, Mapping[str, int]]]
"""From the rows of the table that have a key of the source, and the source's rows, to the rows that the table gets and
what is counted. A value that can be sent to a worker."""


@dataclass(frozen=True)
class Changed:
    """A committed change of rows: what it did to how many."""

    version: int
    already: bool
    counts: Mapping[str, int]
    files_removed: int
    files_added: int


@dataclass(frozen=True)
class _TakeOut:
    uri: str
    file: LiveFile
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    ranges: tuple[Range, ...]
    whole: bool  # whether the rule needs whole rows, not their places alone
    work: str


@dataclass(frozen=True)
class _Taken:
    file: LiveFile
    hits: int
    kept: Receipt | None
    found: str | None  # file with the rows that were hit, a record batch per range
    ranges: tuple[int, ...]


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


def merge(
    uri: str,
    source: pa.Table | Sequence[LiveFile],
    *,
    operation: str,
    key: str,
    by: Sequence[str],
    rule: Rule,
    schema: pa.Schema,
    source_schema: pa.Schema,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    runner: "Runner",
    transactions: Mapping[str, int | None],
    source_key: Sequence[str] | None = None,
    whole: bool = False,
    evolve: bool = False,
) -> Changed:
    """Take out the rows whose key is in the source, put in what the rule makes of both, in one commit.

    `by` finds the rows; `source_key` (as `by` if not given) must be distinct in the source. With `whole` the rule is
    given whole rows of the table, of which several may have a key; else their keys alone, each of which must be there once.

    Raises: SchemaMismatch for keys that are null or not distinct; else as `commit`.
    """
    keys.check(uri, schema, by)
    done = _Memory()
    last: dict[str, Any] = {}
    with workspace(uri) as work:

        def plan(snapshot: Snapshot | None) -> Change:
            if done.ranges is None:
                done.ranges = ranges.distinct_ranges(
                    source,
                    source_schema,
                    by,
                    unique=source_key or by,
                    where=f"{uri}: source",
                    work=work,
                    runner=runner,
                )
            live = () if snapshot is None else snapshot.files()
            asked = [
                _TakeOut(uri, file, tuple(schema), tuple(by), near, whole, work)
                for file in live
                if file.path not in done.taken and (near := _near(file, done.ranges, by))
            ]
            for taken in runner.run(_take_out, asked, name=f"{operation}-take-out", progress=_quiet):
                done.taken[taken.file.path] = taken
            hit = [done.taken[f.path] for f in live if f.path in done.taken and done.taken[f.path].hits]
            put = done.put_in(uri, schema, partition_by, by, hit, rule, runner, operation, one=not whole)
            add = [taken.kept for taken in hit if taken.kept] + [r for one in put for r in one.receipts]
            counts: dict[str, int] = {}
            for one in put:
                for name, number in one.counts.items():
                    counts[name] = counts.get(name, 0) + number
            last.update(counts=counts, removed=len(hit), added=len(add))
            moves = {}
            if snapshot is not None:
                moves = loads.moved(snapshot, [((t.file,), [t.kept] if t.kept else []) for t in hit])
            untouched = sum(taken.file.rows - taken.hits for taken in hit)
            return Change(
                operation=operation,
                add=add,
                remove=[taken.file for taken in hit],
                schema=schema,
                partition_by=partition_by,
                evolve=evolve,
                rows_out=untouched + sum(one.rows for one in put),
                transactions={**transactions, **moves},
                counts=counts,
            )

        committed = commit(uri, key=key, plan=plan, lineage=lineage, once=lineage.fingerprint is None)
    return changed(committed, last)


def changed(committed: Committed, last: Mapping[str, Any]) -> Changed:
    """What a commit did; nothing if it was in before."""
    if not last:
        return Changed(committed.version, committed.already, {}, 0, 0)
    return Changed(committed.version, committed.already, last["counts"], last["removed"], last["added"])


@contextmanager
def workspace(uri: str) -> Iterator[str]:
    """A folder beside the table for what passes between tasks; gone afterwards."""
    table = place(uri)
    folder = table.parent / SYSTEM / REWRITES / f"{table.name}-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise refused(str(folder), 0, error) from error
    try:
        yield str(folder)
    finally:
        remove_tree(folder)


class _Memory:
    """What is done and stays done when the plan is made again."""

    def __init__(self) -> None:
        self.ranges: list[Range] | None = None
        self.taken: dict[str, _Taken] = {}
        self.put: dict[tuple[int, tuple[tuple[str, int], ...]], _Put] = {}

    def put_in(
        self,
        uri: str,
        schema: pa.Schema,
        partition_by: Sequence[str],
        by: Sequence[str],
        hit: Sequence[_Taken],
        rule: Rule,
        runner: "Runner",
        operation: str,
        *,
        one: bool,
    ) -> list[_Put]:
        asked = []
        for each in self.ranges or ():
            found = tuple(
                (t.found, t.ranges.index(each.number)) for t in hit if t.found and each.number in t.ranges
            )
            asked.append(_PutIn(uri, tuple(schema), tuple(partition_by), tuple(by), each, found, rule, one))
        missing = [one_ for one_ in asked if (one_.range.number, one_.found) not in self.put]
        for one_, put in zip(
            missing, runner.run(_put_in, missing, name=f"{operation}-put-in", progress=_quiet), strict=True
        ):
            self.put[one_.range.number, one_.found] = put
        return [self.put[one_.range.number, one_.found] for one_ in asked]


def _near(file: LiveFile, found: Sequence[Range], by: Sequence[str]) -> tuple[Range, ...]:
    """The ranges whose keys may be in the file, by its bounds and partition."""
    return tuple(one for one in found if all(_overlaps(file, one, name) for name in by))


def _overlaps(file: LiveFile, one: Range, name: str) -> bool:
    if name in file.partition:
        value = file.partition[name]
        return value is not None and bool(one.low[name] <= value <= one.high[name])
    low, high = file.stats.get(f"min.{name}"), file.stats.get(f"max.{name}")
    return not ((high is not None and high < one.low[name]) or (low is not None and low > one.high[name]))


def _take_out(asked: _TakeOut) -> _Taken:
    schema = pa.schema(asked.columns)
    there = read_file(asked.file, schema, names=asked.by)
    place = np.full(there.num_rows, -1)
    number = np.full(there.num_rows, -1)
    for one in asked.ranges:
        wanted = ranges.read_batch(one.path, 0, asked.by)
        at = keys.positions(there, wanted, asked.by)
        place = np.where(at >= 0, at, place)
        number = np.where(at >= 0, one.number, number)
    hit = number >= 0
    hits = int(hit.sum())
    numbers = tuple(one.number for one in asked.ranges)
    if not hits:
        return _Taken(asked.file, 0, None, None, numbers)
    rows = read_file(asked.file, schema) if asked.whole or hits < len(hit) else there
    kept = None
    if hits < len(hit):
        rest = rows.filter(pa.array(~hit))
        kept = write_file(
            asked.uri, rest, partition=asked.file.partition, schema=schema, part=part_of(asked.file.path)
        )
    rows = (rows if asked.whole else there.select([])).append_column(_PLACE, pa.array(place))
    pieces = [rows.filter(pa.array(number == one)) for one in numbers]
    return _Taken(asked.file, hits, kept, ranges.write_batches(asked.work, rows.schema, pieces), numbers)


def _put_in(asked: _PutIn) -> _Put:
    schema = pa.schema(asked.columns)
    new = ranges.read_batch(asked.range.path, 0)
    found = [ranges.read_batch(path, number) for path, number in asked.found]
    places = np.concatenate([np.zeros(0, np.int64), *(table[_PLACE].to_numpy() for table in found)])
    if asked.one:
        values, times = np.unique(places, return_counts=True)
        if (times > 1).any():
            key = new.select(list(asked.by)).slice(int(values[times > 1][0]), 1).to_pylist()[0]
            raise SchemaMismatch(
                f"{asked.uri}: key {key} is in the table twice, expected once; deduplicate the table by {list(asked.by)}"
            )
        old = new.select(list(asked.by)).take(pa.array(values))
    else:
        old = pa.concat_tables([schema.empty_table(), *(table.drop_columns([_PLACE]) for table in found)])
    rows, counts = asked.rule(old, new)
    receipts = write_rows(
        asked.uri, rows, schema=schema, partition_by=asked.partition_by, part=asked.range.number
    )
    return _Put(receipts, rows.num_rows, counts)


def _quiet(*_: object) -> None:
    return None
