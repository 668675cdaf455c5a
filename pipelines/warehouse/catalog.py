"""What is in a warehouse: its tables, and what has happened to one."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.errors import SpecError
from pipelines.places import Place, place
from pipelines.warehouse import log
from pipelines.warehouse.names import check_table
from pipelines.warehouse.quarantine import live_rejects
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["Event", "Listing", "history", "is_table", "names", "newest_build", "tables"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A table of the warehouse, now."""

    name: str
    version: int
    rows: int
    bytes: int
    files: int
    updated: dt.datetime
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class Event:
    """A version of a table and how it came about. `record` is the whole lineage, empty for other programs' commits."""

    version: int
    time: dt.datetime
    operation: str
    rows: int | None  # written by this commit
    changed: dict[str, int]  # rows inserted, updated, deleted and so on, where the operation counts them
    who: str
    run: str
    why: tuple[str, ...]
    record: dict[str, Any]


def names(root: str) -> list[str]:
    """Names of the tables of the user."""
    folder = place(root)
    return sorted(p.name for p in folder.iterdir() if is_table(p)) if folder.is_dir() else []


def tables(root: str) -> list[Listing]:
    """All tables of the user, by name."""
    return [_listing(name, str(place(root, name))) for name in names(root)]


def history(uri: str, *, since: int = 0) -> list[Event]:
    """The versions of a table from `since` on, newest first, as far back as the log reaches (90 days).

    Order is by version. A clock that was set back does not show: a time is never before that of an earlier version.
    """
    events: list[Event] = []
    earliest = dt.datetime.fromtimestamp(0, dt.UTC)
    for version in _versions(uri, since):
        event = _event(uri, version, earliest)
        earliest = event.time
        events.append(event)
    return events[::-1]


def newest_build(uri: str) -> Event | None:
    """The newest version that a run has made of its inputs; None if there is none, or the log reaches no further back."""
    events = history(uri) if log.exists(uri) else []
    return next((event for event in events if event.record.get("fingerprint")), None)


def is_table(path: Place) -> bool:
    """Whether this folder is a table of the user."""
    try:
        check_table(path.name)
    except SpecError:
        return False
    return log.exists(str(path))


def _listing(name: str, uri: str) -> Listing:
    snapshot = Snapshot.open(uri)
    files = snapshot.files()
    return Listing(
        name=name,
        version=snapshot.version,
        rows=sum(file.rows for file in files),
        bytes=sum(file.bytes for file in files),
        files=len(files),
        updated=dt.datetime.fromtimestamp(snapshot.committed_s(), dt.UTC),
        quarantined=sum(file.rows for file in live_rejects(uri)),
    )


def _versions(uri: str, since: int) -> Iterator[int]:
    found = (int(path.stem) for path in place(uri, log.LOG).glob("*.json") if path.stem.isdigit())
    yield from sorted(version for version in found if version >= since)


def _event(uri: str, version: int, earliest: dt.datetime) -> Event:
    said = next((action for kind, action in log.actions(uri, version) if kind == "commitInfo"), {})
    record = said.get("dlflow", {})
    time = dt.datetime.fromtimestamp(said.get("timestamp", 0) / 1000, dt.UTC)
    return Event(
        version=version,
        time=max(time, earliest),
        operation=record.get("operation") or said.get("operation", "unknown").lower(),
        rows=record.get("rows"),
        changed=record.get("changed", {}),
        who=record.get("who", ""),
        run=record.get("run", ""),
        why=tuple(record.get("why", ())),
        record=record,
    )
