"""What can be done to a table: create, append, replace, replace partitions. Each is one commit.

All take the receipts of files that workers have written, and say how the table changes in one atomic step.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import columns, log
from pipelines.warehouse.commit import Change, Committed, commit
from pipelines.warehouse.file import Receipt
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.partition import encode_all
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["append", "create", "replace", "replace_partitions"]


def create(
    uri: str, schema: pa.Schema, partition_by: Sequence[str] = (), *, lineage: Lineage | None = None
) -> Committed:
    """An empty table; nothing if it is there with these columns (`append` and `replace` create it, too).

    Log entries are kept for 90 days, there are no deletion vectors, and the protocol is one that Spark reads.

    Raises: SchemaMismatch if the table is there with other columns.
    """
    if log.exists(uri):
        snapshot = Snapshot.open(uri)
        _check_same(uri, snapshot, schema, partition_by)
        return Committed(snapshot.version, already=True)
    lineage = lineage or Lineage(run="create")
    return append(uri, (), key="create", schema=schema, partition_by=partition_by, lineage=lineage)


def append(
    uri: str,
    receipts: Sequence[Receipt],
    *,
    key: str,
    schema: pa.Schema,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    transactions: Iterable[str] = (),
    rows_out: int | None = None,
    evolve: bool = False,
) -> Committed:
    """Add files. `schema` and `partition_by` are the declared ones: they must be the table's.

    With `evolve` there may be further nullable columns beside those of the table, which gets them in the same commit.
    """
    ids = dict.fromkeys(transactions)

    def plan(_: Snapshot | None) -> Change:
        return Change(
            operation="append",
            add=receipts,
            schema=schema,
            partition_by=partition_by,
            evolve=evolve,
            rows_out=rows_out,
            transactions=ids,
        )

    return commit(uri, key=key, plan=plan, lineage=lineage)


def replace(
    uri: str,
    receipts: Sequence[Receipt],
    *,
    key: str,
    schema: pa.Schema,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    transactions: Iterable[str] = (),
    rows_out: int | None = None,
    schema_change: bool = False,
) -> Committed:
    """Put files in the place of all others. Columns and partitioning may change, with `schema_change`.

    A build (with a fingerprint) is judged by that alone, so A, B, A is three commits.
    """
    ids = dict.fromkeys(transactions)

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is not None and not schema_change:
            _check_same(uri, snapshot, schema, partition_by)
        return Change(
            operation="replace",
            add=receipts,
            remove=() if snapshot is None else snapshot.files(),
            schema=schema,
            partition_by=partition_by,
            whole=True,
            rows_out=rows_out,
            transactions=ids,
        )

    return commit(uri, key=key, plan=plan, lineage=lineage, once=lineage.fingerprint is None)


def replace_partitions(
    uri: str,
    receipts: Sequence[Receipt],
    *,
    key: str,
    partitions: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    partition_by: Sequence[str],
    lineage: Lineage,
    transactions: Iterable[str] = (),
    rows_out: int | None = None,
) -> Committed:
    """Put files in the place of those of some partitions, each given with all its values: {"day": date(2026, 1, 5)}.

    Raises: SchemaMismatch also for a file of a partition that is not replaced.
    """
    replaced = [_values(uri, schema, partition_by, given) for given in partitions]
    for receipt in receipts:
        if receipt["partition"] not in replaced:
            raise SchemaMismatch(
                f"{uri}: file {receipt['path']!r} is of partition {receipt['partition']}, expected one of {replaced}; "
                "add its partition, or leave the file out"
            )

    ids = dict.fromkeys(transactions)

    def plan(snapshot: Snapshot | None) -> Change:
        live = () if snapshot is None else snapshot.files()
        return Change(
            operation="replace_partitions",
            add=receipts,
            remove=[file for file in live if encode_all(schema, file.partition) in replaced],
            schema=schema,
            partition_by=partition_by,
            rows_out=rows_out,
            transactions=ids,
        )

    return commit(uri, key=key, plan=plan, lineage=lineage)


def _values(
    uri: str, schema: pa.Schema, partition_by: Sequence[str], given: Mapping[str, Any]
) -> dict[str, str | None]:
    if set(given) != set(partition_by) or not partition_by:
        raise SchemaMismatch(
            f"{uri}: partition {dict(given)}, expected a value for each of {list(partition_by)}; name them all"
        )
    return encode_all(schema, given)


def _check_same(uri: str, snapshot: Snapshot, schema: pa.Schema, partition_by: Sequence[str]) -> None:
    found = columns.difference(schema, snapshot.schema)
    if found is None and list(partition_by) != list(snapshot.partition_by):
        found = f"partitioned by {list(partition_by)}, expected {list(snapshot.partition_by)}"
    if found:
        raise SchemaMismatch(
            f"{uri}: {found} as in the table; replace it with schema_change=True to change the table"
        )
