"""Upsert: rows whose key is in the table take the place of those, the others are added; one commit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.warehouse.file import Receipt, live
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.merge import Changed, merge
from pipelines.warehouse.snapshot import RELEASED

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["upsert"]


def upsert(
    uri: str,
    source: pa.Table | Sequence[Receipt],
    *,
    key: str,
    by: Sequence[str],
    schema: pa.Schema,
    partition_by: Sequence[str] = (),
    lineage: Lineage,
    runner: "Runner",
    transactions: Iterable[str] = (),
    release: Iterable[str] = (),
    evolve: bool = False,
) -> Changed:
    """Insert and update by key.

    The source is a table in memory, or files that workers have written with `write_file` into this table's folder and
    nobody has committed.

    `key` names the batch (done once), `by` the columns that identify a row: whole numbers, text, dates or times, never
    null, each value at most once in the source and in the table. An updated row may change its partition. `release`:
    transaction ids of batches that are no longer meant to be in the table. With `evolve` the rows may have further nullable
    columns, which the table gets in the same commit.

    Raises: SchemaMismatch for keys that are null or not distinct; else as `commit`.
    """
    given = source if isinstance(source, pa.Table) else [live(uri, receipt, schema) for receipt in source]
    return merge(
        uri,
        given,
        operation="upsert",
        key=key,
        by=by,
        rule=_new_rows,
        schema=schema,
        source_schema=schema,
        partition_by=partition_by,
        lineage=lineage,
        runner=runner,
        transactions={**dict.fromkeys(release, RELEASED), **dict.fromkeys(transactions)},
        evolve=evolve,
    )


def _new_rows(old: pa.Table, new: pa.Table) -> tuple[pa.Table, Mapping[str, int]]:
    return new, {"inserted": new.num_rows - old.num_rows, "updated": old.num_rows}
