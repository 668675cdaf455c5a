"""Changing rows by key in a large table: workers rewrite the files that hold the keys, the driver swaps them at once.

    source -> ranges of the key, sorted, no key twice                                   (pipelines.warehouse.ranges)
    live file, ranges that overlap its bounds -> the file without the rows that are hit   take out, a task per file
    range, rows that were hit -> new rows -> files                                        put in, a task per range

What is put in follows from a rule: the new rows alone (upsert), nothing (delete), old and new rows together (a
dimension with history: there the keys of which the source says nothing new are left out first, so that their files stay). A task holds one file and one range. After a lost race the plan is made again; files that
were rewritten and are still live are not rewritten again. What was written in vain is for `vacuum`.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.places import place, remove_tree
from pipelines.warehouse import keys, loads, ranges
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.disk import refused
from pipelines.warehouse.file import LiveFile
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.names import SYSTEM
from pipelines.warehouse.ranges import Range
from pipelines.warehouse.rewriting import Job, Memory, News, Rule, count
from pipelines.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["REWRITES", "Changed", "News", "Rule", "merge", "workspace"]

REWRITES = "rewrites"


@dataclass(frozen=True)
class Changed:
    """A committed change of rows: what it did to how many."""

    version: int
    already: bool
    counts: Mapping[str, int]
    files_removed: int
    files_added: int


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
    news: News | None = None,
    evolve: bool = False,
) -> Changed:
    """Take out the rows whose key is in the source, put in what the rule makes of both, in one commit.

    `by` finds the rows; `source_key` (as `by` if not given) must be distinct in the source. With `whole` the rule is
    given whole rows of the table, of which several may have a key; else their keys alone, each of which must be there once.

    Raises: SchemaMismatch for keys that are null or not distinct; else as `commit`.
    """
    keys.check(uri, schema, by)
    done = Memory()
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
            job = Job(uri, tuple(schema), tuple(by), work, runner, operation)
            found: Sequence[Range] = done.ranges
            counts: dict[str, int] = {}
            if news is not None:
                found, counts = done.narrowed(job, live, news)
            hit = done.take_out(job, live, found, whole=whole)
            put = done.put_in(job, found, hit, rule, partition_by, one=not whole)
            add = [taken.kept for taken in hit if taken.kept] + [r for one in put for r in one.receipts]
            for one in put:
                count(counts, one.counts)
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
