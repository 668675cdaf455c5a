"""What the callbacks of a job decide at the end of an epoch: rank 0 asks them, and all ranks do as they say."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from dlflow.errors import DlflowError, ModelError
from dlflow.nn import Model
from dlflow.nn.callbacks import Control, decide, rises
from dlflow.nn.choice import suggestion
from dlflow.nn.model_file import Description, write_model
from dlflow.parallel.comm import Comm, broadcast
from dlflow.training.checkpoint import Progress
from dlflow.training.job import Job

__all__ = ["Decision", "ask", "rank_epoch"]

DECISION_BYTES = 1 << 20  # of what callbacks remember; more is refused


class Decision(NamedTuple):
    """Whether these weights are the best so far, and why the training stops, if it does."""

    keep: bool
    stop: str


def ask(job: Job, model: Model, comm: Comm, at: Progress, line: dict[str, Any]) -> Decision:
    """Run the callbacks on rank 0; on all ranks `at` then has the learning rate they chose and what they remember. Before that it is as it was.

    Raises: ModelError on all ranks if a callback fails; PeerLost, Stopped.
    """
    if not job.watching:
        return Decision(keep=False, stop="")
    data = broadcast(comm, lambda: _said(job, model, at, line), at.updates, limit=DECISION_BYTES)
    said = json.loads(data.decode())
    if "error" in said:
        raise ModelError(said["error"])
    at.remembered, at.scale = said["remembered"], said["scale"]
    return Decision(said["keep"], said["stop"])


def rank_epoch(job: Job, at: Progress, line: dict[str, Any]) -> bool:
    """Whether this epoch is among the best of the job, which `at` then knows; every rank finds the same.

    Raises: ModelError for a monitor that no epoch has.
    """
    if not job.keep_best:
        return False
    if job.monitor not in line:
        raise ModelError(
            f"job: the best checkpoints are those of {job.monitor!r}, which no epoch has; {suggestion(job.monitor, line)}"
        )
    value = float(line[job.monitor])
    if math.isnan(value):
        return False
    # of two that are as good, the earlier one is kept
    at.ranking.append((value, at.updates))
    at.ranking.sort(key=lambda each: (-each[0] if rises(job.monitor) else each[0], each[1]))
    del at.ranking[job.keep_best :]
    return (value, at.updates) in at.ranking


def _said(job: Job, model: Model, at: Progress, line: dict[str, Any]) -> bytes:
    def save(path: str | Path) -> None:
        metadata = {"job": job.fingerprint}
        found = Description(loss=job.loss, seed=job.seed, history=history, metadata=metadata)
        write_model(path, model, found)

    history, remembered = [*at.history, line], deepcopy(at.remembered)
    control = Control(
        epoch=at.epoch,
        epochs=job.epochs,
        line=line,
        history=history,
        rate=job.optimizer.rate_at(at.updates + 1),
        scale=at.scale,
        save=save,
    )
    try:
        decide(job.watching, control, remembered)
        said: dict[str, Any] = {"remembered": remembered, "scale": control.scale}
        text = json.dumps(said | {"keep": control.keep, "stop": control.stop})
        if len(text) > DECISION_BYTES:
            raise ModelError(
                f"callbacks remember {len(text):,} bytes, expected at most {DECISION_BYTES:,}; keep less"
            )
    except (DlflowError, TypeError, ValueError) as error:
        text = json.dumps({"error": f"{error}"})
    return text.encode()
