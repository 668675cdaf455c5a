"""The Delta log of one table: the only module that commits through `deltalake`, and it does so by compare-and-swap.

`max_commit_retries=0` makes a commit fail unless it becomes exactly the version after the one its handle has read
(deltalake's own conflict resolution lets two compactions both win and every row exist twice: 1.6.4 to 1.6.6).
deltalake cannot change columns or partitioning that way: such an entry is ours (`restated`), under the same rule.

Raises: `LostRaceError` if another writer was first; OSError or DeltaError for all else, with an unknown outcome.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.access import is_url, storage_of
from pipelines.conditional import check_conditional
from pipelines.errors import SchemaMismatch
from pipelines.failpoints import failpoint
from pipelines.places import Place, place
from pipelines.warehouse import columns, partition, restated
from pipelines.warehouse.disk import put_if_absent, sync_folder
from pipelines.warehouse.file import LiveFile, Receipt

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
    from deltalake.transaction import AddAction, RemoveAction

__all__ = [
    "LOG",
    "Entry",
    "LostRaceError",
    "actions",
    "check_protocol",
    "checkpoint",
    "clean",
    "entry_path",
    "exists",
    "handle",
    "newest",
    "write",
]

LOG = "_delta_log"
CONFIGURATION = {"delta.logRetentionDuration": "interval 90 days"}


class LostRaceError(Exception):
    """Another writer made the next version. Plan again on it."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one commit says."""

    add: Sequence[Receipt]
    remove: Sequence[LiveFile]
    schema: pa.Schema
    partition_by: Sequence[str]
    transactions: Mapping[str, int]
    metadata: Mapping[str, Any]
    data_change: bool = True


def exists(uri: str) -> bool:
    """Whether there is a table with at least one version."""
    return any(
        path.suffix == ".json" or path.name == "_last_checkpoint" for path in place(uri, LOG).glob("*")
    )


def handle(uri: str, version: int | None = None) -> "DeltaTable":
    """The table as deltalake sees it."""
    from deltalake import DeltaTable  # noqa: PLC0415 - 0.1 s and 36 MB, not for workers

    return DeltaTable(uri, version=version, storage_options=_options(uri))


def entry_path(uri: str, version: int) -> Place:
    """The file of one version's entry."""
    return place(uri, LOG, f"{version:020d}.json")


def _options(uri: str) -> dict[str, str] | None:
    return storage_of(uri).options() if is_url(uri) else None


