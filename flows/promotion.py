"""Which version of a model is in use: `production.json` beside its versions, written whole or not at all.

A gate decides: `gate = { metric = "auc", at_least = 0.65, drop = 0.01 }` in [models.NAME]. A version that fails it stays in the registry
and is not used. Without a gate the newest version is promoted.
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dlflow import registry
from dlflow.errors import ModelError
from flows.parameters import Parameters
from flows.predictor import FILE, in_use
from flows.project import Gate, Project
from flows.tables import print_json, print_rows

__all__ = ["Verdict", "judge", "print_models", "promote", "promote_passing", "promoted", "versions_of"]

LOWER_IS_BETTER = ("loss", "log_loss", "mse", "mae", "brier")


@dataclass(frozen=True)
class Verdict:
    """Whether a version may take the place of the one in use, and why."""

    model: str
    version: int
    passed: bool
    why: str


def promoted(project: Project, model: str) -> int | None:
    """The version in use, if one was ever promoted."""
    return in_use(project.state / "models", model)


def promote(project: Project, model: str, version: int, why: str) -> None:
    """Put a version into use.

    Raises: ModelError if there is no such version.
    """
    known = registry.versions(project.state / "models", model)
    if version not in known:
        raise ModelError(
            f"model {model!r} has no version {version}; expected one of {known}; `dlflow models` lists them"
        )
    folder = _folder(project, model)
    aside = folder / f".{FILE}.{secrets.token_hex(4)}.tmp"
    with aside.open("x", encoding="utf-8") as file:
        json.dump({"version": version, "why": why, "before": promoted(project, model)}, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(folder / FILE)


def promote_passing(run: Parameters) -> list[dict[str, Any]]:
    """Promote the newest version of each model that passes its gate; what was decided, for the log of the flow.

    Raises: ModelError naming the models that failed, once the others are promoted.
    """
    project = run.project()
    verdicts = [judge(project, name) for name in project.models]
    for verdict in verdicts:
        if verdict.passed and promoted(project, verdict.model) != verdict.version:
            promote(project, verdict.model, verdict.version, verdict.why)
    failed = [
        f"{verdict.model} version {verdict.version}: {verdict.why}"
        for verdict in verdicts
        if not verdict.passed
    ]
    if failed:
        raise ModelError(
            f"{'; '.join(failed)}; the version in use stays; look at the report, or promote by hand"
        )
    return [vars(verdict) for verdict in verdicts]


def versions_of(project: Project) -> list[dict[str, Any]]:
    """Every version of every model, newest first, with what it reached on the rows that were kept apart."""
    root, found = project.state / "models", []
    for name in project.models:
        current = promoted(project, name)
        for version in reversed(registry.versions(root, name)):
            metadata = json.loads((root / name / str(version) / "model.json").read_text("utf-8"))["metadata"]
            record, lineage = metadata["record"], metadata["lineage"]
            found.append(
                {
                    "model": name,
                    "version": version,
                    "in_use": version == current,
                    "table": f"{lineage['table']} {lineage['version']}",
                    "run": lineage["run"],
                    "metrics": record["metrics"].get("test") or record["metrics"].get("validation") or {},
                }
            )
    return found


def print_models(project: Project, *, as_json: bool) -> None:
    """Every version of every model, newest first."""
    found = versions_of(project)
    if as_json:
        print_json(found)
        return
    rows = [
        [
            *(one[key] for key in ("model", "version", "in_use", "table", "run")),
            ", ".join(
                f"{key} {value:.4g}" for key, value in one["metrics"].items() if isinstance(value, float)
            ),
        ]
        for one in found
    ]
    if rows:
        print_rows(["model", "version", "in use", "table", "run", "reached"], rows)
    else:
        click.echo("no models yet: dlflow run trains those of the pipeline file", err=True)


def judge(project: Project, model: str) -> Verdict:
    """Whether the newest version of a model passes its gate.

    Raises: ModelError if there is none, or the gate names a metric that was not measured.
    """
    root = project.state / "models"
    numbers = registry.versions(root, model)
    if not numbers:
        raise ModelError(f"model {model!r} has no version; train it first")
    newest, gate = numbers[-1], project.models[model].gate
    if gate is None:
        return Verdict(model, newest, passed=True, why="there is no gate")
    found = _metric(root, model, newest, gate)
    sign = -1 if gate.metric in LOWER_IS_BETTER else 1
    if gate.at_least is not None and sign * found < sign * gate.at_least:
        bound = "at most" if sign < 0 else "at least"
        return Verdict(
            model,
            newest,
            passed=False,
            why=f"{gate.metric} is {found:.4g}, expected {bound} {gate.at_least:g}",
        )
    current = promoted(project, model)
    if gate.drop is not None and current is not None and current != newest:
        before = _metric(root, model, current, gate)
        if sign * (before - found) > gate.drop:
            why = f"{gate.metric} is {found:.4g}, that of version {current} in use is {before:.4g}"
            return Verdict(
                model, newest, passed=False, why=f"{why}, expected no more than {gate.drop:g} worse"
            )
    return Verdict(model, newest, passed=True, why=f"{gate.metric} is {found:.4g}")


def _metric(root: Path, model: str, version: int, gate: Gate) -> float:
    metadata = json.loads((root / model / str(version) / "model.json").read_text("utf-8"))["metadata"]
    metrics: Mapping[str, Mapping[str, float]] = metadata["record"]["metrics"]
    measured = metrics.get(gate.on)
    if measured is None or measured.get(gate.metric) is None:
        sets = {
            name: [key for key, value in numbers.items() if value is not None]
            for name, numbers in metrics.items()
        }
        raise ModelError(
            f"model {model!r}: gate on {gate.metric!r} of {gate.on!r}, measured are {sets}; correct the gate"
        )
    return float(measured[gate.metric])


def _folder(project: Project, model: str) -> Path:
    return project.state / "models" / model
