"""`dlflow status`: the last runs, how old each table is, which model is in use, and what Prefect will run next."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dlflow import registry
from flows import journal
from flows.figures import duration
from flows.project import Project
from flows.promotion import promoted
from flows.server import ServerError, configured_api
from flows.tables import print_json, print_rows
from pipelines.warehouse import catalog

__all__ = ["print_status", "status"]


def print_status(project: Project, *, runs: int, as_json: bool) -> None:
    """Runs, tables, models, deployments."""
    found = status(project, runs=runs)
    if as_json:
        print_json(found)
        return
    click.echo(f"{project.pipeline.name}  {project.pipeline.file}\n")
    if found["runs"]:
        rows = [
            [one["started"], one["status"], one["driver"], one["host"], one["error"] or _made(one)]
            for one in found["runs"]
        ]
        print_rows(["run (UTC)", "status", "driver", "on", "made"], rows)
    else:
        click.echo("no runs yet: dlflow run")
    click.echo()
    print_rows(
        ["table", "version", "rows", "age"],
        [[one["table"], one["version"], one["rows"], _age(one["age_s"])] for one in found["tables"]],
    )
    if found["models"]:
        click.echo()
        print_rows(
            ["model", "newest", "in use"],
            [
                [one["model"], one["newest"], one["in_use"] or "none: dlflow promote"]
                for one in found["models"]
            ],
        )
    click.echo()
    if found["prefect"]["problem"]:
        click.echo(f"Prefect: {found['prefect']['problem']}")
    for one in found["prefect"]["deployments"]:
        coming = f"next {one['next']:%Y-%m-%d %H:%M} UTC" if one["next"] else "nothing scheduled"
        paused = ", paused" if one["paused"] else ""
        click.echo(
            f"Prefect: {one['flow']}/{one['name']}  {', '.join(one['schedules']) or 'no schedule'}  {coming}{paused}"
        )


def status(project: Project, *, runs: int) -> dict[str, Any]:
    """What is known, for programs."""
    now = dt.datetime.now(dt.UTC)
    known = {one.name: one for one in catalog.tables(str(project.pipeline.warehouse))}
    return {
        "pipeline": project.pipeline.name,
        "runs": [asdict(one) for one in journal.entries(project.state)[:runs]],
        "tables": [_table(name, known.get(name), now) for name in project.pipeline.tables],
        "models": [
            {
                "model": name,
                "newest": next(reversed(registry.versions(project.state / "models", name)), None),
                "in_use": promoted(project, name),
            }
            for name in project.models
        ],
        "prefect": _prefect(project.pipeline.file),
    }


def _table(name: str, found: Any, now: dt.datetime) -> dict[str, Any]:
    if found is None:
        return {"table": name, "version": None, "rows": None, "age_s": None}
    return {
        "table": name,
        "version": found.version,
        "rows": found.rows,
        "age_s": round((now - found.updated).total_seconds()),
    }


def _prefect(file: Path) -> dict[str, Any]:
    if configured_api() is None:
        return {"problem": "no API is configured, so nothing is scheduled", "deployments": []}
    from flows.deployment import deployments  # noqa: PLC0415 - 1.5 s of Prefect

    try:
        ours = [asdict(one) for one in deployments() if Path(one.file) == file]
    except ServerError as error:
        return {"problem": str(error), "deployments": []}
    problem = None if ours else "this pipeline has no deployment: dlflow deploy"
    return {"problem": problem, "deployments": ours}


def _made(run: Mapping[str, Any]) -> str:
    if run["status"] != "done":
        return ""
    tables = run["tables"] or {}
    return ", ".join(f"{name} {version}" for name, version in tables.items()) or "nothing to do"


def _age(seconds: float | None) -> str:
    return "not built" if seconds is None else duration(seconds)
