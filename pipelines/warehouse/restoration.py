"""Restore: the content of an old version becomes the newest one; nothing in between is lost from the history.

What the log knows of loaded batches and sources is set back too, so that what was loaded after that version can be
loaded again, and what was loaded before is not loaded twice. A build that made the table is no longer current: the
next run of its pipeline builds it anew.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import PipelineError
from pipelines.places import opened, place
from pipelines.warehouse import columns, footer, log, partition, statistics
from pipelines.warehouse.commit import Change, commit
from pipelines.warehouse.file import LiveFile, Receipt, part_of, read_file, write_file
from pipelines.warehouse.fitted import FITTED
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.merge import Changed, changed
from pipelines.warehouse.snapshot import BORN, RELEASED, REPLACED, Snapshot

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["restore"]


def restore(uri: str, version: int, *, key: str, lineage: Lineage, runner: "Runner") -> Changed:
    """Make the content, the columns and the partitioning of a version those of the next one.

    Raises: PipelineError if the version, or a file of it, is gone.
    """
    old = Snapshot.open(uri, version)
    if gone := [file.path for file in old.files() if not place(file.absolute).exists()]:
        raise PipelineError(
            f"{uri}: version {version} cannot be restored, {len(gone)} of its {len(old.files())} files are gone "
            f"({gone[0]}), expected vacuum to have kept them; restore a newer version, or pin versions to keep"
        )
    copies: dict[str, Receipt] = {}
    last: dict[str, Any] = {}

    def plan(snapshot: Snapshot | None) -> Change:
        if snapshot is None:
            raise PipelineError(f"{uri}: the table is gone")
        same = columns.difference(old.schema, snapshot.schema) is None
        same = same and list(old.partition_by) == list(snapshot.partition_by)
        live = {file.path for file in snapshot.files()}
        stay = {file.path for file in old.files()} & live if same else set()
        back = [file for file in old.files() if file.path not in stay]
        asked = [
            (uri, file, tuple(old.schema))
            for file in back
            if file.path not in copies and (file.sha256 is None or file.path in live)
        ]
        for (_, file, _), receipt in zip(
            asked, runner.run(_copy, asked, name="restore", progress=lambda *_: None), strict=True
        ):
            copies[file.path] = receipt
        add = [copies.get(file.path) or _receipt(file, old.schema) for file in back]
        remove = [file for file in snapshot.files() if file.path not in stay]
        last.update(counts={"restored": version}, removed=len(remove), added=len(add))
        return Change(
            operation="restore",
            add=add,
            remove=remove,
            schema=old.schema,
            partition_by=old.partition_by,
            whole=not same,
            rows_out=sum(file.rows for file in back),
            transactions=_set_back(old, snapshot, key),
            counts={"restored": version},
        )

    return changed(commit(uri, key=key, plan=plan, lineage=lineage), last)


def _set_back(old: Snapshot, now: Snapshot, key: str) -> dict[str, int | None]:
    """Every transaction id that changed since, with its number of then."""
    ids: set[str] = {REPLACED, FITTED}
    for version in range(old.version + 1, now.version + 1):
        try:
            actions = list(log.actions(now.uri, version))
        except FileNotFoundError as error:
            raise PipelineError(
                f"{now.uri}: version {old.version} cannot be restored, the log entry of version {version} was cleaned up; "
                "restore a newer version"
            ) from error
        ids |= {action["appId"] for kind, action in actions if kind == "txn"}
    return {
        name: 0 if name == REPLACED and number is None else RELEASED if number is None else number
        for name in sorted(ids - {BORN, key})
        for number in (old.transaction(name),)
    }


def _receipt(file: LiveFile, schema: pa.Schema) -> Receipt:
    with opened(file.absolute) as stored:
        found = pq.read_metadata(stored)
    return Receipt(
        path=file.path,
        rows=found.num_rows,
        bytes=file.bytes,
        sha256=file.sha256 or "",
        partition=partition.encode_all(schema, file.partition),
        stats=statistics.from_footer(found),
        row_groups=footer.groups(found),
    )


def _copy(asked: tuple[str, LiveFile, Sequence[pa.Field]]) -> Receipt:
    uri, file, fields = asked
    schema = pa.schema(fields)
    return write_file(
        uri, read_file(file, schema), partition=file.partition, schema=schema, part=part_of(file.path)
    )
