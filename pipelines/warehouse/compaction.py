"""Compaction: many small files become few, and the rows of a partition sorted by a key if that is wanted.

A rewrite that changes no row: readers of changes do not see it, and a build that was current stays current. Workers
rewrite, the driver swaps in one compare-and-swap; a group of files of which one is gone meanwhile is left out.
deltalake's own `optimize` is never called: two of them that race double the rows (1.6.4 to 1.6.6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.warehouse import keys, loads, ranges
from pipelines.warehouse.commit import Change, commit
from pipelines.warehouse.file import LiveFile, Receipt, part_of, read_file, write_file
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.merge import Changed, changed, workspace
from pipelines.warehouse.snapshot import Snapshot, rows_changed_since
from pipelines.warehouse.split import FILE_ROWS

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["FILE_BYTES", "compact"]

FILE_BYTES = 128 << 20  # readers prune by file, and a worker rewrites one at a time
_KEY = "dlflow:compact"


class _NothingToDoError(Exception):
    """No file would become larger, no row would move."""


@dataclass(frozen=True)
class _Group:
    """Files of one partition that become one file, or with ranges several."""

    files: tuple[LiveFile, ...]

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(file.path for file in self.files)

    @property
    def rows(self) -> int:
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class _Pack:
    uri: str
    files: tuple[LiveFile, ...]
    columns: tuple[pa.Field, ...]
    by: tuple[str, ...]
    split: tuple[str, ...] = ()  # files of record batches, if the rows are too many for one file
    number: int = 0


def compact(
    uri: str,
    *,
    by: Sequence[str] = (),
    lineage: Lineage,
    runner: "Runner",
    file_rows: int = FILE_ROWS,
    file_bytes: int = FILE_BYTES,
) -> Changed | None:
    """Pack small files of a partition together, up to a size; with `by`, sort all rows of each partition by these columns.

    None if there is nothing to do. Sorting once more does nothing until rows have changed.

    Raises: SchemaMismatch for a column to sort by that is not there; else as `commit`.
    """
    done: dict[frozenset[str], list[Receipt]] = {}
    last: dict[str, Any] = {}
    mark = f"dlflow:sorted:{','.join(by)}"
    with workspace(uri) as work:

        def plan(snapshot: Snapshot | None) -> Change:
            if snapshot is None:
                raise _NothingToDoError
            if by:
                keys.check(uri, snapshot.schema, by, equal=False)
            groups = _groups(snapshot, by, mark, file_rows, file_bytes)
            if not groups:
                raise _NothingToDoError
            packs: list[tuple[frozenset[str], _Pack]] = []
            for group in groups:
                if group.paths not in done:
                    packs += [
                        (group.paths, pack) for pack in _packs(snapshot, group, by, file_rows, work, runner)
                    ]
            made = runner.run(_pack, [pack for _, pack in packs], name="compact", progress=lambda *_: None)
            fresh: dict[frozenset[str], list[Receipt]] = {}
            for (paths, _), receipt in zip(packs, made, strict=True):
                fresh.setdefault(paths, []).extend(receipt)
            done.update(fresh)
            add = [receipt for group in groups for receipt in done[group.paths]]
            remove = [file for group in groups for file in group.files]
            last.update(counts={}, removed=len(remove), added=len(add))
            moves = loads.moved(snapshot, [(group.files, done[group.paths]) for group in groups])
            return Change(
                operation="compact",
                add=add,
                remove=remove,
                schema=snapshot.schema,
                partition_by=snapshot.partition_by,
                data_change=False,
                rows_out=sum(group.rows for group in groups),
                transactions=moves | ({mark: None} if by else {}),
            )

        try:
            committed = commit(uri, key=_KEY, plan=plan, lineage=lineage, once=False)
        except _NothingToDoError:
            return None
    return changed(committed, last)


def _groups(
    snapshot: Snapshot, by: Sequence[str], mark: str, file_rows: int, file_bytes: int
) -> list[_Group]:
    partitions: dict[tuple[Any, ...], list[LiveFile]] = {}
    owner = loads.owners(snapshot)  # files of one source file stay apart: it may be loaded again
    for file in snapshot.files():
        if file.rows:
            partitions.setdefault((owner.get(file.path), *file.partition.values()), []).append(file)
    if by:
        since = snapshot.transaction(mark)
        if since is not None and not rows_changed_since(snapshot, since):
            return []
        return [_Group(tuple(files)) for files in partitions.values()]
    return [group for files in partitions.values() for group in _small_together(files, file_rows, file_bytes)]


def _small_together(files: Sequence[LiveFile], file_rows: int, file_bytes: int) -> list[_Group]:
    """Neighbours in the order of rows, as many as fit; a file that is more than half full stays as it is."""
    groups: list[list[LiveFile]] = [[]]
    rows = size = 0
    for file in files:
        if 2 * file.rows > file_rows or 2 * file.bytes > file_bytes:
            continue
        if groups[-1] and (rows + file.rows > file_rows or size + file.bytes > file_bytes):
            groups.append([])
            rows = size = 0
        groups[-1].append(file)
        rows, size = rows + file.rows, size + file.bytes
    return [_Group(tuple(group)) for group in groups if len(group) > 1]


def _packs(
    snapshot: Snapshot, group: _Group, by: Sequence[str], file_rows: int, work: str, runner: "Runner"
) -> list[_Pack]:
    columns = tuple(snapshot.schema)
    if not by or group.rows <= file_rows:
        return [_Pack(snapshot.uri, group.files, columns, tuple(by))]
    split, number = ranges.split_files(
        group.files, snapshot.schema, by, work=work, runner=runner, range_rows=file_rows
    )
    return [_Pack(snapshot.uri, group.files[:1], columns, tuple(by), tuple(split), i) for i in range(number)]


def _pack(asked: _Pack) -> list[Receipt]:
    schema = pa.schema(asked.columns)
    first = asked.files[0]
    if asked.split:
        rows = ranges.read_range(asked.split, asked.number, asked.by)
    else:
        rows = pa.concat_tables([read_file(file, schema) for file in asked.files])
        rows = keys.sorted_by(rows, asked.by) if asked.by else rows
    if not rows.num_rows:
        return []
    part = asked.number if asked.by else part_of(first.path)
    return [write_file(asked.uri, rows, partition=first.partition, schema=schema, part=part)]
