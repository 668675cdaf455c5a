"""The training loop: the same function on one process and on each of N ranks, with the same bits on all.

A step: each rank takes its shards of the global batch, fills one message per shard, the tree adds the messages of all shards, and
every rank then does the same update with the same numbers. Nothing depends on the clock but when a checkpoint is written,
and a checkpoint changes nothing.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlflow.data import Batches
from dlflow.errors import ModelError, NonFinite
from dlflow.nn import Message, Model, Stream
from dlflow.nn.clipping import Clipping
from dlflow.parallel.comm import Alone, Comm, TreeSum, broadcast, shard_bounds
from dlflow.training.checkpoint import HEADER_BYTES, Checkpoint, Checkpoints, Progress, decode, save_weights
from dlflow.training.job import Job, Outcome
from dlflow.training.numerics import one_blas_thread
from dlflow.training.validate import Validation

__all__ = ["WEIGHTS", "Report", "fit", "train"]

Report = Callable[[dict[str, Any]], None]
"""Is told what happens on rank 0: {"event": "start" | "step" | "validation" | "epoch" | "checkpoint" | "warning", ...}."""

WEIGHTS = "weights.safetensors"
REPORT_S = 0.2  # steps are told at most this often
EPOCH_S = 1.0  # a checkpoint costs two fsyncs, 5 to 20 ms: epochs shorter than this share one


def fit(job: Job, report: Report | None = None) -> Outcome:
    """Train in this process; resumes where an interrupted run of the same job stopped.

    Raises: ModelError, NonFinite, ModelFileError.
    """
    return train(job, Alone(), report)


def train(job: Job, comm: Comm, report: Report | None = None) -> Outcome:
    """Train as one rank; every rank calls it with the same job, and gets the same outcome.

    Raises: ModelError, NonFinite on all ranks in the same step; ModelFileError on rank 0; PeerLost, Stopped.
    """
    # what overflows on one rank is seen by all in the sum, and ends the training with the step and the layer
    with one_blas_thread() as facts, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if facts["blas_threads"] != 1:
            raise ModelError(
                f"BLAS of rank {comm.rank} computes with {facts['blas_threads']} threads, expected 1; "
                "set OPENBLAS_NUM_THREADS=1 (MKL_NUM_THREADS=1) before the process starts"
            )
        return _Training(job, comm, report if comm.rank == 0 and report else _silent, facts).run()


class _Training:
    """One rank's model, optimizer state and place in the training."""

    def __init__(self, job: Job, comm: Comm, report: Report, facts: dict[str, str | int]) -> None:
        self.job, self.comm, self.report, self.facts = job, comm, report, facts
        self.model = Model(job.layers, job.train.shape)
        job.loss.check(self.model.out_shape, self.model.head)
        self.state = job.optimizer.new_state(self.model.parameters)
        self.clipping = Clipping(self.model.slots, job.optimizer)
        self.batches = Batches(job.train, batch=job.batch, seed=job.seed)
        self.tree: TreeSum[Message] = TreeSum(comm, job.shards, self.model.new_message)
        self.validation = (
            Validation(job, job.validation, self.model, comm, report) if job.validation else None
        )
        self.checkpoints = Checkpoints(job.folder, job.fingerprint)
        self.at = Progress()
        self.best: Any = None
        self._since = self._saved = time.monotonic()
        self._told = -math.inf

    def run(self) -> Outcome:
        self._resume()
        while not self.at.finished:
            self._epoch()
        return self._outcome()

    def _resume(self) -> None:
        sizes = {"parameters": self.model.parameters, "state": len(self.state)}
        data = broadcast(
            self.comm,
            lambda: self.checkpoints.newest(**sizes, warn=self._warn),
            self.at.updates,
            limit=4 * (2 * self.model.parameters + len(self.state)) + HEADER_BYTES,
        )
        if data:
            self._take_up(decode(data, **sizes))
        else:
            self.model.init(self.job.seed)
            self.model.constrain()
        self.report(
            {
                "event": "start",
                "workers": self.comm.size,
                "parameters": self.model.parameters,
                "epoch": self.at.epoch,
                "step": self.at.step,
                "steps": self.batches.steps,
                "resumed": bool(data),
            }
        )

    def _take_up(self, found: Checkpoint) -> None:
        self.model.w[...], self.state[...] = found.w, found.state
        self.at, self.best = found.progress, found.best
        if found.numerics != self.facts:
            changed = [
                f"{name} was {old!r}, is {self.facts.get(name)!r}" for name, old in found.numerics.items()
            ]
            changed = [
                text
                for text, name in zip(changed, found.numerics, strict=True)
                if found.numerics[name] != self.facts.get(name)
            ]
            self._warn(
                f"the checkpoint was computed elsewhere ({'; '.join(changed)}): the weights will differ in their last bits"
            )

    def _epoch(self) -> None:
        self._since = time.monotonic() - self.at.seconds
        while self.at.step < self.batches.steps:
            loss = self._step()
            self._after_step(loss)
        self._end_epoch()

    def _step(self) -> float:
        job, at, model = self.job, self.at, self.model
        bounds = shard_bounds(self.batches.size(at.step), job.shards)
        for shard in self.tree.own:
            X, y = self.batches.take(at.epoch, at.step, bounds[shard], bounds[shard + 1])
            message = self.tree.buffer()
            rng = Stream(job.seed, "dropout", step=at.updates, shard=shard)
            model.gradient(job.loss, X, y, rng=rng, into=message)
            self.tree.add(shard, message)
        total = self.tree.reduce(at.updates)
        weight = float(total.g[-1])
        try:
            loss = model.finish(total)
        except NonFinite as error:
            raise NonFinite(f"epoch {at.epoch}, step {at.step} of {self.batches.steps}: {error}") from error
        at.step += 1
        at.updates += 1
        self.clipping.clip(total.g[:-2])
        job.optimizer.step(model.w, total.g[:-2], self.state, at.updates)
        model.constrain()
        at.loss_sum += loss * weight
        at.weight_sum += weight
        return loss

    def _after_step(self, loss: float) -> None:
        now, at = time.monotonic(), self.at
        at.seconds = now - self._since
        if now - self._told >= REPORT_S:
            self._told = now
            rows = min(at.step * self.job.batch, self.batches.rows)
            self.report(
                {
                    "event": "step",
                    "epoch": at.epoch,
                    "epochs": self.job.epochs,
                    "step": at.step,
                    "steps": self.batches.steps,
                    "loss": loss,
                    "samples_per_s": rows / at.seconds if at.seconds else 0.0,
                }
            )
        due = now - self._saved >= self.job.checkpoint_s and at.step < self.batches.steps
        if due and self._finite():  # if not, the next step ends all ranks
            self._save()

    def _end_epoch(self) -> None:
        at, job = self.at, self.job
        line: dict[str, Any] = {"epoch": at.epoch, "loss": at.loss_sum / at.weight_sum}
        last = self._show_average()
        if self.validation:
            line |= self.validation.run(at.epoch, at.updates)
        at.seconds = time.monotonic() - self._since
        line |= {"seconds": at.seconds, "samples_per_s": self.batches.rows / at.seconds}
        at.history.append(line)
        if job.patience is not None and (at.best_loss is None or line["val_loss"] < at.best_loss):
            at.best_loss, at.best_epoch, self.best = line["val_loss"], at.epoch, self.model.w.copy()
        self.model.w[...] = last
        if not self._finite():
            raise NonFinite(
                f"epoch {at.epoch}: the weights are no longer finite, expected numbers; lower the learning rate"
            )
        patient = at.best_epoch is None or at.epoch - at.best_epoch < (job.patience or 1)
        at.epoch += 1
        at.stopped_early = not patient and at.epoch < job.epochs
        at.finished = at.stopped_early or at.epoch == job.epochs
        at.step, at.loss_sum, at.weight_sum, at.seconds = 0, 0.0, 0.0, 0.0
        self.report({"event": "epoch", "epochs": job.epochs, **line})
        if at.finished or time.monotonic() - self._saved >= min(EPOCH_S, job.checkpoint_s):
            self._save()

    def _show_average(self) -> NDArray[np.float32]:
        """Put the average of the weights into the model if one is kept, for evaluation; give the weights it had."""
        w = self.model.w
        if self.job.optimizer.average is None:
            return w
        last = w.copy()
        w[...] = self.job.optimizer.averaged(w, self.state, self.at.updates)
        return last

    def _finite(self) -> bool:
        return math.isfinite(float(np.dot(self.model.w, self.model.w)))

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.comm.rank:
            return
        progress = replace(self.at, history=list(self.at.history))
        path = self.checkpoints.save(
            Checkpoint(self.job.fingerprint, self.facts, progress, self.model.w, self.state, self.best)
        )
        self.report({"event": "checkpoint", "epoch": self.at.epoch, "step": self.at.step, "path": str(path)})

    def _outcome(self) -> Outcome:
        if self.best is not None:
            self.model.w[...] = self.best
        else:
            self._show_average()
        digest = hashlib.sha256(self.model.w.tobytes()).hexdigest()
        path = Path(self.job.folder) / WEIGHTS
        if self.comm.rank == 0:
            save_weights(
                path, self.model.w, {"job": self.job.fingerprint, "sha256": digest, "numerics": self.facts}
            )
        return Outcome(
            weights=str(path),
            weights_sha256=digest,
            history=tuple(self.at.history),
            steps=self.at.updates,
            stopped_early=self.at.stopped_early,
            best_epoch=self.at.best_epoch,
            parameters=self.model.parameters,
            workers=self.comm.size,
            numerics=self.facts,
        )

    def _warn(self, why: str) -> None:
        self.report({"event": "warning", "why": why})


def _silent(event: dict[str, Any]) -> None:
    del event
