"""The commit: plan on the newest version, check, compare-and-swap; again until it is in, exactly once per key.

open newest --> is it in already? --yes--> done
     ^               | no
     |               v
     +--lost race-- plan -> check receipts and schema -> log entry --> done
                                                          | unknown outcome
                                                          v
                                             is the key in the log now? yes: done, no: PartFailed
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.errors import CommitConflict, SchemaMismatch
from pipelines.failpoints import failpoint
from pipelines.warehouse import columns, fitted, log, partition
from pipelines.warehouse import receipt as receipts
from pipelines.warehouse.disk import refused
from pipelines.warehouse.file import LiveFile, Receipt
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.snapshot import BORN, LAST, REPLACED, Snapshot, build_id
from pipelines.warehouse.split import check_partitions

__all__ = ["Change", "Committed", "Plan", "commit", "current_fingerprint_is"]

_SLEEP_S, _LONGEST_SLEEP_S = 0.005, 1.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a commit is to do with the version that it was planned on."""

    operation: str
    add: Sequence[Receipt] = ()
    remove: Sequence[LiveFile] = ()
    schema: pa.Schema
    partition_by: Sequence[str]
    data_change: bool = True
    whole: bool = False  # the files added are all the content, columns included: earlier batches are gone
    evolve: bool = False  # `schema` may have further nullable columns beside those of the table
    rows_out: int | None = None  # by the ledger
    transactions: Mapping[str, int | None] = field(default_factory=dict)  # further ids; None: the new version
    counts: Mapping[str, int] = field(
        default_factory=dict
    )  # rows inserted, updated, deleted: for the history


@dataclass(frozen=True)
class Committed:
    """The version that holds the batch, and whether it was there before."""

    version: int
    already: bool


Plan = Callable[[Snapshot | None], Change]
"""From the newest version (None: no table yet) to what to do. Called anew after each lost race."""


@dataclass
class _Attempt:
    """What one call of `commit` knows about the table."""

    uri: str
    key: str
    once: bool
    fingerprint: str | None
    start: int | None = field(default=None)  # the version that the first attempt saw; -1: no table

    def newest(self) -> Snapshot | None:
        snapshot = Snapshot.open(self.uri) if log.exists(self.uri) else None
        if self.start is None:
            self.start = -1 if snapshot is None else snapshot.version
        return snapshot

    def done(self, snapshot: Snapshot | None) -> Committed | None:
        if snapshot is None:
            return None
        number = snapshot.transaction(self.key)
        if number is not None and self.start is not None and number > self.start:
            return Committed(
                number, already=True
            )  # by ourselves with an unknown outcome, or by a twin of this run
        if self.fingerprint and snapshot.is_built_from(self.fingerprint):
            return Committed(snapshot.transaction(LAST) or 0, already=True)
        if number is not None and self.once and snapshot.holds(self.key):
            return Committed(number, already=True)
        return None


def commit(
    uri: str,
    *,
    key: str,
    plan: Plan,
    lineage: Lineage,
    once: bool = True,
    attempts: int = 100,
) -> Committed:
    """Do what `plan` says, once per `key`, in one log entry.

    A batch whose key is part of the content adds nothing (with `once`; else the plan must give the same however often
    it is done). A build (`lineage.fingerprint`) whose content is already there unchanged adds nothing.

    Raises: SchemaMismatch, LedgerImbalance, PartFailed: nothing was committed. CommitConflict after `attempts` races.
    """
    attempt = _Attempt(uri, key, once, lineage.fingerprint)
    for number in range(attempts):
        snapshot = attempt.newest()
        if done := attempt.done(snapshot):
            return done
        change = plan(snapshot)
        _check(uri, change, snapshot)
        version = 0 if snapshot is None else snapshot.version + 1
        given = {name: version if n is None else n for name, n in change.transactions.items()}
        marks = _marks(lineage, version, whole=change.whole, born=snapshot is None)
        marks |= fitted.mark(uri, lineage.fitted, snapshot, whole=change.whole)
        ids = {key: version} | marks | given
        if committed := _write(attempt, snapshot, change, ids, lineage):
            failpoint("commit.after_log")
            return committed
        time.sleep(random.random() * min(_LONGEST_SLEEP_S, _SLEEP_S * 2 ** min(number, 10)))
    raise CommitConflict(f"{uri}: batch {key!r} lost {attempts} races to other writers; run it again")


