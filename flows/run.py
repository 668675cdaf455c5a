"""One run of a pipeline file: plan, choose the driver, take the steps, say what came of it."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from flows.project import Project, open_project
from flows.session import Options, Session, open_session, plan_of
from flows.steps import finish, steps_of
from flows.terminal import Terminal, summary
from flows.training import current_model
from pipelines.plan import Plan

__all__ = ["drive", "plan_text", "run_file", "run_project", "up_to_date"]


def run_file(file: Path, settings: Mapping[str, str], options: Options, *, prefect: bool | None) -> dict[str, Any] | None:
    """Run a pipeline file; the record, or None if there was nothing to do."""
    project = open_project(file, settings)
    plan = plan_of(project)
    terminal = Terminal()
    if up_to_date(project, plan) and not options.prove:
        names = ", ".join([*plan.tables, *project.models])
        terminal.say(f"dlflow {project.pipeline.name}: nothing to do, all up to date: {names}")
        return None
    return run_project(project, plan, options, terminal, prefect=prefect)


def run_project(
    project: Project, plan: Plan, options: Options, terminal: Terminal, *, prefect: bool | None, following: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run with the chosen driver, and show the summary."""
    from flows.server import configured_api  # noqa: PLC0415

    api = configured_api()
    chosen = prefect if prefect is not None else api is not None
    with terminal, ExitStack() as stack:
        server = None
        if chosen and api is None:
            from flows.server import temporary_server  # noqa: PLC0415

            server = stack.enter_context(temporary_server(project.state / "prefect"))
        if prefect is None:
            terminal.say(f"driver: {f'Prefect at {api}' if chosen else 'direct (no Prefect API is configured; --prefect starts one)'}")
        driver = "prefect" if chosen else "direct"
        session = stack.enter_context(open_session(project, plan, options, terminal, driver=driver))
        if chosen:
            from flows.pipeline import run_as_flow  # noqa: PLC0415 - 1.5 s, while the server and the cluster start

            run_as_flow(session, api if server is None else server.wait())
        else:
            drive(session)
        record = {**session.record, "next": list(following)}
    for line in summary(record):
        terminal.say(line)
    return record


def drive(session: Session) -> None:
    """The direct driver: one step after the other."""
    for step in steps_of(session):
        step.do(session)
    finish(session)


def up_to_date(project: Project, plan: Plan) -> bool:
    """Whether no table and no model has to be made."""
    return plan.nothing_to_do and all(current_model(project, plan, name) is not None for name in project.models)


def plan_text(project: Project) -> str:
    """What a run would do and why, models included."""
    plan = plan_of(project)
    lines = [plan.text()]
    for name, model in project.models.items():
        if current_model(project, plan, name) is not None:
            lines.append(f"keep   model {name}  <- table {model.table}")
            continue
        lines.append(f"train  model {name}  <- table {model.table}")
        if not plan.tables[model.table].current:
            lines.append(f"         why: table {model.table} is built again")
        else:
            lines.append("         why: there is none with these features, settings and code")
    return "\n".join(lines)