def actions(uri: str, version: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The actions of one version: ("add", {...}), ("commitInfo", {...}) and so on.

    Raises: FileNotFoundError if the log has been cleaned up to here.
    """
    for line in entry_path(uri, version).read_text("utf-8").split("\n"):
        if line:
            yield from json.loads(line).items()


def check_protocol(table: "DeltaTable", *, write: bool) -> None:
    """Nothing, if we know all that this table demands.

    Raises: SchemaMismatch.
    """
    protocol = table.protocol()
    configuration = table.metadata().configuration
    demands = [key for key in configuration if key.startswith("delta.constraints.")]
    demands += [
        f.name
        for f in table.schema().fields
        if any(k.startswith(("delta.invariants", "delta.gen")) for k in f.metadata)
    ]
    if protocol.min_reader_version > 1 or (write and (protocol.min_writer_version > 2 or demands)):
        raise SchemaMismatch(
            f"{table.table_uri}: the table demands reader {protocol.min_reader_version}, writer {protocol.min_writer_version}, "
            f"rules {demands}, expected reader 1, writer 2 and no rules (they would not be enforced here); "
            "drop the rules, or build a new table"
        )


def newest(uri: str) -> int:
    """The number of the newest version, without reading the log."""
    found = [int(path.stem) for path in place(uri, LOG).glob("*.json") if path.stem.isdigit()]
    return max(found) if found else handle(uri).version()


def clean(uri: str) -> int:
    """Remove entries that are older than 90 days and in a checkpoint; how many files. Commits do not do so by themselves.

    What they say of loaded batches stays, versions before the checkpoint cannot be opened any more.
    """
    before = sum(1 for _ in place(uri, LOG).iterdir())
    handle(uri).cleanup_metadata()
    return before - sum(1 for _ in place(uri, LOG).iterdir())


def checkpoint(uri: str) -> int:
    """Write the state of the newest version into one Parquet file, so that opening reads it and not every entry; the version.

    Every hundredth commit does so by itself. Safe beside writers: it adds a file and changes no version.
    """
    table = handle(uri)
    table.create_checkpoint()
    return table.version()


def write(uri: str, table: "DeltaTable | None", entry: Entry) -> None:
    """Make the next version of the table, or version 0 if `table` is None, with its bytes on the disk."""
    from deltalake.exceptions import CommitFailedError, DeltaError  # noqa: PLC0415 - see handle

    version = -1 if table is None else table.version()
    try:
        if table is None:
            if is_url(uri):
                check_conditional(str(place(uri).parent))
            _create(uri, entry)
        elif _restates(table, entry):
            put_if_absent(str(entry_path(uri, version + 1)), restated.content(table, entry))
        else:
            _append(table, entry)
    except (CommitFailedError, FileExistsError) as error:
        raise LostRaceError(str(error)) from error
    except DeltaError as error:
        if table is None and exists(uri):
            raise LostRaceError(str(error)) from error
        raise
    _sync(uri, version + 1)


def _restates(table: "DeltaTable", entry: Entry) -> bool:
    """Whether the columns or the partitioning are others than those of the table."""
    there = columns.from_delta(pa.schema(table.schema().to_arrow()))
    return (
        list(entry.partition_by) != table.metadata().partition_columns
        or columns.difference(there, entry.schema) is not None
    )


def _append(table: "DeltaTable", entry: Entry) -> None:
    table.create_write_transaction(
        [*_removes(entry), *_adds(entry)],
        "append",
        columns.to_delta(entry.schema),
        list(entry.partition_by),
        commit_properties=_properties(entry),
        post_commithook_properties=_hooks(),
    )


def _create(uri: str, entry: Entry) -> None:
    from deltalake import Schema  # noqa: PLC0415 - see handle
    from deltalake.transaction import create_table_with_add_actions  # noqa: PLC0415

    create_table_with_add_actions(
        uri,
        Schema.from_arrow(columns.to_delta(entry.schema)),
        _adds(entry),
        mode="error",
        partition_by=list(entry.partition_by),
        configuration=CONFIGURATION,
        storage_options=_options(uri),
        commit_properties=_properties(entry),
        post_commithook_properties=_hooks(),
    )


def _adds(entry: Entry) -> "list[AddAction]":
    from deltalake.transaction import AddAction  # noqa: PLC0415 - see handle

    now = int(time.time() * 1000)
    return [
        AddAction(
            path=receipt["path"],
            size=receipt["bytes"],
            partition_values=receipt["partition"],
            modification_time=now,
            data_change=entry.data_change,
            stats=receipt["stats"],
        )
        for receipt in entry.add
    ]


def _removes(entry: Entry) -> "list[RemoveAction]":
    from deltalake.transaction import RemoveAction  # noqa: PLC0415 - see handle

    now = int(time.time() * 1000)
    return [
        RemoveAction(
            file.path, entry.data_change, now, file.bytes, partition.encode_all(entry.schema, file.partition)
        )
        for file in entry.remove
    ]


def _properties(entry: Entry) -> "CommitProperties":
    from deltalake import CommitProperties, Transaction  # noqa: PLC0415 - see handle

    return CommitProperties(
        custom_metadata={"dlflow": dict(entry.metadata)},
        app_transactions=[Transaction(key, number) for key, number in entry.transactions.items()],
        max_commit_retries=0,
    )


def _hooks() -> "PostCommitHookProperties":
    from deltalake import PostCommitHookProperties  # noqa: PLC0415 - see handle

    return PostCommitHookProperties(
        create_checkpoint=True, cleanup_expired_logs=False
    )  # pins may need entries


def _sync(uri: str, version: int) -> None:
    """Force the entry to the disk: deltalake only links it. What a store has taken is safe."""
    failpoint("commit.before_sync")
    if is_url(uri):
        return
    descriptor = os.open(str(entry_path(uri, version)), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(str(place(uri, LOG)))
