"""Tables that a run changes by key, as the pipeline file says it: rows are updated or added, or their history is kept.

load = "upsert"                 # rows of earlier runs stay, those with the same key are replaced
key = ["customer_id"]

history = "scd2"                # no row is replaced: it gets an end, and the new one a beginning
valid_from = "updated_at"       # becomes valid_from; beside it valid_to and is_current
deleted = "closed"              # a true value ends the key; the column is not kept
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines import difference, warehouse
from pipelines.errors import SchemaMismatch, SpecError
from pipelines.warehouse import keys

if TYPE_CHECKING:
    from pipelines.engine import Runner
    from pipelines.made import Made
    from pipelines.spec import Table

__all__ = ["commit", "problems", "table_schema"]


def problems(table: "Table") -> Iterator[tuple[str, str]]:
    """Settings that do not go together, and what is wrong."""
    if table.load == "upsert" and not table.key:
        yield "load", 'load = "upsert" needs key = ["..."], the columns that tell one row from another'
    if table.load == "replace" and table.key:
        yield "key", 'key is for load = "upsert" or "append"; add that, or write a check = "unique"'
    if table.on_duplicate and not (table.load == "append" and table.key):
        yield (
            "on_duplicate",
            'on_duplicate is for load = "append" with a key: what a row is whose key is there already',
        )
    if table.history and table.load != "upsert":
        yield "history", 'history is for load = "upsert" with a key'
    if table.history and not table.valid_from:
        yield (
            "history",
            'history = "scd2" needs valid_from = "...", the column with the time from which a row holds',
        )
    for name in ("valid_from", "deleted"):
        if getattr(table, name) and not table.history:
            yield name, f'{name} is for history = "scd2"'


def table_schema(table: "Table", schema: pa.Schema) -> pa.Schema:
    """The columns of the table for rows of these columns.

    Raises: SpecError if they cannot have this key or history.
    """
    if table.load == "replace" or not table.key:
        return schema
    try:
        keys.check("key", schema, table.key)
        if not table.history or not table.valid_from:
            return schema
        return warehouse.history_schema(schema, at=table.valid_from, deleted=table.deleted)
    except SchemaMismatch as error:
        raise SpecError(str(error)) from error


def commit(
    table: "Table",
    uri: str,
    made: "Made",
    *,
    key: str,
    lineage: warehouse.Lineage,
    runner: "Runner",
    ids: Iterable[str],
    evolve: bool = False,
) -> warehouse.Changed:
    """Bring the rows of files that are not committed into the table; the rejects of the build before are forgotten.

    Raises: as `warehouse.upsert`.
    """
    _check_types(uri, made.schema)
    warehouse.commit_evidence(uri, made.evidence, key=key, lineage=lineage)
    warehouse.commit_rejects(uri, made.rejects, key=key, lineage=lineage)
    before = _before(uri, key)
    if table.history and table.valid_from:
        return warehouse.record_changes(
            uri,
            made.files,
            columns=made.schema,
            key=key,
            by=table.key,
            at=table.valid_from,
            deleted=table.deleted,
            partition_by=table.partition_by,
            lineage=lineage,
            runner=runner,
            transactions=ids,
            release=before,
            evolve=evolve,
        )
    return warehouse.upsert(
        uri,
        made.files,
        key=key,
        by=table.key,
        schema=made.schema,
        partition_by=table.partition_by,
        lineage=lineage,
        runner=runner,
        transactions=ids,
        release=before,
        evolve=evolve,
    )


def _check_types(uri: str, schema: pa.Schema) -> None:
    """Raises: SchemaMismatch for a column of another type than in the table: its rows stay, and files keep one type."""
    there = warehouse.Snapshot.open(uri).schema if warehouse.log.exists(uri) else pa.schema([])
    names = [one.name for one in schema if one.name in there.names and there.field(one.name).type != one.type]
    if names:
        before, now = (pa.schema([found.field(name) for name in names]) for found in (there, schema))
        head = f"{uri}: columns of another type than in the table, which is changed by key and keeps its rows"
        fix = "cast them in a step to the type of the table, or name another table, which is then built from all of its files"
        raise SchemaMismatch(difference.told(head, difference.described(before, now), fix))


def _before(uri: str, key: str) -> list[str]:
    """The batch key of the build before."""
    build = warehouse.newest_build(uri)
    return [build.record["key"]] if build is not None and build.record["key"] != key else []
