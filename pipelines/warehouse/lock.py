"""One builder per table at a time, so that two runs do not do the same work twice.

Nothing that is right depends on it: the commit is a compare-and-swap. The lock is the kernel's (flock), so it goes
with its process, however that ends; the file says who holds it, for the one who waits. Of a warehouse in an object
store it is a file of this machine: runs on two machines may do the same work, and one of their commits is taken.
"""

import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.access import SCHEME, is_url
from pipelines.errors import CommitConflict
from pipelines.warehouse.names import SYSTEM, check_table

__all__ = ["lock"]

_POLL_S = 0.05


@contextmanager
def lock(root: str, name: str, wait_s: float = 0.0, *, run: str = "", work: str = "builds") -> Iterator[None]:
    """Hold the writer's lock of a table, or with another `work` the lock of that.

    Units: wait_s, seconds to wait for another holder.
    Raises: CommitConflict naming the holder.
    """
    home = Path(root, SYSTEM)
    if is_url(root):
        home = Path(tempfile.gettempdir(), f"dlflow-{os.getuid()}", *root.removeprefix(SCHEME).split("/"))
    path = home / "locks" / f"{check_table(name)}{'' if work == 'builds' else f'.{work}'}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # no child keeps it
    try:
        _acquire(descriptor, path, f"table {name!r}: another run {work} it", wait_s)
        _sign(descriptor, run)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, what: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise CommitConflict(
                    f"{what} ({_holder(path)}), waited {wait_s:g} s; "
                    "wait for it to end, or stop it, then run again"
                ) from error
            time.sleep(_POLL_S)
        else:
            return


def _sign(descriptor: int, run: str) -> None:
    text = json.dumps(
        {"pid": os.getpid(), "host": socket.gethostname(), "run": run, "since": time.strftime("%FT%T%z")}
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError):  # between its lock and its signature
        return "it has just begun"
    return ", ".join(f"{key} {value}" for key, value in holder.items() if value)
