"""The rows that were set aside, in a table beside their table: `<table>__quarantine`, one partition per batch.

A table and its quarantine are two logs, and no commit spans both. What joins them is the batch key: a batch's
rejects are committed first, its rows second, and a reader takes only the rejects of batches that its snapshot of the
table holds. So at every moment, and after a crash between the two, (table, quarantine) is one consistent state:

    rejects of B committed          B's rows committed             leftovers removed
    ------------|---------------------------|------------------------------|---------->
    readers:  A, rejects of A  (B unseen)   |  B, rejects of B  (A unseen) |  the same

Rejects are committed by replacing the partition of their batch: a retry, also of a batch that was thrown away
meanwhile (A, B, A), cannot double them. A transaction id `meant:<key>` has as its number the version of the table
from which on they are meant, so that `tidy` knows rejects still waiting for their rows from those left behind
by a replaced batch, by version numbers alone, without a clock. Rejects whose rows never came go after a week.
"""

import time
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.failpoints import failpoint
from pipelines.stage import LINE, OFFSET, REJECTS, SOURCE
from pipelines.warehouse import log
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.file import LiveFile, Receipt, read_file, write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.names import quarantine_uri
from pipelines.warehouse.snapshot import RELEASED, Snapshot

__all__ = [
    "BATCH",
    "SCHEMA",
    "carry_rejects",
    "commit_rejects",
    "live_rejects",
    "read_quarantine",
    "tidy",
    "write_rejects",
]

BATCH = "batch"
SCHEMA = pa.schema(
    [
        pa.field(BATCH, pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.string()),
        pa.field("source", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("offset", pa.int64()),
        *(REJECTS.field(name) for name in ("rule", "column", "message", "raw")),
    ]
)
"""A rejected row: batch key, run, step that rejected it, path, line and byte of its origin, and why."""
_KEPT_S = 7 * 24 * 3600.0


def write_rejects(
    uri: str,
    rejects: pa.Table,
    *,
    key: str,
    run: str,
    step: str | pa.Array,
    sources: Sequence[str],
    part: int = 0,
) -> Receipt:
    """Write rejects (stage.REJECTS) of one part of the table at `uri`; runs on a worker, nobody sees them yet.

    `sources` are the paths that the numbers in `_source` stand for; `step` is one name, or one per row.
    """
    names = pa.DictionaryArray.from_arrays(
        pc.cast(_flat(rejects[SOURCE]), pa.int32()), pa.array(sources, pa.string())
    )
    steps = pa.repeat(pa.scalar(step), rejects.num_rows) if isinstance(step, str) else step
    table = pa.table(
        [
            pa.repeat(pa.scalar(run), rejects.num_rows),
            steps,
            names.cast(pa.string()),
            rejects[LINE],
            rejects[OFFSET],
            *(rejects[name] for name in ("rule", "column", "message", "raw")),
        ],
        names=SCHEMA.names[1:],
    )
    return write_file(quarantine_uri(uri), table, partition={BATCH: key}, schema=SCHEMA, part=part)


def commit_rejects(uri: str, receipts: Sequence[Receipt], *, key: str, lineage: Lineage) -> Committed | None:
    """Commit the rejects of a batch, before its rows; None if there are none and never were.

    Raises: as `commit`.
    """
    place = quarantine_uri(uri)
    if not receipts and not _of_batch(place, key):
        return None
    failpoint("quarantine.before_commit")
    meant = Snapshot.open(uri).version + 1 if log.exists(uri) else 0

    def plan(snapshot: Snapshot | None) -> Change:
        old = () if snapshot is None else snapshot.files({BATCH: key})
        return _change("quarantine", receipts, old, {_meant(key): meant})

    committed = commit(place, key=f"quarantine:{key}", plan=plan, lineage=lineage, once=False)
    failpoint("quarantine.after_commit")
    return committed


def carry_rejects(uri: str, batches: Mapping[str, Mapping[str, str | None]], *, key: str) -> list[Receipt]:
    """Write the rejects of other batches again as part of batch `key`, which takes their place in its commit.

    `batches`: by batch, the sources whose rejects are no longer meant (None), or have another path now.
    """
    place = quarantine_uri(uri)
    if not log.exists(place):
        return []
    snapshot = Snapshot.open(place)
    rows = [SCHEMA.empty_table()]
    for batch, sources in batches.items():
        for file in snapshot.files({BATCH: batch}):
            table = read_file(file, SCHEMA)
            gone = [source for source, path in sources.items() if path is None]
            table = table.filter(pc.invert(pc.is_in(table["source"], value_set=pa.array(gone, pa.string()))))
            names = [sources.get(name) or name for name in table["source"].to_pylist()]
            rows.append(_with(table, "source", pa.array(names, pa.string())))
    found = pa.concat_tables(rows)
    if not found.num_rows:
        return []
    found = _with(found, BATCH, pa.repeat(pa.scalar(key), found.num_rows))
    return [write_file(place, found, partition={BATCH: key}, schema=SCHEMA)]


def read_quarantine(uri: str, version: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The rejects that belong to the table's content at a version (newest by default)."""
    wanted = SCHEMA.names if columns is None else list(columns)
    schema = pa.schema([SCHEMA.field(name) for name in wanted])
    files = live_rejects(uri, version)
    return pa.concat_tables(
        [schema.empty_table(), *(read_file(file, SCHEMA, names=wanted) for file in files)]
    )


def live_rejects(uri: str, version: int | None = None) -> tuple[LiveFile, ...]:
    """The files of `read_quarantine`."""
    place = quarantine_uri(uri)
    if not (log.exists(uri) and log.exists(place)):
        return ()
    quarantine = Snapshot.open(place)  # before the table: its rejects are committed before its rows
    table = Snapshot.open(uri, version)
    return tuple(file for file in quarantine.files() if table.holds(file.partition[BATCH]))


def tidy(uri: str, *, lineage: Lineage) -> int:
    """Remove the rejects of batches that are no longer in the table; how many rows they were.

    Not needed for a right answer of `read_quarantine`: it is for those who read the quarantine's files themselves.
    """
    place = quarantine_uri(uri)
    if not (log.exists(uri) and log.exists(place)) or not _dead(uri, Snapshot.open(place)):
        return 0
    removed: list[LiveFile] = []

    def plan(snapshot: Snapshot | None) -> Change:
        removed[:] = () if snapshot is None else _dead(uri, snapshot)
        return _change("tidy", (), removed, {})

    commit(place, key="tidy", plan=plan, lineage=lineage, once=False)
    return sum(file.rows for file in removed)


def _change(
    operation: str, add: Sequence[Receipt], remove: Sequence[LiveFile], ids: Mapping[str, int | None]
) -> Change:
    return Change(
        operation=operation, add=add, remove=remove, schema=SCHEMA, partition_by=[BATCH], transactions=ids
    )


def _meant(key: str) -> str:
    return f"meant:{key}"


def _of_batch(place: str, key: str) -> bool:
    return log.exists(place) and bool(Snapshot.open(place).files({BATCH: key}))


def _dead(uri: str, quarantine: Snapshot) -> list[LiveFile]:
    table = Snapshot.open(uri)
    oldest_ms = (time.time() - _KEPT_S) * 1000
    dead = []
    for file in quarantine.files():
        key = file.partition[BATCH]
        committed = table.transaction(key)
        waiting = committed is None or RELEASED < committed < (quarantine.transaction(_meant(key)) or 0)
        if not table.holds(key) and (not waiting or file.modified_ms < oldest_ms):
            dead.append(file)
    return dead


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
