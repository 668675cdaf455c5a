"""A model of the pipeline file that is an estimator of scikit-learn: fitted whole, on one worker, evaluated and registered.

Its rows must fit the memory of one process. The bits do not depend on where it runs: one BLAS thread, and the seed of the file
where an estimator draws numbers.
"""

import hashlib
import json
import time
from importlib.metadata import version
from typing import Any

import numpy as np

from dlflow import fitted
from dlflow.data import Dataset
from dlflow.errors import ModelError
from flows.evaluation import evaluation, sets_of
from flows.project import EstimatorSpec
from flows.session import Session
from pipelines.inspection import fitted_of

__all__ = ["fit_model"]

LIMIT_BYTES = 4 << 30  # of training rows


def fit_model(
    session: Session, name: str, spec: EstimatorSpec, *, fingerprint: str, why: str
) -> dict[str, Any]:
    """The record of the model, fitted and registered.

    Raises: ModelError for rows that do not fit the estimator, or the memory.
    """
    ref = session.reference(spec.table)
    sets = sets_of(ref)
    recipe = fitted_of(ref.uri, ref.version)["features"]
    classes = None if recipe["classes"] is None else len(recipe["classes"])
    task = fitted.task_of(spec.made(), classes)
    size = 4 * sets.train.rows * int(np.prod(sets.train.shape))
    if size > LIMIT_BYTES:
        raise ModelError(
            f"models.{name}: {spec.estimator} holds all training rows in memory: {size:,} bytes, the limit is {LIMIT_BYTES:,}; "
            "take fewer rows, or a network"
        )
    started = time.monotonic()
    data = _fit(session, spec, sets.train)
    seconds = time.monotonic() - started
    estimator = fitted.loads(data)
    digest = _digest(estimator, sets.train, task, classes or 1)
    record = {
        "name": name,
        "status": "trained",
        "why": [why],
        "table": spec.table,
        "version": ref.version,
        "rows": {part: dataset.rows for part, dataset in sets.all().items()},
        "features": int(np.prod(sets.train.shape)),
        "architecture": [fitted.words(spec.estimator, spec.settings)],
        "seed": spec.seed,
        "workers": 1,
        "seconds": round(seconds, 2),
        "samples_per_s": round(sets.train.rows / seconds) if seconds else None,
        "history": [],
        "weights_sha256": digest,
        **evaluation(
            lambda X: fitted.scores(estimator, X, task, classes or 1),
            task,
            sets,
            baselines=spec.baselines,
            sliced=spec.slices,
            outputs=classes or 1,
        ),
        "proof": None,
    }
    if session.options.prove:
        again = _digest(fitted.loads(_fit(session, spec, sets.train)), sets.train, task, classes or 1)
        record["proof"] = {"workers": 1, "weights_sha256": again, "identical": again == digest}
    number, path = fitted.save_version(
        session.project.state / "models",
        name,
        data,
        estimator=spec.estimator,
        metadata={
            "fingerprint": fingerprint,
            "task": task,
            "features": list(sets.train.names or ()),
            "inputs": recipe,
            "lineage": {
                "table": spec.table,
                "version": ref.version,
                "files": [file.path for file in ref.files],
                "run": session.run,
            },
            "numerics": {package: version(package) for package in ("numpy", "scikit-learn")},
            "record": record,
        },
    )
    return {**record, "model_version": number, "path": str(path)}


def _fit(session: Session, spec: EstimatorSpec, train: Dataset) -> bytes:
    """The fitted estimator as a file, made on a worker if there is one."""
    job = json.dumps({"estimator": spec.estimator, "settings": spec.settings, "seed": spec.seed})
    if session.client is None:
        return fit_here(job, train)
    found: bytes = session.client.submit(fit_here, job, train, pure=False).result()
    return found


def fit_here(job: str, train: Dataset) -> bytes:
    """Fit in this process: the work of one worker.

    Raises: ModelError.
    """
    settings = json.loads(job)
    X, y = train.read()
    estimator = fitted.estimator_from(settings["estimator"], settings["settings"], settings["seed"])
    return fitted.dumps(fitted.fit(estimator, X, y))


def _digest(estimator: Any, train: Dataset, task: str, classes: int) -> str:
    """SHA-256 of the answers to the training rows: an estimator has no one vector of weights."""
    total = hashlib.sha256()
    for number, file in enumerate(train.files):
        for group in range(len(file.row_groups)):
            X, _ = train.group(number, group)
            total.update(np.ascontiguousarray(fitted.scores(estimator, X, task, classes), "<f8").tobytes())
    return total.hexdigest()
