"""Files that no reader can need any more: left by lost workers and killed runs, or replaced long ago.

A file goes if it is older than the limit, not live now, and was not live at any time within the limit. So a version
can be read back for at least that long, a running job may take that long, and a commit that is under way keeps its
files, because it makes them young first (`receipt.check`). What a model, a release or a running job has pinned stays,
however old. Nothing is written to the log.

Hold the table's lock (`lock.lock`) around it, as the builds do.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import unquote

from pipelines.errors import PipelineError
from pipelines.failpoints import failpoint
from pipelines.places import Place, StorePath, place
from pipelines.warehouse import log, sweep
from pipelines.warehouse.catalog import is_table
from pipelines.warehouse.file import FOLDER
from pipelines.warehouse.lock import lock
from pipelines.warehouse.pins import LOCK, pins
from pipelines.warehouse.releases import releases
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["retained", "vacuum"]

_AT_ONCE = 16  # objects; each is looked at once more before it goes, so a request for many names would not do
_WAIT_S = 60.0  # for one who pins just now
_LEAST_H, _MOST_H = 24, 80 * 24  # a job that runs now; the log knows what was replaced within 90 days


def vacuum(
    uri: str, *, older_than_h: float = 168, dry_run: bool = False, now_s: float | None = None
) -> list[str]:
    """The files that were removed (with `dry_run`: that would be), relative to the table.

    Units: older_than_h, hours; now_s, seconds since 1970 (default: the clock).
    Raises: PipelineError for a limit below 24 h or above 80 days.
    """
    if not _LEAST_H <= older_than_h <= _MOST_H:
        raise PipelineError(
            f"{uri}: vacuum of files older than {older_than_h:g} h, expected {_LEAST_H} to {_MOST_H} h: a running job "
            "may need younger ones, and the log does not know older ones; give another age"
        )
    horizon_s = (time.time() if now_s is None else now_s) - older_than_h * 3600
    old = {str(path.relative_to(uri)): path for path in _candidates(uri) if _modified_s(path) < horizon_s}
    with _no_new_pins(uri):
        # after the list: what was committed meanwhile is live here
        gone = sorted(old.keys() - _needed(uri, horizon_s)) if old else []
        if dry_run or not gone:
            return gone
        if isinstance(place(uri), StorePath):
            return _sweep(uri, {name: old[name] for name in gone}, horizon_s)
        for name in gone:
            _remove(old[name], horizon_s)
    return gone


def _sweep(uri: str, gone: Mapping[str, Place], horizon_s: float) -> list[str]:
    """The same in a store, where who pins or commits on another machine knows of it by a notice alone."""
    with sweep.noticed(uri, gone.keys()) as ends:
        failpoint("vacuum.after_notice")
        needed = _needed(uri, horizon_s)

        def go(name: str) -> bool:
            return name not in needed and time.monotonic() < ends and _remove(gone[name], horizon_s)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [name for name, went in zip(gone, pool.map(go, gone), strict=True) if went]


def retained(uri: str) -> dict[int, list[str]]:
    """The versions of a table that somebody has pinned, and who: jobs, models, releases."""
    table = place(uri)
    root = str(table.parent)
    found: dict[int, list[str]] = {}
    for one in pins(root, table.name):
        found.setdefault(one.version, []).append(one.holder)
    for release in releases(root) if is_table(table) else ():
        if table.name in release.tables:
            found.setdefault(release.tables[table.name], []).append(f"release:{release.name}")
    return dict(sorted(found.items()))


def _no_new_pins(uri: str) -> AbstractContextManager[None]:
    table = place(uri)
    return lock(str(table.parent), table.name, _WAIT_S, work=LOCK) if is_table(table) else nullcontext()


def _candidates(uri: str) -> Iterator[Place]:
    for folder, pattern in ((FOLDER, "*"), (log.LOG, "*.json#*"), (log.LOG, "*.tmp")):
        yield from place(uri, folder).glob(pattern)


def _needed(uri: str, horizon_s: float) -> set[str]:
    snapshot = Snapshot.open(uri)
    needed = {file.path for file in snapshot.files()}
    for version in retained(uri):
        needed |= {file.path for file in Snapshot.open(uri, version).files()}
    for path in place(uri, log.LOG).glob("*.json"):
        if path.stem.isdigit() and path.stat().st_mtime >= horizon_s:
            needed |= {unquote(a["path"]) for kind, a in log.actions(uri, int(path.stem)) if kind == "remove"}
    return needed


def _remove(path: Place, horizon_s: float) -> bool:
    now = place(str(path))  # not as it was when it was listed
    try:
        if _modified_s(now) >= horizon_s:  # a commit has just taken it
            return False
    except FileNotFoundError:
        return True
    now.unlink(missing_ok=True)
    return True


def _modified_s(path: Place) -> float:
    return path.stat().st_mtime if isinstance(path, StorePath) else path.lstat().st_mtime
