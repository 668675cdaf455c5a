"""Places where a test makes the program fail: off, one dictionary look-up; on, by the environment variable.

`DLFLOW_FAILPOINTS="commit.before_log=kill@2;write.file=enospc"`: at the second arrival at `commit.before_log` the
process kills itself with SIGKILL; `write.file` raises ENOSPC at the first. Actions: kill, enospc, eio, interrupt.
`part.after_read:orders/1/=kill@3` counts only the arrivals of tasks whose name begins with `orders/1/`. A process says
on its standard error at which place, task and arrival it kills itself: a test can see that it really did.
"""

import errno
import os
import signal
import threading

__all__ = ["NAMES", "failpoint"]

NAMES = (
    "part.before_read",
    "part.after_read",
    "part.before_write",
    "part.after_write",
    "part.before_receipt",
    "kept.half_written",
    "file.half_written",
    "file.before_sync",
    "evidence.before_commit",
    "evidence.after_commit",
    "quarantine.before_commit",
    "quarantine.after_commit",
    "load.after_manifest",
    "commit.before_log",
    "commit.before_link",
    "commit.before_sync",
    "commit.after_log",
    "rewrite.before_write",
    "vacuum.after_notice",
    "export.before_commit",
    "export.after_commit",
    "ledger.before_commit",
    "ledger.after_commit",
)
_ERRNO = {"enospc": errno.ENOSPC, "eio": errno.EIO}
_arrivals: dict[str, int] = {}
_lock = threading.Lock()


def failpoint(name: str, task: str = "") -> None:
    """Fail here if the environment says so; `name` is one of NAMES, `task` whose work it is."""
    setting = os.environ.get("DLFLOW_FAILPOINTS")
    if not setting:
        return
    for clause in setting.split(";"):
        place, _, action = clause.partition("=")
        wanted, _, beginning = place.partition(":")
        if wanted != name or not task.startswith(beginning):
            continue
        what, _, nth = action.partition("@")
        with _lock:
            _arrivals[place] = _arrivals.get(place, 0) + 1
            if _arrivals[place] != int(nth or 1):
                return
        _act(what, name, f"{task} arrival {nth or 1}".strip())


def _act(what: str, name: str, which: str) -> None:
    if what == "kill":
        os.write(2, f"failpoint {name} {which}: killed\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        return
    raise OSError(_ERRNO[what], f"{os.strerror(_ERRNO[what])} (failpoint {name})")
