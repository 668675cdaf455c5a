"""What a vacuum is about to remove from an object store, said before it is removed: machines share no lock there.

    vacuum:  puts its notice  ->  looks at pins, releases and times again  ->  removes  ->  takes the notice back
    others:  pin, or put a file again  ->  look at the notices  ->  wait, or give up

Whichever of the two was second sees the first, because what was put is what the next one reads. A vacuum removes nothing
later than ten minutes after its notice; after an hour nobody heeds it, so a vacuum that was killed stops nobody for longer.

    root/_dlflow/vacuums/<table>/<random>.json
"""

import json
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from pipelines.errors import PartFailed, PipelineError
from pipelines.places import place, put
from pipelines.warehouse.names import SYSTEM

__all__ = ["LASTS_S", "check", "noticed", "wait"]

LASTS_S = 600.0
_HEEDED_S = 3600.0
_POLL_S = 0.2


@contextmanager
def noticed(uri: str, paths: Collection[str]) -> Iterator[float]:
    """A notice for these files of a table while the block runs; the time on the monotonic clock at which removing ends."""
    ends = time.monotonic() + LASTS_S
    table = place(uri)
    notice = place(table.parent, SYSTEM, "vacuums", table.name, f"{uuid.uuid4().hex}.json")
    put(notice, json.dumps(sorted(paths)).encode())
    try:
        yield ends
    finally:
        notice.unlink(missing_ok=True)


def check(uri: str, path: str) -> None:
    """Nothing, if no vacuum removes this file just now.

    Raises: PartFailed.
    """
    if path in _named(uri):
        raise PartFailed(
            f"{uri}/{path}: a vacuum removes this file just now, expected it to stay; write the file again"
        )


def wait(uri: str, paths: Collection[str], wait_s: float) -> None:
    """Return when no vacuum removes any of these files.

    Raises: PipelineError after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    while named := _named(uri) & set(paths):
        if time.monotonic() >= deadline:
            raise PipelineError(
                f"{uri}: a vacuum removes {len(named)} files of this version, waited {wait_s:g} s; ask for a newer version"
            )
        time.sleep(_POLL_S)


def _named(uri: str) -> set[str]:
    table = place(uri)
    oldest_s = time.time() - _HEEDED_S
    named: set[str] = set()
    for notice in place(table.parent, SYSTEM, "vacuums", table.name).glob("*.json"):
        if notice.stat().st_mtime < oldest_s:
            continue
        try:
            named.update(json.loads(notice.read_text("utf-8")))
        except FileNotFoundError:  # taken back just now
            continue
    return named
