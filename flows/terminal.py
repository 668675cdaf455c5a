"""What a person sees in the terminal: a live line per running step, one calm line per finished step, a summary.

Nothing moves unless the stream is a terminal. Colours need a terminal too and give way to NO_COLOR. A stream whose
encoding has no check mark gets plain ASCII. Control characters in texts are shown, not obeyed.
"""

import os
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flows.figures import count, duration, number, plural, rate
from flows.summary import WIDTH, line, summary

__all__ = ["Terminal", "problem", "summary"]

PLAIN = {
    "✔": "ok",
    "✘": "FAILED",
    "·": "-",
    "→": "->",
    "⋈": "+",
    "…": "...",
    "—": "-",
    "²": "2",
    "≥": ">=",
    "▲": "!",
}
COLOURS = {"✔": "\x1b[32m✔\x1b[0m", "✘": "\x1b[31m✘\x1b[0m", "▲": "\x1b[33m▲\x1b[0m"}
DIM_LABEL = re.compile(r"^( +)([a-z][\w -]*?)(?=  )")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Shows a run on a stream; a context manager, so that the live lines never outlive an error or Ctrl-C.

    `live=None` asks the stream. Methods may be called from any thread.
    """

    def __init__(self, stream: IO[str] | None = None, *, live: bool | None = None) -> None:
        self.listener: Callable[[float, str], None] | None = (
            None  # hears how far a step is, from 0 to 1, and what is said of it
        )
        self.reader: Callable[[str], None] | None = None  # reads the lines that stay
        self._stream = sys.stdout if stream is None else stream
        at_terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._live = at_terminal if live is None else live
        self._colour = at_terminal and not os.environ.get("NO_COLOR")
        self._lock = threading.RLock()
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Clear the live lines. Later calls of other methods start them again."""
        with self._lock:
            progress, self._progress = self._progress, None
            self._tasks.clear()
            if progress is not None:
                progress.stop()

    def say(self, text: str) -> None:
        """Show lines that stay."""
        with self._lock:
            for one in text.split("\n"):
                self._write(one)
                if self.reader is not None:
                    self.reader(one)
            self._stream.flush()

    def step_started(self, name: str, total_parts: int | None = None) -> None:
        """A step begins; it has a live line until `step_done`."""
        self._update(name, total=total_parts, completed=0, speed="")

    def step_progress(self, name: str, done: int, total: int | None = None, rows: int = 0) -> None:
        """So many of its parts are done, and so many rows."""
        with self._lock:
            elapsed = self._elapsed(name)
            self._update(
                name, total=total, completed=done, speed=rate(rows / elapsed) if rows and elapsed else ""
            )

    def step_done(self, name: str, *, rows: int | None = None, seconds: float = 0.0, note: str = "") -> None:
        """A step ended: its live line goes, one line stays."""
        with self._lock:
            if name in self._tasks:
                self._progress.remove_task(self._tasks.pop(name))
            speed = rate(rows / seconds) if rows and seconds > 0 else ""
            amount = "" if rows is None else f"{count(rows)} rows"
            self.say(line(name, f"{amount:>18}  {duration(seconds):>9}  {speed:<14} {note}"))

    def training(self, event: Mapping[str, Any]) -> None:
        """Progress of a training: keys model, epoch, epochs, step, steps, loss, val_loss, samples_per_s, workers, eta_s, message.

        A `message` (a worker was lost, training goes on) stays; the rest is live only.
        """
        name = f"train {event.get('model', '')}".strip()
        if event.get("message"):
            self.say(line(name, str(event["message"])))
        epoch, epochs = event.get("epoch"), event.get("epochs")
        if epoch is None or not epochs:
            return
        inside = (
            event["step"] / event["steps"] if event.get("steps") and event.get("step") is not None else 1.0
        )
        told = [f"epoch {epoch}/{epochs}"]
        told += [
            f"{key.replace('_', ' ')} {number(event[key], 3)}"
            for key in ("loss", "val_loss")
            if event.get(key)
        ]
        told += [rate(event["samples_per_s"], "samples")] if event.get("samples_per_s") else []
        told += [plural(event["workers"], "worker")] if event.get("workers") else []
        left = (
            f"{duration(event['eta_s'])} left" if event.get("eta_s") else ""
        )  # on a terminal it has a column
        done = max(0.0, epoch - 1 + inside)
        self._update(name, total=float(epochs), completed=done, speed="  ".join(told), left=left)

    def _update(
        self, name: str, *, total: float | None, completed: float, speed: str, left: str = ""
    ) -> None:
        if self.listener is not None and total:
            self.listener(completed / total, "  ".join(filter(None, (speed, left))))
        if not self._live:
            return
        with self._lock:
            if self._progress is None:
                self._progress = _live_lines(self._stream, colour=self._colour)
                self._progress.start()
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(self._shown(name), total=total, speed="")
            changed = {} if total is None else {"total": total}
            self._progress.update(self._tasks[name], completed=completed, speed=self._shown(speed), **changed)

    def _elapsed(self, name: str) -> float:
        if name not in self._tasks:
            return 0.0
        return self._progress.tasks[self._progress.task_ids.index(self._tasks[name])].elapsed or 0.0

    def _write(self, text: str) -> None:
        text = self._shown(text).rstrip()
        if self._colour:
            text = DIM_LABEL.sub(r"\1" + "\x1b[2m" + r"\2" + "\x1b[0m", text)
            for mark, coloured in COLOURS.items():
                text = text.replace(mark, coloured)
        if self._progress is None:
            self._stream.write(text + "\n")
            return
        from rich.text import Text  # noqa: PLC0415 - only where something moves

        self._progress.console.print(Text.from_ansi(text), soft_wrap=True)

    def _shown(self, text: str) -> str:
        text = CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            for mark, plain in PLAIN.items():
                text = text.replace(mark, plain)
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return text


def problem(error_sentence: str, fix: str | None = None, log_path: Path | str | None = None) -> str:
    """A failure as a person reads it: one sentence, one fix, and where the traceback is."""
    parts = [("✘", error_sentence), ("fix", fix), ("log", log_path)]
    blocks = []
    for label, text in parts:
        if text:
            lines = str(text).splitlines()
            wrapped = [
                piece
                for one in lines
                for piece in textwrap.wrap(one, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
                or [""]
            ]
            blocks.append(f"{label:<5} " + "\n      ".join(wrapped))
    return "\n".join(blocks)


def _live_lines(stream: IO[str], *, colour: bool) -> Any:
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that only a live display is worth
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(
        file=stream, force_terminal=True, no_color=not colour, highlight=False, markup=False, emoji=False
    )
    return Progress(
        TextColumn(" {task.description:<12}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %", markup=False),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        refresh_per_second=5,
    )
