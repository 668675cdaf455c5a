"""Delete: by key, or by a condition; workers rewrite the files that hold such rows, one commit takes them out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import PipelineError, SpecError
from pipelines.expression import expression
from pipelines.warehouse import columns, loads, prune
from pipelines.warehouse.commit import Change, commit
from pipelines.warehouse.file import LiveFile, Receipt, part_of, read_file, write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.merge import Changed, changed, merge
from pipelines.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["delete", "delete_keys"]


def delete(
    uri: str,
    where: str,
    *,
    key: str,
    lineage: Lineage,
    runner: "Runner",
    transactions: Iterable[str] = (),
) -> Changed:
    """Delete the rows for which a condition (the language of the pipeline file) is true; where it cannot be told, they stay.

    Files that cannot hold such rows, by partition and statistics, are not opened; no file is written that loses no row.

    Raises: SpecError for a condition that is none; PipelineError if there is no table; else as `commit`.
    """
    done: dict[str, _Left] = {}
    last: dict[str, Any] = {}

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is None:
            raise PipelineError(f"{uri}: there is no table here to delete from")
        check_condition(where, snapshot.schema)
        near = prune.files(snapshot, where)
        asked = [_Ask(uri, file, tuple(snapshot.schema), where) for file in near if file.path not in done]
        for left in runner.run(_leave_out, asked, name="delete", progress=lambda *_: None):
            done[left.file.path] = left
        hit = [done[file.path] for file in near if done[file.path].deleted]
        add = [left.receipt for left in hit if left.receipt]
        deleted = sum(left.deleted for left in hit)
        counts = {"deleted": deleted}
        last.update(counts=counts, removed=len(hit), added=len(add))
        return Change(
            operation="delete",
            add=add,
            remove=[left.file for left in hit],
            schema=snapshot.schema,
            partition_by=snapshot.partition_by,
            rows_out=sum(left.file.rows for left in hit) - deleted,
            transactions=dict.fromkeys(transactions)
            | loads.moved(snapshot, [((left.file,), [left.receipt] if left.receipt else []) for left in hit]),
            counts=counts,
        )

    return changed(commit(uri, key=key, plan=plan, lineage=lineage), last)


def delete_keys(
    uri: str,
    keys: pa.Table,
    *,
    key: str,
    lineage: Lineage,
    runner: "Runner",
    transactions: Iterable[str] = (),
) -> Changed:
    """Delete the rows that have one of the keys, given as a table of the key columns alone; keys may be unknown.

    Raises: as `upsert`.
    """
    snapshot = Snapshot.open(uri)
    names = keys.column_names
    wanted = pa.schema([snapshot.schema.field(name) for name in names if name in snapshot.schema.names])
    if len(wanted) != len(names) or (found := columns.difference(_bare(keys.schema), _bare(wanted))):
        raise SpecError(
            f"{uri}: keys have columns {keys.schema.names} of {[str(t) for t in keys.schema.types]}, expected columns of the "
            f"table ({found if len(wanted) == len(names) else snapshot.schema.names}); cast or rename them"
        )
    return merge(
        uri,
        keys,
        operation="delete",
        key=key,
        by=names,
        rule=_nothing,
        schema=snapshot.schema,
        source_schema=keys.schema,
        partition_by=snapshot.partition_by,
        lineage=lineage,
        runner=runner,
        transactions=dict.fromkeys(transactions),
        whole=True,
    )


def check_condition(where: str, schema: pa.Schema) -> None:
    """Nothing, if this is a condition over these columns.

    Raises: SpecError.
    """
    if not pa.types.is_boolean(kind := expression(where).type(schema)):
        raise SpecError(f"where = {where!r} gives {kind}, expected true or false; write a comparison")


def _nothing(old: pa.Table, new: pa.Table) -> tuple[pa.Table, Mapping[str, int]]:
    del new
    return old.slice(0, 0), {"deleted": old.num_rows}


def _bare(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, field.type) for field in schema])


@dataclass(frozen=True)
class _Ask:
    uri: str
    file: LiveFile
    columns: tuple[pa.Field, ...]
    where: str


@dataclass(frozen=True)
class _Left:
    file: LiveFile
    deleted: int
    receipt: Receipt | None


def _leave_out(asked: _Ask) -> _Left:
    schema = pa.schema(asked.columns)
    condition = expression(asked.where)
    looked_at = read_file(asked.file, schema, names=sorted(condition.columns) or schema.names[:1])
    gone = pc.fill_null(condition.evaluate(looked_at), fill_value=False)
    deleted = pc.sum(gone).as_py() or 0
    if deleted in {0, looked_at.num_rows}:
        return _Left(asked.file, deleted, None)
    rest = read_file(asked.file, schema).filter(pc.invert(gone))
    receipt = write_file(
        asked.uri, rest, partition=asked.file.partition, schema=schema, part=part_of(asked.file.path)
    )
    return _Left(asked.file, deleted, receipt)
