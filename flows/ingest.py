"""What is said about the rows that were set aside, looked at and read again, and about values in dispute."""

import datetime as dt
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.figures import plural
from flows.project import open_project
from flows.session import plan_of
from pipelines import inspection, ledger, warehouse
from pipelines.engine import InProcess
from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.places import Place
from pipelines.replay import replay
from pipelines.warehouse.names import EVIDENCE

__all__ = ["print_evidence", "print_quarantine", "replay_table"]


def print_quarantine(root: Place, table: str, *, as_json: bool) -> None:
    """Rejects of a table by rule and column, with samples."""
    uri = warehouse.Snapshot.open(str(root / table)).uri  # says what is wrong if there is no such table
    found = inspection.reject_summary(uri)
    total = sum(one["count"] for one in found)
    if as_json:
        said = {"table": table, "rows": total, "steps": inspection.rejects_by_step(uri), "rules": found}
        click.echo(json.dumps(said, indent=1, default=str, ensure_ascii=False))
        return
    click.echo(f"{table}: {plural(total, 'row')} set aside")
    for one in found:
        click.echo(_rule(one))
        for sample in one["samples"]:
            click.echo(f"    {sample['source']}:{sample['line']}: {sample['message']}")
            click.echo(f"        {_short(sample['raw'])}")
    if found:
        click.echo(f"after a rule or a declared column is mended: dlflow replay {table}")


def print_evidence(root: Place, table: str, *, as_json: bool) -> None:
    """Contradictions of a table by column and policy, with samples."""
    uri = warehouse.Snapshot.open(str(root / table)).uri  # says what is wrong if there is no such table
    found = inspection.evidence_summary(uri)
    total = sum(one["count"] for one in found)
    if as_json:
        said = {"table": table, "contradictions": total, "columns": found}
        click.echo(json.dumps(said, indent=1, default=str, ensure_ascii=False))
        return
    click.echo(f"{table}: {plural(total, 'contradiction')}")
    for one in found:
        decided = ", ".join(f"{count:,} by {what}" for what, count in one["decided"].items())
        click.echo(
            f"  {one['count']:,} x {one['column']}, policy {one['policy']}{f' ({decided})' * bool(decided)}"
        )
        for sample in one["samples"]:
            chosen = (
                "no row was kept" if sample["chosen"] is None else f"{_short(sample['chosen'])} was chosen"
            )
            click.echo(f"    key {_short(sample['key'])}: {chosen}")
            for claim in sample["values"]:
                click.echo(f"        {_claim(claim)}")
    if found:
        click.echo(f"every value is a row of {table}{EVIDENCE}, for dlflow sql")


def _claim(claim: Mapping[str, Any]) -> str:
    said = ", ".join(claim[name] for name in ("origin", "time") if claim[name])
    lost = f"; lost by {claim['decided']}" if claim["decided"] else ""
    return f"{_short(claim['value'])}  {claim['source']}:{claim['line']}{f' ({said})' * bool(said)}{lost}"


def replay_table(file: Path, settings: Mapping[str, str], table: str, *, as_json: bool) -> None:
    """Read the rejects of a table again, and say what became of them."""
    project = open_project(file, settings)
    root = str(project.pipeline.warehouse)
    if table not in project.pipeline.tables:
        raise SpecError(f"{file}: there is no table {table!r}{did_you_mean(table, project.pipeline.tables)}")
    warehouse.preflight(root)
    ledger.repair(root)
    run = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    done = replay(plan_of(project).tables[table], InProcess(), run=run)
    left = inspection.reject_summary(str(project.pipeline.warehouse / table))
    if as_json:
        said = {**asdict(done), "left": sum(one["count"] for one in left)}
        click.echo(json.dumps(said, indent=1, ensure_ascii=False))
        return
    if not done.read and not done.skipped:
        click.echo(f"{table}: no row was set aside, nothing to do")
        return
    parts = [f"{done.moved:,} moved into the table"]
    parts += [f"{done.filtered:,} left out by a rule"] if done.filtered else []
    parts += [f"{done.stay:,} stay"] if done.stay else []
    made = "nothing was changed" if done.version is None else f"version {done.version}"
    click.echo(f"{table}: {plural(done.read, 'row')} read again: {', '.join(parts)} ({made})")
    for reason, rows in done.skipped.items():
        click.echo(f"  {plural(rows, 'row')} could not be read again: {reason}")
    for one in left if done.stay or done.skipped else ():
        click.echo(f"{_rule(one)}: {one['samples'][0]['message']}")
    if done.moved or done.filtered:
        click.echo("tables that read this one: dlflow run")


def _rule(one: Mapping[str, Any]) -> str:
    column = f", column {one['column']}" if one["column"] else ""
    return f"  {one['count']:,} x {one['rule']}{column}"


def _short(text: str | None) -> str:
    shown = (text or "").replace("\n", "\\n")
    return shown if len(shown) <= 120 else shown[:117] + "..."
