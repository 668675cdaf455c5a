"""Backfill: the same pipeline once for each day (hour, month) of a range, resumable, a few at a time.

The period goes into a value of [params]; tables that take in new files (`load = "append"`) or change by key grow by what the period
adds. Which periods are done is kept beside the tables, `_dlflow/backfills/<name>.json`: a second call does what is left.
"""

import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from flows.project import Project, open_project
from pipelines.errors import PartFailed, SpecError
from pipelines.names import did_you_mean

__all__ = ["Backfill", "By", "periods", "plan_backfill", "run_backfill"]

By = Literal["hour", "day", "month"]
FORMATS = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
LIMIT = 10_000


@dataclass(frozen=True)
class Backfill:
    """What is to be run: one period after the other, and those that were done before."""

    project: Project
    param: str
    wanted: tuple[str, ...]
    done: frozenset[str]
    path: Path  # of what is remembered

    @property
    def left(self) -> tuple[str, ...]:
        """Periods that are not done."""
        return tuple(each for each in self.wanted if each not in self.done)


def periods(first: str, last: str, by: By) -> list[str]:
    """The periods from `first` to `last`, both included, as texts that sort by time.

    >>> periods("2026-01-30", "2026-02-01", "day")
    ['2026-01-30', '2026-01-31', '2026-02-01']
    >>> periods("2025-12", "2026-01", "month")
    ['2025-12', '2026-01']

    Raises: SpecError.
    """
    return list(_between(_moment(first, by, "--from"), _moment(last, by, "--to"), by))


def plan_backfill(project: Project, *, first: str, last: str, by: By, param: str) -> Backfill:
    """Which periods are wanted, and which are done.

    Raises: SpecError if the file has no such param, or the range is empty.
    """
    if param not in project.pipeline.params:
        known = project.pipeline.params
        raise SpecError(
            f"--param {param}: the file has no such param{did_you_mean(param, known)}; a backfill puts the period into a value of "
            f'[params], for example {param} = "2026-01-01" with path = "data/{{{param}}}/*.csv"'
        )
    wanted = periods(first, last, by)
    if not wanted:
        raise SpecError(
            f"--from {first} is after --to {last}: there is nothing to fill; give them the other way round"
        )
    _check_grows(project, param, wanted)
    key = hashlib.sha256(json.dumps([project.pipeline.name, param, by]).encode()).hexdigest()[:8]
    path = project.state / "backfills" / f"{project.pipeline.name}-{param}-{by}-{key}.json"
    return Backfill(project, param, tuple(wanted), frozenset(_done(path)), path)


def _check_grows(project: Project, param: str, wanted: Sequence[str]) -> None:
    """Raises: SpecError if a period would replace what the one before it has made."""
    ends = [
        open_project(project.pipeline.file, {**project.pipeline.params, param: each})
        for each in (wanted[0], "-")
    ]
    one, other = (each.pipeline.sources for each in ends)
    moving = [name for name in one if one[name] != other[name]]
    for name in moving:
        for table, spec in project.pipeline.tables.items():
            if spec.source is not None and name in spec.inputs and spec.load == "replace":
                raise SpecError(
                    f"table {table!r} reads source {name!r}, which {{{param}}} changes, and is made anew by each run, so that only the last "
                    'period would stay; give it load = "append"'
                )
        if getattr(one[name], "path", None) and one[name].on_change == "error":
            raise SpecError(
                f"source {name!r} depends on {{{param}}}: files of other periods look as if they were gone; "
                'set on_change = "ignore" for it'
            )


def run_backfill(
    backfill: Backfill, *, at_once: int, arguments: Sequence[str], tell: Callable[[str, str], None]
) -> None:
    """Run what is left, `at_once` at a time, each in a process of its own: `dlflow run FILE --set param=period ...`.

    Runs of one table wait for each other's commit (a lock per table), so `at_once` above 1 helps where periods have tables of
    their own, or reading takes longer than writing. `tell` hears each period and how it ended.

    Raises: PartFailed naming the periods that failed, once all others are done.
    """
    failed: dict[str, str] = {}
    left = iter(backfill.left)
    with ThreadPoolExecutor(at_once, "dlflow-backfill") as pool:
        running: dict[Future[str], str] = {}
        try:
            while True:
                while len(running) < at_once and (period := next(left, None)) is not None:
                    running[pool.submit(_run_one, backfill, period, arguments)] = period
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    period = running.pop(future)
                    if problem := future.result():
                        failed[period] = problem
                    else:
                        _remember(backfill.path, period)
                    tell(period, problem)
        except BaseException:
            for future in running:
                future.cancel()
            raise
    if failed:
        listed = "; ".join(f"{period}: {problem}" for period, problem in list(failed.items())[:3])
        raise PartFailed(
            f"{len(failed)} of {len(backfill.left)} periods failed ({listed}); the others are done; correct the cause and run the backfill again"
        )


def _run_one(backfill: Backfill, period: str, arguments: Sequence[str]) -> str:
    """Empty if it went well, else the first line that says why not."""
    command = [
        sys.executable, "-m", "flows.cli", "run", str(backfill.project.pipeline.file), "--no-prefect",
        "--set", f"{backfill.param}={period}", *arguments,
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if ended.returncode == 0:
        return ""
    told = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    return told[0] if told else f"exit code {ended.returncode}"


def _moment(text: str, by: By, option: str) -> dt.datetime:
    for name in get_args(By):
        try:
            moment = dt.datetime.strptime(text, FORMATS[name]).replace(tzinfo=dt.UTC)
        except ValueError:
            continue
        return (
            moment.replace(day=1, hour=0)
            if by == "month"
            else moment.replace(hour=0)
            if by == "day"
            else moment
        )
    raise SpecError(f"{option} {text}: expected 2026-01-31, 2026-01 or 2026-01-31T05; write it so")


def _between(first: dt.datetime, last: dt.datetime, by: By) -> Iterator[str]:
    at = first
    for _ in range(LIMIT):
        if at > last:
            return
        yield at.strftime(FORMATS[by])
        at = _after(at, by)
    raise SpecError(f"more than {LIMIT:,} periods; take a shorter range, or longer periods")


def _after(at: dt.datetime, by: By) -> dt.datetime:
    if by == "month":
        return (at + dt.timedelta(days=31)).replace(day=1)
    return at + (dt.timedelta(days=1) if by == "day" else dt.timedelta(hours=1))


def _done(path: Path) -> list[str]:
    try:
        return list(json.loads(path.read_text("utf-8"))["done"])
    except FileNotFoundError:
        return []


def _remember(path: Path, period: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps({"done": sorted({*_done(path), period})}), "utf-8")
    aside.replace(path)
