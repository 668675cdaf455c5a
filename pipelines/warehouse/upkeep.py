"""Upkeep of a warehouse: few large files, a checkpoint of the log, no files that nobody can need.

Safe beside readers and writers: a compaction is a compare-and-swap that changes no row, vacuum leaves young files, all
that was live lately and all that is pinned. A table that another run builds just now is left for the next time.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipelines.errors import CommitConflict, SpecError
from pipelines.names import did_you_mean
from pipelines.places import Place, modified_s, place, remove_tree
from pipelines.warehouse import catalog, log
from pipelines.warehouse.compaction import compact
from pipelines.warehouse.file import LiveFile
from pipelines.warehouse.fitted import prune_fitted
from pipelines.warehouse.lineage import Lineage
from pipelines.warehouse.loads import prune_manifests
from pipelines.warehouse.lock import lock
from pipelines.warehouse.merge import REWRITES
from pipelines.warehouse.names import EVIDENCE, QUARANTINE, SYSTEM
from pipelines.warehouse.snapshot import Snapshot
from pipelines.warehouse.vacuum import retained, vacuum

if TYPE_CHECKING:
    from pipelines.engine import Runner

__all__ = ["FileSizes", "Upkeep", "maintain"]

_CHECKPOINT_AFTER = 10  # entries to read beside the last checkpoint: about 1 ms each
_RETENTION_S = 90 * 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class FileSizes:
    """Files of a version, in bytes."""

    files: int
    bytes: int
    smallest: int
    median: int
    largest: int


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """What was done to one table."""

    table: str
    before: FileSizes
    after: FileSizes
    packed: int = 0  # files that became fewer
    checkpoint: int | None = None  # version
    removed: int = 0  # files that nobody can need
    entries: int = 0  # of the log, removed
    kept_for: Mapping[int, Sequence[str]] = field(default_factory=dict)  # pinned versions and their holders
    skipped: str = ""  # why nothing was done


def maintain(
    root: str,
    tables: Sequence[str] = (),
    *,
    runner: "Runner",
    sort: Mapping[str, Sequence[str]] | None = None,
    older_than_h: float = 168,
    dry_run: bool = False,
    run: str = "maintain",
) -> list[Upkeep]:
    """Compact, write a checkpoint and vacuum the named tables (all by default), what is beside them, and our own tables.

    `sort` names columns by which the rows of a table are sorted within each partition. `older_than_h` is the age below
    which no file is removed. A dry run changes nothing and tells what vacuum would remove.

    Raises: SpecError for a table that is not there; as `compact` and `vacuum`.
    """
    known = catalog.names(root)
    for name in [*tables, *(sort or {})]:
        if name not in known:
            raise SpecError(f"{root}: there is no table {name!r}{did_you_mean(name, known)}")
    places = {name: str(place(root, name)) for name in tables or known}
    done = []
    for name, uri in places.items():
        with ExitStack() as stack:
            try:
                stack.enter_context(lock(root, name, run=run))
            except CommitConflict as error:
                sizes = _sizes(Snapshot.open(uri).files())
                done.append(Upkeep(table=name, before=sizes, after=sizes, skipped=str(error)))
                continue
            done.append(
                _one(name, uri, (sort or {}).get(name, ()), runner, older_than_h, dry_run=dry_run, run=run)
            )
            if not dry_run:
                prune_manifests(uri)
                prune_fitted(uri, retained(uri))
            done += [
                _one(name + suffix, uri + suffix, (), runner, older_than_h, dry_run=dry_run, run=run)
                for suffix in (EVIDENCE, QUARANTINE)
                if log.exists(uri + suffix)
            ]
    system = place(root, SYSTEM)
    own: list[Place] = sorted(system.iterdir(), key=str) if system.is_dir() and not tables else []
    done += [
        _one(f"dlflow__{table.name}", str(table), (), runner, older_than_h, dry_run=dry_run, run=run)
        for table in own
        if log.exists(str(table))
    ]
    if not dry_run:
        _remove_workspaces(system / REWRITES, older_than_h)
    return done


def _one(
    name: str,
    uri: str,
    by: Sequence[str],
    runner: "Runner",
    older_than_h: float,
    *,
    dry_run: bool,
    run: str,
) -> Upkeep:
    before = _sizes(Snapshot.open(uri).files())
    if dry_run:
        removed = vacuum(uri, older_than_h=older_than_h, dry_run=True)
        return Upkeep(table=name, before=before, after=before, removed=len(removed), kept_for=retained(uri))
    lineage = Lineage(run=run, why=["upkeep"])
    packed = compact(uri, by=by, lineage=lineage, runner=runner)
    version = log.checkpoint(uri) if _needs_checkpoint(uri) else None
    kept_for = retained(uri)
    removed = vacuum(uri, older_than_h=older_than_h)
    return Upkeep(
        table=name,
        before=before,
        after=_sizes(Snapshot.open(uri).files()),
        packed=packed.files_removed if packed else 0,
        checkpoint=version,
        removed=len(removed),
        entries=0 if _needs_old_entries(uri, kept_for) else log.clean(uri),
        kept_for=kept_for,
    )


def _sizes(files: Sequence[LiveFile]) -> FileSizes:
    sizes = [file.bytes for file in files] or [0]
    return FileSizes(
        files=len(files),
        bytes=sum(sizes),
        smallest=min(sizes),
        median=int(statistics.median(sizes)),
        largest=max(sizes),
    )


def _needs_checkpoint(uri: str) -> bool:
    folder = place(uri, log.LOG)
    last = max((int(path.name[:20]) for path in folder.glob("*.checkpoint.parquet")), default=-1)
    return log.newest(uri) - last >= _CHECKPOINT_AFTER


def _needs_old_entries(uri: str, kept_for: Mapping[int, Sequence[str]]) -> bool:
    """Whether a pinned version is so old that it could not be opened after a clean-up of the log."""
    oldest_s = time.time() - _RETENTION_S
    entries = [log.entry_path(uri, version) for version in kept_for]
    return any(not path.exists() or path.stat().st_mtime < oldest_s for path in entries)


def _remove_workspaces(folder: Place, older_than_h: float) -> None:
    """What rewrites that were killed have left."""
    oldest_s = time.time() - older_than_h * 3600
    for path in folder.iterdir() if folder.is_dir() else ():
        if modified_s(path) < oldest_s:
            remove_tree(path)
