"""A child process with a group of its own that ends when its parent ends, however that happens.

    parent ----stdin: the order, then the lifeline----> child ----> its own children
       ^<-----------stdout: one answer line---------------+

Nothing is ever written to the lifeline: when the parent closes it, or the kernel does it for a parent that was killed,
the child has a moment to end by itself; then its whole group is killed. A terminal's Ctrl-C reaches the parent alone,
and what the child and its children print goes to a log file.
"""

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["Child", "Life", "NoAnswerError", "child", "live"]

END_S = 5.0  # from the cut of the lifeline until what has not ended is killed, if nothing else is said

# `-c` leaves `__main__` without a file, so processes that the child spawns do not import the parent's program again.
_BOOT = "import json, sys; order = json.loads(sys.stdin.readline()); sys.path[:] = order['path']; from flows.lifeline import live; live(order)"


class NoAnswerError(Exception):
    """The child ended or stayed silent; the message is the last line of its log."""


@dataclass(frozen=True)
class Child:
    """A child on its way; `answer` waits for it. The time between is free for imports."""

    process: subprocess.Popen[str]
    log: Path
    skip: int  # bytes that the log had before

    def answer(self, deadline_s: float) -> Any:
        """What the child has to say, once.

        Raises: NoAnswerError if it says nothing within `deadline_s`, or ends.
        """
        pipe = self.process.stdout
        line = pipe.readline() if pipe and select.select([pipe], [], [], deadline_s)[0] else ""
        if line:
            return json.loads(line)
        raise NoAnswerError(self.last_words() or f"nothing within {deadline_s:g} s")

    def last_words(self) -> str:
        """The last line that the child has written to its log; empty if there is none."""
        with self.log.open("rb") as file:
            file.seek(self.skip)
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass(frozen=True)
class Life:
    """What the child knows of its parent: how to answer, and when to end."""

    answer: Callable[[Any], None]
    cut: threading.Event
    scratch: Path  # a folder that is gone when the child is

    def leave(self) -> NoReturn:
        """End now, without waiting for threads."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        os._exit(0)


@contextmanager
def child(
    function: str,
    order: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    log: Path | None = None,
    end_s: float = END_S,
) -> Iterator[Child]:
    """`function` ("module:name", called with a Life and the order) in a process that lives as long as the block.

    What it prints is appended to `log`, which may be read while the block runs (default: a temporary file). It has
    `end_s` seconds to end by itself.
    """
    scratch = Path(tempfile.mkdtemp(prefix="dlflow-"))
    path = log or scratch / "log"
    letter = {
        "path": sys.path,
        "function": function,
        "scratch": str(scratch),
        "order": dict(order),
        "end_s": end_s,
    }
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        skip = os.fstat(descriptor).st_size
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=descriptor,
                env={
                    **os.environ,
                    **environment,
                    "PYTHONSAFEPATH": "1",
                },  # a folder `numpy` beside us is not NumPy
                start_new_session=True,
                text=True,
            )
        finally:
            os.close(descriptor)
        with process:
            try:
                _send(process, json.dumps(letter) + "\n")
                yield Child(process, path, skip)
            finally:
                _end(process, end_s)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _send(process: subprocess.Popen[str], text: str) -> None:
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):  # it has ended; whoever waits for the answer is told
            process.stdin.write(text)
            process.stdin.flush()


def _end(process: subprocess.Popen[str], end_s: float) -> None:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(end_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def live(letter: Mapping[str, Any]) -> None:
    """The child's whole life; called by its first line."""
    line = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what it and its children print belongs in the log
    life = Life(lambda answer: _say(line, answer), threading.Event(), Path(letter["scratch"]))
    threading.Thread(target=_watch, args=(life, letter["end_s"]), daemon=True, name="lifeline").start()
    module, _, name = letter["function"].partition(":")
    getattr(importlib.import_module(module), name)(life, **letter["order"])
    shutil.rmtree(life.scratch, ignore_errors=True)


def _say(line: Any, answer: Any) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent has gone; the lifeline is cut as well
        line.write(json.dumps(answer) + "\n")
        line.close()


def _watch(life: Life, end_s: float) -> None:
    try:
        # not sys.stdin: its decoding and buffering are one more thing that can fail
        while os.read(0, 1 << 16):
            pass
    finally:  # whatever ended the watch: a child that nobody watches must end
        life.cut.set()
    threading.Event().wait(end_s)
    shutil.rmtree(life.scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
