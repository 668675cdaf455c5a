"""One run of a pipeline file: plan, take the steps, say what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import journal
from flows.driver import Driver, driver
from flows.project import Project, open_project
from flows.session import Options, open_session, plan_of
from flows.steps import KINDS
from flows.terminal import Terminal, summary
from flows.training import current_model
from pipelines import ledger
from pipelines.inspection import last_checks
from pipelines.plan import Plan
from pipelines.task import COUNTS
from pipelines.verdicts import aged, refuse_failed

__all__ = ["plan_facts", "plan_text", "run_facts", "run_file", "run_project", "up_to_date"]


def run_file(
    file: Path,
    settings: Mapping[str, str],
    options: Options,
    *,
    prefect: bool | None,
    env: str | None = None,
    terminal: Terminal | None = None,
) -> dict[str, Any] | None:
    """Run a pipeline file, and tell the terminal (default: on stdout); the record, or None if there was nothing to do."""
    project = open_project(file, settings, env)
    options = options.within(project.environment)
    ledger.repair(str(project.pipeline.warehouse))  # after a crash between a commit and its entries
    plan = plan_of(project)
    terminal = terminal or Terminal()
    if up_to_date(project, plan) and not options.prove:
        _tell_age(plan, terminal)
        journal.remember(
            project.state, pipeline=project.pipeline.name, file=project.pipeline.file, driver="direct"
        )
        names = ", ".join([*plan.tables, *project.models])
        terminal.say(f"dlflow {project.pipeline.name}: nothing to do, all up to date: {names}")
        return None
    with driver(prefect, project.state / "prefect") as chosen:
        if chosen.why:
            terminal.say(f"driver: {chosen.why}")
        return run_project(project, plan, options, terminal, chosen)


def _tell_age(plan: Plan, terminal: Terminal) -> None:
    """What was fresh when it was built may have become old: that no new data came is what the check is for.

    Raises: CheckFailed.
    """
    for table in plan.tables.values():
        if not any(check.check == "freshness" for check in table.spec.checks):
            continue
        found = aged(last_checks(table.uri))
        refuse_failed(table.name, found)
        for one in found:
            if "newest" in one and not one["passed"]:
                terminal.say(
                    f"warning: table {table.name}: {one['name']}: {one['found']}, expected {one['expected']}"
                )


def run_project(
    project: Project,
    plan: Plan,
    options: Options,
    terminal: Terminal,
    chosen: Driver,
    *,
    following: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run with a driver, and show the summary; the record."""
    with terminal, open_session(project, plan, options, terminal, driver=chosen.name) as session:
        chosen.run(session)
    record = {**session.record, "next": list(following)}
    for line in summary(record):
        terminal.say(line)
    return record


def up_to_date(project: Project, plan: Plan, kinds: Sequence[str] = KINDS) -> bool:
    """Whether nothing of these kinds has to be made."""
    return ("table" not in kinds or plan.nothing_to_do) and (
        "model" not in kinds or all(current_model(project, plan, name) is not None for name in project.models)
    )


def run_facts(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run has done, for programs: versions and counts; all else is in the tables and in the registry."""
    if record is None:
        return {"run": None, "tables": [], "models": [], "ledger": None, "report": None, "seconds": None}
    table = ("name", "status", "version", *COUNTS, "files", "bytes", "seconds")
    model = ("name", "status", "model_version", "metrics", "weights_sha256", "path", "seconds")
    return {
        "run": record["run"],
        "tables": [{key: one.get(key) for key in table} for one in record["tables"]],
        "models": [{key: one.get(key) for key in model} for one in record["models"]],
        "ledger": record["ledger"],
        "report": record["report_path"],
        "seconds": record["seconds"],
    }


def plan_facts(project: Project) -> dict[str, Any]:
    """What a run would do and why, for programs."""
    plan = plan_of(project)
    tables = [
        {
            "table": one.name,
            "action": one.action,
            "why": list(one.why),
            "problem": one.load.problem if one.load else None,
            "inputs": [
                {"name": each.name, "kind": each.kind, "files": len(each.files)} for each in one.inputs
            ],
            "passes": [asdict(each) for each in one.passes],
        }
        for one in plan.tables.values()
    ]
    models = [
        {
            "model": name,
            "action": "keep" if current_model(project, plan, name) is not None else "train",
            "table": model.table,
        }
        for name, model in project.models.items()
    ]
    return {"pipeline": project.pipeline.name, "tables": tables, "models": models}


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
