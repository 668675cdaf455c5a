"""Files that no reader can need any more: left by lost workers and killed runs, or replaced long ago.

A file goes if it is older than the limit, not live now, and was not live at any time within the limit. So a version
can be read back for at least that long, a running job may take that long, and a commit that is under way keeps its
files, because it makes them young first (`receipt.check`). What a model, a release or a running job has pinned stays,
however old. Nothing is written to the log.

Hold the table's lock (`lock.lock`) around it, as the builds do.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from urllib.parse import unquote

from pipelines.errors import PipelineError
from pipelines.warehouse import log
from pipelines.warehouse.catalog import is_table
from pipelines.warehouse.file import FOLDER
from pipelines.warehouse.lock import lock
from pipelines.warehouse.pins import LOCK, pins
from pipelines.warehouse.releases import releases
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["retained", "vacuum"]

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
    old = [path for path in _candidates(uri) if path.lstat().st_mtime < horizon_s]
    with _no_new_pins(uri):
        needed = (
            _needed(uri, horizon_s) if old else set()
        )  # after the list: what was committed meanwhile is live here
        gone = [path for path in old if str(path.relative_to(uri)) not in needed]
        for path in [] if dry_run else gone:
            _remove(path, horizon_s)
    return sorted(str(path.relative_to(uri)) for path in gone)


def retained(uri: str) -> dict[int, list[str]]:
    """The versions of a table that somebody has pinned, and who: jobs, models, releases."""
    place = Path(uri)
    root = str(place.parent)
    found: dict[int, list[str]] = {}
    for one in pins(root, place.name):
        found.setdefault(one.version, []).append(one.holder)
    for release in releases(root) if is_table(place) else ():
        if place.name in release.tables:
            found.setdefault(release.tables[place.name], []).append(f"release:{release.name}")
    return dict(sorted(found.items()))


def _no_new_pins(uri: str) -> AbstractContextManager[None]:
    place = Path(uri)
    return lock(str(place.parent), place.name, _WAIT_S, work=LOCK) if is_table(place) else nullcontext()


def _candidates(uri: str) -> Iterator[Path]:
    for folder, pattern in ((FOLDER, "*"), (log.LOG, "*.json#*"), (log.LOG, "*.tmp")):
        yield from Path(uri, folder).glob(pattern)


def _needed(uri: str, horizon_s: float) -> set[str]:
    snapshot = Snapshot.open(uri)
    needed = {file.path for file in snapshot.files()}
    for version in retained(uri):
        needed |= {file.path for file in Snapshot.open(uri, version).files()}
    for path in Path(uri, log.LOG).glob("*.json"):
        if path.stem.isdigit() and path.stat().st_mtime >= horizon_s:
            needed |= {unquote(a["path"]) for kind, a in log.actions(uri, int(path.stem)) if kind == "remove"}
    return needed


def _remove(path: Path, horizon_s: float) -> None:
    if path.lstat().st_mtime >= horizon_s:  # a commit has just taken it
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