def current_fingerprint_is(uri: str, fingerprint: str) -> bool:
    """Whether the table's newest content was built from this and not changed since."""
    return log.exists(uri) and Snapshot.open(uri).is_built_from(fingerprint)


def _check(uri: str, change: Change, snapshot: Snapshot | None) -> None:
    columns.check(change.schema, change.partition_by)
    live = set()
    if snapshot is not None:
        log.check_protocol(snapshot._handle, write=True)  # noqa: SLF001 - the snapshot's own package
        live = {file.path for file in snapshot.files()}
        _check_columns(uri, change, snapshot)
    removed = {file.path for file in change.remove}
    if foreign := sorted(removed - live):
        raise SchemaMismatch(
            f"{uri}: files {foreign[:3]} are to be removed but not in the table; plan on its newest version"
        )
    if change.whole and removed != live:
        raise SchemaMismatch(
            f"{uri}: a whole replacement keeps {sorted(live - removed)[:3]}, expected none; remove all"
        )
    receipts.check(
        uri,
        change.add,
        schema=change.schema,
        partition_by=change.partition_by,
        live=live,
        rows_out=change.rows_out,
    )
    check_partitions(uri, change.partition_by, _partitions(change, snapshot, removed))


def _partitions(change: Change, snapshot: Snapshot | None, removed: set[str]) -> int:
    """How many partitions the table has afterwards, if this adds files to any."""
    if not change.partition_by or not change.add:
        return 0
    new = {tuple(receipt["partition"].get(name) for name in change.partition_by) for receipt in change.add}
    if snapshot is None or list(snapshot.partition_by) != list(change.partition_by):
        return len(new)
    kept = [file.partition for file in snapshot.files() if file.path not in removed]
    distinct = {tuple(values.values()): values for values in kept}.values()
    old = {tuple(partition.encode_all(snapshot.schema, values).values()) for values in distinct}
    return len(old | new)


def _check_columns(uri: str, change: Change, snapshot: Snapshot) -> None:
    if change.whole:
        return
    compare = columns.evolution if change.evolve else columns.difference
    found = compare(change.schema, snapshot.schema)
    if list(change.partition_by) != list(snapshot.partition_by):
        found = f"partitioned by {list(change.partition_by)}, expected {list(snapshot.partition_by)}"
    if found:
        raise SchemaMismatch(
            f"{uri}: {found} as in the table; cast the rows, or replace the table with schema_change=True"
        )


def _marks(lineage: Lineage, version: int, *, whole: bool, born: bool) -> dict[str, int]:
    marks: dict[str, int] = {}
    if lineage.fingerprint:
        marks |= {build_id(lineage.fingerprint): version, LAST: version}
    if whole:
        marks[REPLACED] = version
    if born:
        marks[BORN] = random.getrandbits(62)
    return marks


def _write(
    attempt: _Attempt, snapshot: Snapshot | None, change: Change, ids: Mapping[str, int], lineage: Lineage
) -> Committed | None:
    """The version that was made; None after a lost race."""
    from deltalake.exceptions import DeltaError  # noqa: PLC0415 - slow to import, not for workers

    entry = log.Entry(
        add=change.add,
        remove=change.remove,
        schema=change.schema,
        partition_by=change.partition_by,
        transactions=ids,
        metadata=_metadata(attempt.key, change, lineage),
        data_change=change.data_change,
    )
    try:
        failpoint("commit.before_log")
        log.write(attempt.uri, None if snapshot is None else snapshot._handle, entry)  # noqa: SLF001 - see _check
    except log.LostRaceError:
        return None
    except (OSError, DeltaError) as error:
        settled = attempt.done(attempt.newest())  # the entry may be in, whatever the answer says
        if settled is None:
            size = sum(len(str(receipt)) for receipt in change.add)
            raise refused(f"{attempt.uri}/{log.LOG}", size, error) from error
        return Committed(settled.version, already=False)
    return Committed(0 if snapshot is None else snapshot.version + 1, already=False)


def _metadata(key: str, change: Change, lineage: Lineage) -> dict[str, Any]:
    return lineage.record() | {
        "key": key,
        "operation": change.operation,
        "rows": sum(receipt["rows"] for receipt in change.add),
        "files": len(change.add),
        "bytes": sum(receipt["bytes"] for receipt in change.add),
        "removed_rows": sum(file.rows for file in change.remove),
        "removed_files": len(change.remove),
        "changed": dict(change.counts),
    }
