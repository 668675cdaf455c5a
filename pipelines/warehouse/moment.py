"""Which version is meant: by its number, by the time at which it was the newest, or by the name of a release.

"17"                      version 17
"2026-01-05"              the newest version when this day began, in UTC
"2026-01-05T12:30:00Z"    the newest version at that time
"spring"                  the version that the release of this name has
"""

import datetime as dt

from pipelines.errors import PipelineError, SpecError
from pipelines.places import place
from pipelines.warehouse import catalog
from pipelines.warehouse.names import table_uri
from pipelines.warehouse.releases import release_versions
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["open_at", "version_at"]


def version_at(uri: str, when: str | int | dt.datetime | None) -> int | None:
    """The version that `when` means for the table at `uri`; None for the newest.

    Raises: SpecError for a release that is not there or does not name the table; PipelineError for a time before the
    first version that the log still knows.
    """
    if when is None or isinstance(when, int):
        return when
    if isinstance(when, dt.datetime):
        return _at_time(uri, when)
    if when.isascii() and when.isdigit():
        return int(when)
    time = _time(when)
    if time is not None:
        return _at_time(uri, time)
    table = place(uri)
    named = release_versions(str(table.parent), when)
    if table.name not in named:
        raise SpecError(f"release {when!r} does not name table {table.name!r}, it has {sorted(named)}")
    return named[table.name]


def open_at(root: str, table: str, when: str | int | dt.datetime | None = None) -> Snapshot:
    """The version of a table that `when` means.

    Raises: as `version_at`, and as `Snapshot.open`.
    """
    uri = table_uri(root, table)
    Snapshot.open(uri)  # says what is near, if there is no such table
    return Snapshot.open(uri, version_at(uri, when))


def _time(text: str) -> dt.datetime | None:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _at_time(uri: str, time: dt.datetime) -> int:
    time = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
    events = catalog.history(uri)
    for event in events:
        if event.time <= time:
            return event.version
    first = events[-1] if events else None
    raise PipelineError(
        f"{uri}: no version at {time.isoformat()}, the first that the log knows is "
        f"{first and first.version} of {first and first.time.isoformat()}; ask for a later time"
    )
