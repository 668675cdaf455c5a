"""A table beside a table, `<table><suffix>`: what was found on the way to its rows, one partition per batch.

A table and its companion are two logs, and no commit spans both. What joins them is the batch key: what a batch has
for the companion is committed first, its rows second, and a reader takes only what belongs to batches that its
snapshot of the table holds. So at every moment, and after a crash between the two, both are one consistent state:

    rejects of B committed          B's rows committed             leftovers removed
    ------------|---------------------------|------------------------------|---------->
    readers:  A, rejects of A  (B unseen)   |  B, rejects of B  (A unseen) |  the same

It is committed by replacing the partition of its batch: a retry, also of a batch that was thrown away meanwhile
(A, B, A), cannot double it. A transaction id `meant:<key>` has as its number the version of the table from which on
it is meant, so that `tidy` knows what still waits for its rows from what was left behind by a replaced batch, by
version numbers alone, without a clock. What waits for rows that never came goes after a week.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.failpoints import failpoint
from pipelines.warehouse import log
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.file import LiveFile, Receipt, read_file, write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.snapshot import RELEASED, Snapshot

__all__ = ["BATCH", "Companion"]

BATCH = "batch"
_KEPT_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Companion:
    """One kind of table beside tables; `name` says what its commits are, `schema` begins with the batch."""

    name: str
    suffix: str
    schema: pa.Schema

    def place(self, uri: str) -> str:
        """The folder of the one of the table at `uri`."""
        return uri.rstrip("/") + self.suffix

    def write(self, uri: str, table: pa.Table, *, key: str, part: int = 0) -> Receipt:
        """Write what one part has for it; runs on a worker, nobody sees it yet."""
        return write_file(self.place(uri), table, partition={BATCH: key}, schema=self.schema, part=part)

    def commit(
        self, uri: str, receipts: Sequence[Receipt], *, key: str, lineage: Lineage
    ) -> Committed | None:
        """Commit what a batch has for it, before its rows; None if there is nothing and never was.

        Raises: as `commit`.
        """
        place = self.place(uri)
        if not receipts and not (log.exists(place) and Snapshot.open(place).files({BATCH: key})):
            return None
        failpoint(f"{self.name}.before_commit")
        meant = Snapshot.open(uri).version + 1 if log.exists(uri) else 0

        def plan(snapshot: Snapshot | None) -> Change:
            old = () if snapshot is None else snapshot.files({BATCH: key})
            return self._change(self.name, receipts, old, {_meant(key): meant})

        committed = commit(place, key=f"{self.name}:{key}", plan=plan, lineage=lineage, once=False)
        failpoint(f"{self.name}.after_commit")
        return committed

    def read(self, uri: str, version: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """What belongs to the table's content at a version (newest by default)."""
        wanted = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        files = self.live(uri, version)
        return pa.concat_tables(
            [schema.empty_table(), *(read_file(file, self.schema, names=wanted) for file in files)]
        )

    def live(self, uri: str, version: int | None = None) -> tuple[LiveFile, ...]:
        """The files of `read`."""
        place = self.place(uri)
        if not (log.exists(uri) and log.exists(place)):
            return ()
        beside = Snapshot.open(place)  # before the table: it is committed before the rows
        table = Snapshot.open(uri, version)
        return tuple(file for file in beside.files() if table.holds(file.partition[BATCH]))

    def tidy(self, uri: str, *, lineage: Lineage) -> int:
        """Remove what belongs to batches that are no longer in the table; how many rows it was.

        Not needed for a right answer of `read`: it is for those who read the files themselves.
        """
        place = self.place(uri)
        if not (log.exists(uri) and log.exists(place)) or not _dead(uri, Snapshot.open(place)):
            return 0
        removed: list[LiveFile] = []

        def plan(snapshot: Snapshot | None) -> Change:
            removed[:] = () if snapshot is None else _dead(uri, snapshot)
            return self._change("tidy", (), removed, {})

        commit(place, key="tidy", plan=plan, lineage=lineage, once=False)
        return sum(file.rows for file in removed)

    def _change(
        self,
        operation: str,
        add: Sequence[Receipt],
        remove: Sequence[LiveFile],
        ids: Mapping[str, int | None],
    ) -> Change:
        return Change(
            operation=operation,
            add=add,
            remove=remove,
            schema=self.schema,
            partition_by=[BATCH],
            transactions=ids,
        )


def _meant(key: str) -> str:
    return f"meant:{key}"


def _dead(uri: str, beside: Snapshot) -> list[LiveFile]:
    table = Snapshot.open(uri)
    oldest_ms = (time.time() - _KEPT_S) * 1000
    dead = []
    for file in beside.files():
        key = file.partition[BATCH]
        committed = table.transaction(key)
        waiting = committed is None or RELEASED < committed < (beside.transaction(_meant(key)) or 0)
        if not table.holds(key) and (not waiting or file.modified_ms < oldest_ms):
            dead.append(file)
    return dead
