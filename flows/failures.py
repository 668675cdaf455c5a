"""What a person is told when something fails: one sentence, one fix, and where the traceback is."""

import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TextIO

from flows.terminal import problem
from pipelines.errors import LedgerImbalance, SpecError

__all__ = ["explain", "keep_traceback", "show_warning"]


def explain(error: Exception) -> tuple[str, int]:
    """The text for the terminal, and the exit code. The traceback goes to the run's log."""
    code = getattr(error, "exit_code", 1)
    if isinstance(error, SpecError):
        return "\n".join(problem(text) for text in error.problems), code
    path = _traceback(error)
    if hasattr(error, "exit_code") and not isinstance(error, LedgerImbalance):
        sentence, _, fix = str(error).rpartition("; ")
        return (problem(sentence, fix, path) if sentence else problem(str(error), None, path)), code
    sentence = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return problem(f"this is a bug of dlflow: {sentence}", "please report it with the log file", path), 1


def keep_traceback(error: BaseException, log: Path) -> None:
    """Write the traceback to the log of the run, and remember where it is."""
    with log.open("a", encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    error.__dict__["dlflow_log"] = log


def _traceback(error: Exception) -> Path:
    if (log := error.__dict__.get("dlflow_log")) is not None:
        return Path(log)
    with tempfile.NamedTemporaryFile(
        "w", prefix="dlflow-", suffix=".log", delete=False, encoding="utf-8"
    ) as file:
        path = Path(file.name)
    keep_traceback(error, path)
    return path


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are for the person; those of libraries go to the log of the run."""
    del file, line
    if category.__module__.startswith("flows."):
        sys.stderr.write(f"note: {message}\n")
    else:
        logging.getLogger("py.warnings").warning(
            "%s:%s: %s: %s", filename, lineno, category.__name__, message
        )
