"""Deployments: a pipeline file that Prefect runs by a schedule. `deploy` hands it to a work pool, `serve` runs it in this process.

Prefect keeps the schedule and the history of runs, never the truth: a run looks at what is committed, and does the rest.
"""

import asyncio
import datetime as dt
import importlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import click

from flows.options import Terminated
from flows.project import Project
from flows.server import ServerError, check_api, configured_api, temporary_server

__all__ = ["FLOWS", "Deployed", "Flow", "Schedule", "deploy", "deployments", "flow_of", "serve"]

Flow = Literal["nightly", "build", "train", "score", "maintain"]
FLOWS = get_args(Flow)
TAG = "dlflow"


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is run, with which parameters, and when: by cron (UTC), every so many seconds, or when it is asked for."""

    flow: Flow = "nightly"
    name: str | None = None  # of the deployment; None: that of the pipeline
    cron: str | None = None
    every_s: float | None = None
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Deployed:
    """A deployment as the API knows it."""

    name: str
    flow: str
    file: str
    schedules: tuple[str, ...]
    next: dt.datetime | None
    paused: bool
    pool: str | None


def deploy(project: Project, schedule: Schedule, *, pool: str) -> str:
    """Make or change the deployment of a pipeline file for a process work pool, which is made if it is not there; its full name.

    Raises: ServerError if no API is configured or it does not answer.
    """
    _api()
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - 1.5 s
    from prefect.client.schemas.actions import WorkPoolCreate  # noqa: PLC0415
    from prefect.exceptions import ObjectAlreadyExists  # noqa: PLC0415

    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    made = _deployment(project, schedule, pool)
    made.apply(work_pool_name=pool)
    return f"{made.flow_name}/{made.name}"


def serve(project: Project, schedule: Schedule, home: Path) -> None:
    """Run the deployment in this process until it is told to end; with a Prefect server of its own if no API is configured.

    Ctrl-C and SIGTERM end it, and the run that is under way.

    Raises: ServerError.
    """
    api = configured_api()
    own: AbstractContextManager[Any] = nullcontext()
    if api is None:
        own = temporary_server(home, scheduling=True, ui=True)
    else:
        check_api(api)
    with own as server:
        where = f"at {api}"
        if server is not None:
            os.environ.update(server.settings)
            os.environ["PREFECT_API_URL"] = url = server.wait()
            where = f"pages at {url.removesuffix('/api')}"
        _run_deployment(_deployment(project, schedule, None), where)


def _run_deployment(made: Any, where: str) -> None:
    """What `prefect.serve` does, but for SIGTERM: there it makes a coroutine that nobody awaits, and exits with 0."""
    from prefect.runner import Runner  # noqa: PLC0415

    class Served(Runner):
        terminated = False

        def handle_sigterm(self, *_: Any) -> None:
            self.terminated = True
            if not self.started:
                raise Terminated
            self.execute_in_background(self.astop)

    runner = Served(pause_on_shutdown=False, limit=1)
    runner.add_deployment(made)
    click.echo(f"{made.flow_name}/{made.name} runs by its schedule until Ctrl-C; {where}")
    asyncio.run(runner.start())
    if runner.terminated:
        raise Terminated


def deployments() -> list[Deployed]:
    """All deployments of ours at the configured API.

    Raises: ServerError if none is configured or it does not answer.
    """
    _api()
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        DeploymentFilter,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterState,
        FlowRunFilterStateName,
    )
    from prefect.client.schemas.sorting import FlowRunSort  # noqa: PLC0415

    found = []
    with get_client(sync_client=True) as client:
        for one in client.read_deployments(
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        ):
            coming = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    deployment_id=FlowRunFilterDeploymentId(any_=[one.id]),
                    state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Scheduled"])),
                ),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=1,
            )
            found.append(
                Deployed(
                    one.name,
                    client.read_flow(one.flow_id).name,
                    str((one.parameters.get("run") or {}).get("file")),
                    tuple(_shown(each.schedule) for each in one.schedules if each.active),
                    coming[0].expected_start_time if coming else None,
                    one.paused,
                    one.work_pool_name,
                )
            )
    return sorted(found, key=lambda one: (one.file, one.name))


def flow_of(name: Flow) -> Any:
    """The Prefect flow of this name."""
    return getattr(importlib.import_module(f"flows.{name}"), name)


def _deployment(project: Project, schedule: Schedule, pool: str | None) -> Any:
    from prefect.types.entrypoint import EntrypointType  # noqa: PLC0415

    return flow_of(schedule.flow).to_deployment(
        name=schedule.name or project.pipeline.name,
        cron=schedule.cron,
        interval=schedule.every_s,
        parameters=dict(schedule.parameters),
        tags=[TAG, project.pipeline.name],
        work_pool_name=pool,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _api() -> str:
    api = configured_api()
    if api is None:
        raise ServerError(
            "no Prefect API is configured, and a schedule has to live somewhere; start `prefect server start` and set "
            "PREFECT_API_URL (http://127.0.0.1:4200/api), or use `dlflow serve`, which brings its own"
        )
    check_api(api)
    return api


def _shown(schedule: Any) -> str:
    cron, interval = getattr(schedule, "cron", None), getattr(schedule, "interval", None)
    return str(cron) if cron else f"every {interval}" if interval else str(schedule)
