"""What runs there were: one small file for each, `_dlflow/runs/<run>.json` beside the tables, whoever drives it.

A convenience for people (`dlflow status`); what is true of the data is in the tables. A run whose process is gone without a word is told as
"died": on the machine it ran on by its process, elsewhere after a day.
"""

import datetime as dt
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

__all__ = ["Entry", "Status", "alive", "begin", "end", "entries", "note", "remember"]

Status = Literal["running", "done", "failed", "stopped", "died"]
KEPT = 200
SILENT_S = 24 * 3600.0  # a run on another machine that began so long ago and has not ended is taken for dead


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One run. Times are UTC, ISO 8601."""

    run: str
    pipeline: str
    file: str
    driver: str
    started: str
    host: str
    pid: int
    born: float  # of the process, seconds since 1970: its number may be another's by now
    status: Status = "running"
    ended: str | None = None
    error: str | None = None
    flow_run: str | None = None  # id at the Prefect API
    tables: Mapping[str, int] | None = None  # versions that the run has made


def begin(folder: Path, *, run: str, pipeline: str, file: Path, driver: str) -> Path:
    """Write down that a run begins; the path of its entry."""
    entry = Entry(
        run=run,
        pipeline=pipeline,
        file=str(file),
        driver=driver,
        started=_now(),
        host=socket.gethostname(),
        pid=os.getpid(),
        born=psutil.Process().create_time(),
    )
    path = folder / "runs" / f"{run}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, entry)
    for old in sorted(path.parent.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def remember(folder: Path, *, pipeline: str, file: Path, driver: str) -> None:
    """Write down a run that found nothing to do."""
    run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    if folder.is_dir():
        end(begin(folder, run=run, pipeline=pipeline, file=file, driver=driver), None, {})


def note(path: Path, **facts: Any) -> None:
    """Add facts to the entry of a run."""
    entry = _read(path)
    if entry is not None:
        _write(path, replace(entry, **facts))


def end(path: Path, error: BaseException | None, tables: Mapping[str, int]) -> None:
    """Write down how a run ended."""
    status: Status = "done" if error is None else "failed" if isinstance(error, Exception) else "stopped"
    text = None if error is None else str(error).partition("\n")[0] or type(error).__name__
    note(path, status=status, ended=_now(), error=text, tables=dict(tables))


def entries(folder: Path) -> list[Entry]:
    """All runs that are remembered, newest first; one whose process is gone is "died"."""
    paths = sorted((folder / "runs").glob("*.json"), reverse=True)
    return [_looked_at(entry) for path in paths if (entry := _read(path)) is not None]


def alive(entry: Entry) -> bool:
    """Whether the process of a run is there still: on this machine it is looked for, on another it is given a day."""
    if entry.host == socket.gethostname():
        try:
            return abs(psutil.Process(entry.pid).create_time() - entry.born) < 1
        except psutil.NoSuchProcess:
            return False
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(entry.started)
    return age.total_seconds() < SILENT_S


def _looked_at(entry: Entry) -> Entry:
    return entry if entry.status != "running" or alive(entry) else replace(entry, status="died")


def _read(path: Path) -> Entry | None:
    try:
        return Entry(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # removed meanwhile, or of another version of dlflow
        return None


def _write(path: Path, entry: Entry) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(asdict(entry)), "utf-8")
    aside.replace(path)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
