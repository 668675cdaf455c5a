"""One model of the pipeline file: from a committed table of features to evaluated, registered weights.

The features are a pinned version; its split column says which rows train, validate and test. Training runs as a gang
on the Dask workers, or in this process without a cluster: the bits are the same.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from dlflow import nn, registry
from dlflow.errors import ModelError, ModelFileError
from dlflow.training import Job, Outcome, Weights, fit
from dlflow.training.balance import balance
from dlflow.training.calibration import calibrate, check_calibration
from dlflow.training.checkpoint import load_weights
from flows.evaluation import evaluation, sets_of
from flows.fitting import fit_model
from flows.project import EstimatorSpec, ModelSpec, Project
from flows.session import Session
from pipelines import warehouse
from pipelines.inspection import fitted_of
from pipelines.plan import Plan

__all__ = ["current_model", "train_model"]

LOCK_S = 24 * 3600.0  # how long to wait for another run that trains the same model


def current_model(project: Project, plan: Plan, name: str) -> dict[str, Any] | None:
    """What is known of the newest version of a model, if it is what the file describes; None if it has to be trained."""
    spec = project.models[name]
    root = project.state / "models"
    try:
        folder = registry.latest(root, name)
        metadata = json.loads((folder / "model.json").read_text("utf-8"))["metadata"]
    except (ModelFileError, FileNotFoundError, KeyError, json.JSONDecodeError):
        return None
    if metadata.get("fingerprint") != _fingerprint(spec, plan.tables[spec.table].fingerprint):
        return None
    found: dict[str, Any] = metadata["record"]
    return {**found, "status": "unchanged", "why": []}


def train_model(session: Session, name: str) -> dict[str, Any]:
    """The record of a model: trained, evaluated, compared and registered, or found unchanged.

    Raises: ModelError, NonFinite, GangFailed.
    """
    root = str(session.project.pipeline.warehouse)
    with warehouse.lock(
        root, f"model_{name}", wait_s=LOCK_S, run=session.run
    ):  # two runs must not train in one folder
        if (known := current_model(session.project, session.plan, name)) and not session.options.prove:
            return known
        return _train(session, name)


def _train(session: Session, name: str) -> dict[str, Any]:
    spec = session.project.models[name]
    fingerprint = _fingerprint(spec, session.plan.tables[spec.table].fingerprint)
    if isinstance(spec, EstimatorSpec):
        return fit_model(session, name, spec, fingerprint=fingerprint, why=_why(session, name))
    ref = session.reference(spec.table)
    sets = sets_of(ref)
    layers, loss, optimizer = spec.made()
    if spec.class_weights is not None:
        loss = balance(loss, sets.train, nn.Model(layers, sets.train.shape).out_shape[-1])
    kept = spec.checkpoints and session.project.pipeline.file.parent / spec.checkpoints
    folder = Path(kept or session.project.state / "training") / f"{name}-{fingerprint}"
    before, begin = _first_weights(session, name, spec, fingerprint, nn.Model(layers, sets.train.shape))
    job = Job(
        layers=layers,
        loss=loss,
        optimizer=optimizer,
        train=replace(sets.train, weight=spec.weight),
        validation=sets.validation and replace(sets.validation, weight=spec.weight),
        folder=str(folder),
        batch=spec.batch,
        epochs=spec.epochs,
        seed=spec.seed,
        shards=spec.shards,
        exact=spec.exact,
        patience=spec.patience,
        callbacks=spec.watching(),
        checkpoint_s=spec.checkpoint_s,
        checkpoint_steps=spec.checkpoint_steps,
        keep_last=spec.keep_last,
        keep_best=spec.keep_best,
        monitor=spec.monitor,
        begin=begin,
        bucket=spec.bucket,
    )
    if spec.calibrate:
        check_calibration(nn.Model(layers, sets.train.shape), loss)
        if sets.validation is None:
            raise ModelError(
                f"models.{name}: calibrate needs validation rows, and table {spec.table!r} has none; set validation in the split"
            )
    started = time.monotonic()
    outcome = _run(session, name, job, workers=None, kill=session.options.kill_worker)
    seconds = time.monotonic() - started
    model = nn.Model(layers, sets.train.shape)
    model.w[...] = load_weights(outcome.weights, sha256=outcome.weights_sha256)
    calibrated = calibrate(model, loss, sets.validation) if spec.calibrate and sets.validation else None
    record = {
        "name": name,
        "status": "trained",
        "why": [_why(session, name)],
        "table": spec.table,
        "version": ref.version,
        "rows": {part: dataset.rows for part, dataset in sets.all().items()},
        "features": int(np.prod(sets.train.shape)),
        "architecture": _architecture(model),
        "parameters": outcome.parameters,
        "loss": loss.kind,
        "optimizer": optimizer.kind,
        "batch": spec.batch,
        "shards": job.shards,
        "seed": spec.seed,
        "workers": outcome.workers,
        "seconds": round(seconds, 2),
        "samples_per_s": round(sets.train.rows * len(outcome.history) / seconds) if seconds else None,
        "history": [dict(line) for line in outcome.history],
        "weights_sha256": outcome.weights_sha256,
        "numerics": dict(outcome.numerics),
        "restarts": list(outcome.restarts),
        "warm_start": before,
        "checkpoints": {"folder": str(folder), "best": list(outcome.best_checkpoints)} if kept else None,
        "calibrated": None if calibrated is None else asdict(calibrated),
        **evaluation(
            lambda X: loss.scores(model.outputs(X), model.head),
            loss.task,
            sets,
            baselines=spec.baselines,
            sliced=spec.slices,
            outputs=model.out_shape[-1],
        ),
        "proof": _proof(session, name, job, outcome) if session.options.prove else None,
    }
    number, path = registry.save_version(
        session.project.state / "models",
        name,
        weights=model.w,
        layers=layers,
        in_shape=sets.train.shape,
        metadata={
            "fingerprint": fingerprint,
            "loss": nn.loss_to(loss),
            "optimizer": nn.optimizer_to(optimizer),
            "features": list(sets.train.names or ()),
            "inputs": fitted_of(ref.uri, ref.version).get("features"),  # the recipe that scoring follows
            "lineage": {
                "table": spec.table,
                "version": ref.version,
                "files": [file.path for file in ref.files],
                "run": session.run,
            },
            "numerics": dict(outcome.numerics),
            "record": record,
        },
    )
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)  # the registered version is the truth now
    shutil.rmtree(f"{folder}-proof", ignore_errors=True)
    record |= {"model_version": number, "path": str(path)}
    return record


def _first_weights(
    session: Session, name: str, spec: ModelSpec, fingerprint: str, model: nn.Model
) -> tuple[int | None, Weights | None]:
    """The version to go on from and its weights, if that is wanted: the newest that is not of these very rows and settings."""
    root = session.project.state / "models"
    for number in reversed(registry.versions(root, name) if spec.warm_start else []):
        folder = root / name / str(number)
        try:
            found, metadata = registry.load(folder)
        except ModelFileError as error:
            why = str(error)
            break
        if metadata.get("fingerprint") == fingerprint:
            continue
        if (found.layers, found.in_shape) == (model.layers, model.in_shape):
            return number, Weights(registry.weights_digest(found.w), str(folder / registry.WEIGHTS))
        why = f"version {number} has other layers or inputs"
        break
    else:
        return None, None
    session.terminal.training({"model": name, "message": f"warm_start: begins anew: {why}"})
    return None, None


def _why(session: Session, name: str) -> str:
    there = registry.versions(session.project.state / "models", name)
    return "its features, settings or code changed" if there else "it is not there yet"


def _run(session: Session, name: str, job: Job, *, workers: int | None, kill: bool = False) -> Outcome:
    def tell(event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "step" | "epoch":
                shown = {key: value for key, value in event.items() if key != "event"}
                session.terminal.training({**shown, "model": name, "epoch": event["epoch"] + 1})
            case "restart" | "join" | "warning" | "advice":
                session.terminal.training({"model": name, "message": event["why"]})

    if session.client is None:
        return fit(job, tell)
    from dlflow.parallel.gang import fit_on  # noqa: PLC0415 - Dask is imported only where a cluster is used

    return fit_on(session.client, job, workers=workers, report=_killing(session, tell) if kill else tell)


def _killing(
    session: Session, tell: Callable[[Mapping[str, Any]], None]
) -> Callable[[Mapping[str, Any]], None]:
    """Kill -9 one worker process of this machine as soon as the first step is told, once."""
    done = False

    def report(event: Mapping[str, Any]) -> None:
        nonlocal done
        tell(event)
        if not done and event["event"] in {"step", "epoch"}:
            done = True
            from flows.cluster import worker_pids  # noqa: PLC0415

            pid = max(worker_pids(session.client).values())
            session.terminal.training({"message": f"killing worker process {pid} (kill -9), as asked"})
            os.kill(pid, signal.SIGKILL)

    return report


def _proof(session: Session, name: str, job: Job, outcome: Outcome) -> dict[str, Any]:
    """The same job once more, from the beginning, on one worker."""
    folder = f"{job.folder}-proof"
    shutil.rmtree(folder, ignore_errors=True)
    again = _run(session, f"{name} (proof)", replace(job, folder=folder), workers=1)
    return {
        "workers": again.workers,
        "weights_sha256": again.weights_sha256,
        "identical": again.weights_sha256 == outcome.weights_sha256,
    }


def _architecture(model: nn.Model) -> list[str]:
    """Layers in words: "dense 64 relu"."""
    return [" ".join(str(value) for value in nn.layer_to(layer).values()) for layer in model.layers]


WHEN_AND_WHETHER = (  # decide no weight
    "checkpoint_s",
    "checkpoint_steps",
    "checkpoints",
    "keep_last",
    "keep_best",
    "monitor",
    "gate",
)


def _fingerprint(spec: ModelSpec | EstimatorSpec, table: str) -> str:
    """What decides the weights: the settings, the features, the code of dlflow, NumPy and scikit-learn."""
    code = hashlib.sha256()
    for module in sorted(Path(nn.__file__).parent.parent.rglob("*.py")):
        code.update(module.read_bytes())
    settings = {name: value for name, value in asdict(spec).items() if name not in WHEN_AND_WHETHER}
    versions = [np.__version__] + ([version("scikit-learn")] if isinstance(spec, EstimatorSpec) else [])
    text = json.dumps([settings, table, code.hexdigest(), *versions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
