"""The Prefect driver: the same steps as Prefect tasks of one flow run, Dask inside them.

One Prefect task per step, never one per partition (104 ms each). The truth is what is committed: nothing of a result
is stored with Prefect. No `from __future__ import annotations` here: a deployed run could not read the types.
"""

import os
from collections.abc import Callable
from typing import Any

from flows.session import Session
from flows.steps import RunStep, finish, steps_of

__all__ = ["run_as_flow"]

STEP_TIMEOUT_S = 24 * 3600


def run_as_flow(session: Session, api: Callable[[], str], *, alone: bool) -> None:
    """Take the steps of a session as one flow run; `api` waits for the address of the Prefect API.

    `alone` says that the server is of this run and ends with it.

    Raises: what a step raises, as itself.
    """
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from prefect import flow, task  # noqa: PLC0415 - 1.5 s, and the settings above come first
    from prefect.artifacts import create_link_artifact, create_table_artifact  # noqa: PLC0415
    from prefect.cache_policies import NO_CACHE  # noqa: PLC0415
    from prefect.events.worker import EventsWorker  # noqa: PLC0415
    from prefect.logging.handlers import APILogWorker  # noqa: PLC0415
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: PLC0415

    @task(cache_policy=NO_CACHE, timeout_seconds=STEP_TIMEOUT_S, persist_result=False)
    def take(step: RunStep) -> None:
        made = step.do(session)
        create_table_artifact(_rows(step, made), key=_key(step.name), description=step.name)

    # A flow's parameters are stored in clear: these two, never the session.
    @flow(name=session.project.pipeline.name, flow_run_name=session.run, persist_result=False)
    def pipeline(file: str, workers: int) -> None:
        for step in steps_of(session):
            take.with_options(name=step.name, task_run_name=step.name)(step)
        record = finish(session)
        create_link_artifact(
            f"file://{record['report_path']}", key=_key(f"{file}-report"), link_text="report"
        )
        del workers

    settings: dict[Any, Any] = {PREFECT_API_URL: api()}
    if alone:  # a heartbeat finds runs that nobody drives any more; on a server that ends with the run it costs a second
        settings[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with temporary_settings(settings):
        try:
            pipeline(session.project.pipeline.file.name, session.workers)
        finally:  # what is still on its way to the API goes before its server does
            APILogWorker.drain_all(timeout=5)
            EventsWorker.drain_all(timeout=5)


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
