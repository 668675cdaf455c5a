"""The Prefect driver: the same steps as Prefect tasks of one flow run, Dask inside them.

One Prefect task per step, never one per partition (104 ms each). The truth is what is committed: nothing of a result
is stored with Prefect. No `from __future__ import annotations` here: a deployed run could not read the types.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# After the settings above, which Prefect reads when it is imported. Nobody imports this module who does not want Prefect: 1.5 s.
from prefect import flow, runtime, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.assets import Asset, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows import journal
from flows.parameters import Parameters
from flows.run import up_to_date
from flows.session import Session, open_session, plan_of
from flows.steps import KINDS, RunStep, finish, steps_of
from flows.terminal import Terminal, summary
from pipelines import ledger
from pipelines.errors import SpecError

__all__ = ["as_task", "carry_out", "flow", "run_as_flow", "take_steps"]

STEP_TIMEOUT_S = 24 * 3600
RETRY_S = (10, 60)  # before another try of a step that failed for the machine's sake
MACHINE = 3  # the exit code of errors that are not of the data: see flows.cli
PROGRESS_S = 2.0  # a progress artifact is a request to the API each time


def run_as_flow(session: Session, api: Callable[[], str], *, alone: bool) -> None:
    """Take the steps of a session as one flow run; `api` waits for the address of the Prefect API.

    `alone` says that the server is of this run and ends with it.

    Raises: what a step raises, as itself.
    """

    # A flow's parameters are stored in clear: these two, never the session.
    @flow(name=session.project.pipeline.name, flow_run_name=session.run, persist_result=False)
    def pipeline(file: str, workers: int) -> None:
        del file, workers
        take_steps(session)

    settings: dict[Any, Any] = {PREFECT_API_URL: api()}
    if alone:  # a heartbeat finds runs that nobody drives any more; on a server that ends with the run it costs a second
        settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with temporary_settings(settings):
        try:
            pipeline(session.project.pipeline.file.name, session.workers)
        finally:  # what is still on its way to the API goes before its server does
            APILogWorker.drain_all(timeout=5)
            EventsWorker.drain_all(timeout=5)


def carry_out(run: Parameters, *kinds: str) -> dict[str, Any] | None:
    """The body of a deployed flow: bring what is of these kinds up to date; the record, or None if nothing was to do.

    Raises: SpecError; what a step raises.
    """
    project = run.project()
    ledger.repair(str(project.pipeline.warehouse))
    plan, terminal = plan_of(project), Terminal()
    if up_to_date(project, plan, kinds or KINDS):
        journal.remember(
            project.state, pipeline=project.pipeline.name, file=project.pipeline.file, driver="prefect"
        )
        terminal.say(f"dlflow {project.pipeline.name}: nothing to do, all up to date")
        return None
    with terminal, open_session(project, plan, run.options(project), terminal, driver="prefect") as session:
        take_steps(session, *kinds, retries=True)
    for line in summary({**session.record, "next": []}):
        terminal.say(line)
    return session.record


def take_steps(session: Session, *kinds: str, retries: bool = False) -> None:
    """Each step of these kinds (default: all) as a task of the flow run that calls this, with its artifacts; then the report.

    With `retries`, a step that failed for the machine's sake is tried again; one that failed for the data's sake never is.

    Raises: what a step raises.
    """
    journal.note(session.entry, flow_run=str(runtime.flow_run.id))
    if session.client is not None and (link := session.client.dashboard_link):
        create_link_artifact(link, key="dask-dashboard", link_text="Dask dashboard")
    for step in steps_of(session):
        if step.kind in (kinds or KINDS):
            _task(session, step, retries=retries)()
        elif step.kind == "table":  # a training reads tables: they must be there, and are looked up
            if not session.plan.tables[step.name].current:
                raise SpecError(
                    f"table {step.name!r} is not up to date, and this flow builds no tables; run build or nightly first"
                )
            step.do(session)
    record = finish(session)
    create_link_artifact(
        f"file://{record['report_path']}",
        key=_key(f"{session.project.pipeline.name}-report"),
        link_text="report",
    )


def as_task(name: str, do: Callable[..., Any]) -> Any:
    """A function as a task of the running flow, nothing of which is stored but that it ran."""
    return task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(do)


def _task(session: Session, step: RunStep, *, retries: bool) -> Any:
    """The Prefect task of one step; that of a table materialises an asset, which has the tables it is made of before it."""

    def take() -> None:
        with _progress(session, step):
            made = step.do(session)
        rows = _rows(step, made)
        create_table_artifact(rows, key=_key(step.name), description=step.name)
        if step.kind == "table":
            if made["checks"]:
                verdicts = [{name: str(value) for name, value in check.items()} for check in made["checks"]]
                create_table_artifact(
                    verdicts, key=_key(f"{step.name}-checks"), description=f"{step.name}: checks"
                )
            add_asset_metadata(_asset(session, step.name), rows[0])

    options: dict[str, Any] = {
        "name": step.name,
        "task_run_name": step.name,
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "timeout_seconds": STEP_TIMEOUT_S,
    }
    if retries:
        options |= {
            "retries": len(RETRY_S),
            "retry_delay_seconds": list(RETRY_S),
            "retry_condition_fn": _is_infrastructure,
        }
    if step.kind != "table":
        return task(**options)(take)
    needed = session.plan.tables[step.name].spec.tables
    options["asset_deps"] = [_asset(session, name) for name in needed]
    return materialize(_asset(session, step.name), **options)(take)


def _is_infrastructure(task: Any, task_run: Any, state: Any) -> bool:
    """Whether another try can help: the machine failed, not the data and not the pipeline file."""
    del task, task_run
    return getattr(state.result(raise_on_failure=False), "exit_code", 1) == MACHINE


def _asset(session: Session, table: str) -> Asset:
    return Asset(key=f"dlflow://{session.project.pipeline.name}/{table}")


@contextmanager
def _progress(session: Session, step: RunStep) -> Iterator[None]:
    """A progress artifact of the step, moved now and then; a step that is done at once has none."""
    artifact: Any = None
    told = time.monotonic()

    def move(share: float) -> None:
        nonlocal artifact, told
        if time.monotonic() - told < PROGRESS_S:
            return
        told, percent = time.monotonic(), round(100 * min(share, 1.0), 1)
        if artifact is None:
            artifact = create_progress_artifact(
                percent, key=_key(f"{step.name}-progress"), description=step.name
            )
        else:
            update_progress_artifact(artifact, percent)

    session.terminal.listener = move
    try:
        yield
    finally:
        session.terminal.listener = None
        if artifact is not None:
            update_progress_artifact(artifact, 100.0)


def _rows(step: RunStep, made: dict[str, Any]) -> list[dict[str, Any]]:
    """What the UI shows of a step."""
    if step.kind == "model":
        return [
            {"set": name, **{key: value for key, value in numbers.items() if value is not None}}
            for name, numbers in made["metrics"].items()
        ]
    keys = ("status", "version", "rows_in", "rows_out", "quarantined", "deduplicated", "filtered", "files")
    return [{key: made[key] for key in keys}]


def _key(name: str) -> str:
    """Artifact keys have lower-case letters, digits and dashes only."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()).strip("-")
