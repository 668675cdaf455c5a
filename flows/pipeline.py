"""The Prefect driver: the same steps as Prefect tasks of one flow run, Dask inside them.

One Prefect task per step, never one per partition (104 ms each). The truth is what is committed: nothing of a result
is stored with Prefect. No `from __future__ import annotations` here: a deployed run could not read the types.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# After the settings above, which Prefect reads when it is imported. Nobody imports this module who does not want Prefect: 1.5 s.
import prefect
from prefect import runtime, task
from prefect.assets import Asset, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Completed

from flows import journal
from flows.artifacts import Artifacts, artifacts, summary_of
from flows.parameters import STEP_TIMEOUT_S, Parameters
from flows.run import up_to_date
from flows.session import Session, open_session, plan_of
from flows.steps import KINDS, RunStep, finish, steps_of
from flows.terminal import Terminal, summary
from flows.zombies import close_dead
from pipelines import ledger, warehouse
from pipelines.errors import CommitConflict, SpecError

__all__ = ["as_task", "carry_out", "flow", "in_turn", "run_as_flow", "take_steps"]

# No result is kept. What a flow raised is kept nevertheless (Prefect asks nobody): as type and sentence, not as a pickle.
flow: Any = functools.partial(prefect.flow, persist_result=False, result_serializer="json")

RETRY_S = (10, 60)  # before another try of a step that failed for the machine's sake
MACHINE = 3  # the exit code of errors that are not of the data: see flows.cli


def run_as_flow(session: Session, api: Callable[[], str]) -> None:
    """Take the steps of a session as one flow run; `api` waits for the address of the Prefect API.

    Raises: what a step raises, as itself.
    """

    # A flow's parameters are stored in clear: these two, never the session.
    @flow(name=session.project.pipeline.name, flow_run_name=session.run)
    def pipeline(file: str, workers: int) -> None:
        del file, workers
        take_steps(session)

    # A heartbeat tells that somebody drives a run; who asks that of this one asks our journal. It would cost a second.
    settings: dict[Any, Any] = {PREFECT_API_URL: api(), PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings(settings):
        try:
            pipeline(session.project.pipeline.file.name, session.workers)
        finally:  # what is still on its way to the API goes before its server does
            APILogWorker.drain_all(timeout=5)
            EventsWorker.drain_all(timeout=5)


def in_turn(run: Parameters, work: Callable[[], Any]) -> Any:
    """The body of a deployed flow: the work, or a state that says that another run of this deployment is at it.

    Why not the limit of Prefect? It is a lease that the server keeps in memory. A run whose server was away for some
    minutes, or was started anew, is ended by it. This lock is the kernel's, and goes with its process.
    """
    deployment = str(runtime.deployment.id or runtime.flow_run.id).replace("-", "_")
    with contextlib.ExitStack() as turn:
        root = str(run.project().pipeline.warehouse)
        try:
            turn.enter_context(warehouse.lock(root, f"deployment_{deployment}", work="runs"))
        except CommitConflict:
            return Completed(
                name="Skipped", message="another run of this deployment is under way, and does the work"
            )
        work()
    return None


def carry_out(run: Parameters, *kinds: str) -> dict[str, Any] | None:
    """Bring what is of these kinds up to date, in the flow run that calls this; the record, or None if nothing was to do.

    Raises: SpecError; what a step raises.
    """
    project = run.project()
    close_dead(project.state)
    ledger.repair(str(project.pipeline.warehouse))
    plan, terminal = plan_of(project), Terminal()
    if up_to_date(project, plan, kinds or KINDS):
        journal.remember(
            project.state, pipeline=project.pipeline.name, file=project.pipeline.file, driver="prefect"
        )
        terminal.say(f"dlflow {project.pipeline.name}: nothing to do, all up to date")
        return None
    with terminal, open_session(project, plan, run.options(project), terminal, driver="prefect") as session:
        take_steps(session, *kinds, retries=True, timeout_s=run.step_timeout_s)
    for line in summary({**session.record, "next": []}):
        terminal.say(line)
    return session.record


def take_steps(
    session: Session, *kinds: str, retries: bool = False, timeout_s: float = STEP_TIMEOUT_S
) -> None:
    """Each step of these kinds (default: all) as a task of the flow run that calls this, with its artifacts; then the report.

    With `retries`, a step that failed for the machine's sake is tried again; one that failed for the data's sake never is,
    nor one that took longer than `timeout_s`.

    Raises: what a step raises.
    """
    journal.note(session.entry, flow_run=str(runtime.flow_run.id))
    with artifacts(session.project.pipeline.name) as shown:
        if session.client is not None and (link := session.client.dashboard_link):
            shown.link("dask-dashboard", link, "Dask dashboard")
        with shown.lines(session.terminal) as say:
            _take_all(session, kinds or KINDS, shown, retries=retries, timeout_s=timeout_s)
            record = finish(session)
            for line in summary({**record, "next": []}):
                say(line)
        shown.table("ledger", [record["ledger"]], "ledger of the run")
        shown.link("report", f"file://{record['report_path']}", "report")


def _take_all(
    session: Session, kinds: Sequence[str], shown: Artifacts, *, retries: bool, timeout_s: float
) -> None:
    for step in steps_of(session):
        if step.kind in kinds:
            _task(session, step, shown, retries=retries, timeout_s=timeout_s)()
        elif step.kind == "table":  # a training reads tables: they must be there, and are looked up
            if not session.plan.tables[step.name].current:
                raise SpecError(
                    f"table {step.name!r} is not up to date, and this flow builds no tables; run build or nightly first"
                )
            step.do(session)


def as_task(name: str, do: Callable[..., Any]) -> Any:
    """A function as a task of the running flow, nothing of which is stored but that it ran; tried again as steps are."""
    return task(**_options(name, retries=True, timeout_s=STEP_TIMEOUT_S))(do)


def _options(name: str, *, retries: bool, timeout_s: float) -> dict[str, Any]:
    tries = {
        "retries": len(RETRY_S),
        "retry_delay_seconds": list(RETRY_S),
        "retry_condition_fn": _is_infrastructure,
    }
    return {
        "name": name,
        "task_run_name": name,
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "timeout_seconds": timeout_s,
        **(tries if retries else {}),
    }


def _task(session: Session, step: RunStep, shown: Artifacts, *, retries: bool, timeout_s: float) -> Any:
    """The Prefect task of one step; that of a table materialises an asset, which has the tables it is made of before it."""

    def take() -> None:
        with shown.progress(step.name, session.terminal):
            made = step.do(session)
        if step.kind == "table":
            shown.of_table(made)
            add_asset_metadata(_asset(session, step.name), summary_of(made))
        else:
            shown.of_model(made)

    options = _options(step.name, retries=retries, timeout_s=timeout_s)
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
