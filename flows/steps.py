"""The steps of a run, in order: one per table, one per model, the report. Each is a plain function of the session.

Both drivers run these; a step gives a small dict that a terminal, a log or a Prefect artifact can show.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows import report, training
from flows.session import Session
from pipelines import build, inspection, publish
from pipelines.task import COUNTS
from pipelines.verdicts import aged, refuse_failed

__all__ = ["KINDS", "RunStep", "finish", "steps_of"]

KINDS = ("table", "model")


@dataclass(frozen=True)
class RunStep:
    """One step: its name for people, and what it does."""

    name: str
    kind: str  # "table" | "model"
    do: Callable[[Session], dict[str, Any]]


def steps_of(session: Session) -> list[RunStep]:
    """Tables that are out of date, then models; what is up to date is looked up, which costs nothing."""
    steps = [RunStep(name, "table", partial(_table, name)) for name in session.plan.tables]
    return steps + [
        RunStep(f"train {name}", "model", partial(_model, name)) for name in session.project.models
    ]


def _table(name: str, session: Session) -> dict[str, Any]:
    plan = session.plan.tables[name]
    if plan.current:
        made = _remembered(session, name)
        if made is not None:
            made["checks"] = aged(made["checks"])
            refuse_failed(name, made["checks"])
            session.record.setdefault("tables", []).append({**made, "status": "unchanged", "why": []})
            return made
    session.terminal.step_started(name)
    runner = session.runner  # waits for the cluster, which is not this step's time
    started = time.monotonic()
    built = build.build(
        plan,
        runner,
        reference=session.reference,
        run=session.run,
        progress=session.terminal.step_progress,
    )
    session.committed(name, built.version)
    ref = session.reference(name)
    made = {
        "name": name,
        "status": "unchanged" if built.already else "built",
        "why": list(plan.why),
        "version": built.version,
        "seconds": round(time.monotonic() - started, 3),
        **publish.totals(built.steps),
        "files": built.files,
        "bytes": built.bytes,
        "partition_by": list(plan.spec.partition_by),
        "steps": list(built.steps),
        "inputs": list(built.inputs),
        "rejects": inspection.reject_summary(plan.uri),
        "evidence": inspection.evidence_summary(plan.uri),
        "checks": list(built.checks),
        "check_history": inspection.check_history(plan.uri),
        "passes": [asdict(one) for one in plan.passes],
        "profile": inspection.profile_table(ref, runner),
    }
    _remember(session, made)
    session.record.setdefault("tables", []).append(made)
    session.terminal.step_done(name, rows=made["rows_in"], seconds=made["seconds"], note=_note(made))
    return made


def _note(made: dict[str, Any]) -> str:
    if made["status"] == "unchanged":
        return "up to date"
    words = {"quarantined": "quarantined", "deduplicated": "duplicates", "filtered": "left out"}
    return " · ".join(f"{made[key]:,} {word}" for key, word in words.items() if made[key])


def _model(name: str, session: Session) -> dict[str, Any]:
    made = training.train_model(session, name)
    session.record.setdefault("models", []).append(made)
    return made


def finish(session: Session) -> dict[str, Any]:
    """The record of the run, complete; the report is written."""
    record, pipeline = session.record, session.project.pipeline
    tables = record.setdefault("tables", [])
    record.setdefault("models", [])
    totals = {key: sum(table[key] for table in tables if table["status"] == "built") for key in COUNTS}
    gone = totals["rows_out"] + totals["quarantined"] + totals["deduplicated"] + totals["filtered"]
    path = session.options.report or pipeline.file.parent / "report.html"
    record.update(
        pipeline=pipeline.name,
        file=str(pipeline.file),
        run=session.run,
        started=session.run.partition("-")[0],
        seconds=round(time.monotonic() - session.started, 2),
        driver=session.driver,
        workers=session.workers,
        versions={
            name: version(name) for name in ("dlflow", "numpy", "pyarrow", "dask", "deltalake", "prefect")
        },
        plan=session.plan.text(),
        ledger={**totals, "balanced": totals["rows_in"] + totals["added"] == gone},
        report=_short(path),
    )
    session.record["report_path"] = str(report.write(record, path))
    return record


def _remember(session: Session, made: dict[str, Any]) -> None:
    """What a report shows of a table that a later run does not build. A convenience: the truth is in the tables."""
    path = session.project.state / "records" / f"{made['name']}-{made['version']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{session.run}.tmp")
    aside.write_text(json.dumps(made, default=str), "utf-8")
    aside.replace(path)


def _remembered(session: Session, name: str) -> dict[str, Any] | None:
    ref = session.reference(name)
    path = session.project.state / "records" / f"{name}-{ref.version}.json"
    try:
        made: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return made


def _short(path: Path) -> str:
    """Relative to where the person is, if it is below."""
    try:
        return f"./{path.resolve().relative_to(Path.cwd())}"
    except ValueError:
        return str(path)
