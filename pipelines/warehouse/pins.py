"""Pins: versions of tables that somebody still needs, so that neither vacuum nor the clean-up of the log takes them.

    _dlflow/pins/<table>/<digest of the holder>-<version>.json

A pin has a holder: "model:returns/3", "run:20260105T...". A job that may be killed pins for a time, its lease; a model
pins until it is unpinned. What a release names is pinned by the release itself. A pin is placed under the lock that
vacuum holds while it removes, and looks whether all files are there: who has a pin can read.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pipelines.errors import PipelineError
from pipelines.places import Place, StorePath, place, put
from pipelines.warehouse import sweep
from pipelines.warehouse.lineage import who
from pipelines.warehouse.lock import lock
from pipelines.warehouse.names import SYSTEM, check_table, table_uri
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["LEASE_S", "LOCK", "Pin", "held", "pin", "pins", "unpin"]

LEASE_S = 24 * 3600.0  # of a running job: vacuum keeps what is younger in any case
LOCK = "vacuums"
_WAIT_S = 600.0  # for a vacuum that removes just now


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A version that is needed. `until` is None for as long as its holder has not unpinned it."""

    table: str
    version: int
    holder: str
    why: str
    who: str
    since: dt.datetime
    until: dt.datetime | None


def pin(
    root: str,
    table: str,
    version: int,
    *,
    holder: str,
    why: str = "",
    lease_s: float | None = None,
    check: bool = True,
) -> Pin:
    """Keep a version for a holder; once more is the same, with a new lease. `check` looks whether its files are all there.

    Raises: PipelineError if the version, or a file of it, is gone.
    """
    now = dt.datetime.now(dt.UTC)
    made = Pin(
        table=check_table(table),
        version=version,
        holder=holder,
        why=why,
        who=who(),
        since=now,
        until=None if lease_s is None else now + dt.timedelta(seconds=lease_s),
    )
    path = _path(root, made)
    content = json.dumps(asdict(made), default=str, ensure_ascii=False).encode()
    with lock(root, table, _WAIT_S, work=LOCK):
        if check and not isinstance(path, StorePath):
            _check_whole(table_uri(root, table), version)
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
        if check and isinstance(path, StorePath):
            _check_kept(path, table_uri(root, table), version)
    return made


def _check_kept(path: StorePath, uri: str, version: int) -> None:
    """A vacuum that runs on another machine has said so before it looked for this pin, or it sees it."""
    try:
        sweep.wait(uri, [file.path for file in Snapshot.open(uri, version).files()], _WAIT_S)
        _check_whole(uri, version)
    except PipelineError:
        path.unlink(missing_ok=True)
        raise


def unpin(root: str, holder: str) -> int:
    """Take back all pins of a holder; how many there were."""
    found = [one for one in pins(root, expired=True) if one.holder == holder]
    for one in found:
        _path(root, one).unlink(missing_ok=True)
    return len(found)


@contextmanager
def held(root: str, table: str, version: int, *, holder: str, why: str = "") -> Iterator[Pin]:
    """Keep a version while the block runs; if the process is killed, until the lease ends."""
    made = pin(root, table, version, holder=holder, why=why, lease_s=LEASE_S)
    try:
        yield made
    finally:
        _path(root, made).unlink(missing_ok=True)


def pins(root: str, table: str | None = None, *, expired: bool = False) -> list[Pin]:
    """The pins of a table, or of all, by table, version and holder; those whose lease has ended only with `expired`."""
    now = dt.datetime.now(dt.UTC)
    found = [_read(path) for path in place(root, SYSTEM, "pins").glob(f"{table or '*'}/*.json")]
    kept = [one for one in found if one and (expired or one.until is None or one.until > now)]
    return sorted(kept, key=lambda one: (one.table, one.version, one.holder))


def _path(root: str, one: Pin) -> Place:
    digest = hashlib.sha256(one.holder.encode()).hexdigest()[:32]
    return place(root, SYSTEM, "pins", one.table, f"{digest}-{one.version}.json")


def _read(path: Place) -> Pin | None:
    try:
        said = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:  # taken back just now
        return None
    times = {name: said[name] and dt.datetime.fromisoformat(said[name]) for name in ("since", "until")}
    return Pin(**said | times)


def _check_whole(uri: str, version: int) -> None:
    gone = [file.path for file in Snapshot.open(uri, version).files() if not place(file.absolute).exists()]
    if gone:
        raise PipelineError(
            f"{uri}: version {version} cannot be pinned, {len(gone)} of its files are gone ({gone[0]}), expected all; "
            "pin a newer version"
        )
