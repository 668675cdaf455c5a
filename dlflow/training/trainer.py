"""The training loop: the same function on one process and on each of N ranks, with the same bits on all.

Each step is an Update of all ranks. Nothing depends on the clock but when a checkpoint is kept, which rank 0 decides for all and
which changes nothing.
"""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlflow.data import Batches
from dlflow.errors import ModelError, NonFinite, PeerLost
from dlflow.parallel.comm import Alone, Comm, Stopped
from dlflow.training.beginning import begin, newest
from dlflow.training.checkpoint import Checkpoint, Checkpoints, Memory, Progress, decode, save_weights
from dlflow.training.job import Job, Outcome
from dlflow.training.numerics import one_blas_thread
from dlflow.training.pace import Pace
from dlflow.training.saving import Saver
from dlflow.training.update import Update
from dlflow.training.validate import Validation
from dlflow.training.watching import ask, rank_epoch

__all__ = ["WEIGHTS", "Report", "fit", "train"]

Report = Callable[[dict[str, Any]], None]
"""Is told what happens on rank 0: {"event": "start" | "step" | "validation" | "epoch" | "checkpoint" | "warning", ...}."""

WEIGHTS = "weights.safetensors"
REPORT_S = 0.2  # steps are told at most this often
MEMORY_S = 1.0  # age of the checkpoint in memory where no rank has the whole state: what is done again when one is lost
KEEP_SHARE = 0.02  # of the time such checkpoints may take: those of large models are older
GO_ON, KEEP, PAUSE = range(3)  # what rank 0 commands after a step
EPOCH_S = 1.0  # a checkpoint costs two fsyncs, 5 to 20 ms: epochs shorter than this share one


def fit(job: Job, report: Report | None = None) -> Outcome:
    """Train in this process; resumes where an interrupted run of the same job stopped.

    Raises: ModelError, NonFinite, ModelFileError.
    """
    return train(job, Alone(), report)


def train(job: Job, comm: Comm, report: Report | None = None, memory: Memory | None = None) -> Outcome:
    """Train as one rank; every rank calls it with the same job, and gets the same outcome.

    `memory` outlives this call: when a rank is lost, the others go on from the newest that one of them has there. Where every rank has the
    whole state of the optimizer (`Update.sharded` is false) that is the last step that one of them has done.

    Raises: ModelError, NonFinite on all ranks in the same step; ModelFileError on rank 0; PeerLost, Stopped.
    """
    # what overflows on one rank is seen by all in the sum, and ends the training with the step and the layer
    with one_blas_thread() as facts, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if facts["blas_threads"] != 1:
            raise ModelError(
                f"BLAS of rank {comm.rank} computes with {facts['blas_threads']} threads, expected 1; "
                "set OPENBLAS_NUM_THREADS=1 (MKL_NUM_THREADS=1) before the process starts"
            )
        return _Training(job, comm, report if comm.rank == 0 and report else _silent, facts, memory).run()


class _Training:
    """One rank's model, optimizer state and place in the training."""

    def __init__(
        self, job: Job, comm: Comm, report: Report, facts: dict[str, str | int], memory: Memory | None
    ) -> None:
        self.job, self.comm, self.report, self.facts, self.memory = job, comm, report, facts, memory
        self.batches = Batches(job.train, batch=job.batch, seed=job.seed, bucket=job.bucket)
        self.model = job.model(comm.zeros)
        job.loss.check(self.model.out_shape, self.model.head)
        self.update = Update(job, self.model, comm)
        self.validation = (
            Validation(job, job.validation, self.model, comm, report) if job.validation else None
        )
        self.checkpoints = Checkpoints(job.folder, job.fingerprint, keep=job.keep_last)
        self.saver = Saver(self.checkpoints)
        self.pace = Pace(comm.size, report)
        self.at = Progress()
        self.best: Any = None
        self._since = self._saved = self._kept = time.monotonic()
        self._age = MEMORY_S
        if memory is not None:
            memory.pause = False
        self._told = -math.inf
        self._first, self._began = 0, 0.0  # of these ranks: the step and the time of their start

    def run(self) -> Outcome:
        self._resume()
        try:
            while not self.at.finished:
                self._epoch()
        except (PeerLost, Stopped):
            if self.memory is not None and not self.update.sharded:
                self.memory.kept = self._checkpoint()
            raise
        finally:
            self.batches.close()
            self.saver.wait()
        self._tell_saved()
        return self._outcome()

    def _resume(self) -> None:
        """Go on from the newest checkpoint that any rank has in memory or rank 0 finds on disk."""
        sizes = {"parameters": self.model.parameters, "state": len(self.update.state)}
        kept = self.memory.kept if self.memory else None
        data, place = newest(self.comm, kept, self.checkpoints, sizes, self._warn)
        if data:
            self._take_up(decode(data, **sizes))
        else:
            begin(self.job, self.model, self.comm)
        self._first, self._began = self.at.updates, time.monotonic()
        self.report(
            {
                "event": "start",
                "workers": self.comm.size,
                "parameters": self.model.parameters,
                "epoch": self.at.epoch,
                "step": self.at.step,
                "steps": self.batches.steps,
                "resumed": bool(data),
                "from": place,
            }
        )

    def _take_up(self, found: Checkpoint) -> None:
        self.model.w[...], self.update.state[...] = found.w, found.state
        self.at, self.best = found.progress, found.best
        changed = [
            f"{name} was {old!r}, is {self.facts.get(name)!r}"
            for name, old in found.numerics.items()
            if old != self.facts.get(name)
        ]
        if changed:
            self._warn(
                f"the checkpoint was computed elsewhere ({'; '.join(changed)}): the weights will differ in their last bits"
            )

    def _epoch(self) -> None:
        self._since = time.monotonic() - self.at.seconds
        wanted = False
        while self.at.step < self.batches.steps:
            wanted = self._step()
        self._end_epoch(wanted=wanted)

    def _step(self) -> bool:
        """One step; whether a checkpoint is due that was not made because the epoch ends.

        Raises: Stopped after a step that is to be the last one of these ranks; they have it in memory.
        """
        at = self.at
        loss, weight, command, hits = self.update.run(self.batches, at, command=self._due())
        at.step += 1
        at.updates += 1
        at.loss_sum += loss * weight
        at.weight_sum += weight
        at.right += hits.right
        at.counted += hits.counted
        at.padded += self.update.padding.right
        at.tokens += self.update.padding.counted
        self.update.settle(at.updates - 1)
        self.pace.add(self.update.seconds)
        self._tell_step(loss)
        self._tell_saved()
        if (
            command and (command == PAUSE or at.step < self.batches.steps) and self._finite()
        ):  # if not, the next step ends all
            self._keep()
            if command == PAUSE:
                raise Stopped(f"paused after step {at.updates}: other workers are to hold the ranks")
            return False
        return bool(command)

    def _due(self) -> int:
        """What rank 0 wants after this step: its clock, the count, or somebody who asks decides for all."""
        if self.comm.rank:
            return GO_ON
        job, now = self.job, time.monotonic()
        if self.memory is not None and self.memory.pause:
            return PAUSE
        counted = job.checkpoint_steps and (self.at.updates + 1) % job.checkpoint_steps == 0
        aged = self.memory is not None and self.update.sharded and now - self._kept >= self._age
        patience = (
            EPOCH_S if self.at.step + 1 == self.batches.steps else math.inf
        )  # the end of an epoch is a good place
        return KEEP if counted or aged or now - self._saved >= min(job.checkpoint_s, patience) else GO_ON

    def _tell_step(self, loss: float) -> None:
        now, at = time.monotonic(), self.at
        at.seconds = now - self._since
        if now - self._told < REPORT_S:
            return
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
                "workers": self.comm.size,
                "samples_per_s": rows / at.seconds if at.seconds else 0.0,
                "eta_s": self._eta(now),
            }
        )

    def _eta(self, now: float) -> float:
        """Seconds to the end of the last epoch, if all goes on as since the start of these ranks; validation and callbacks included."""
        at, steps = self.at, self.batches.steps
        left = (self.job.epochs - at.epoch) * steps - at.step
        return left * (now - self._began) / max(at.updates - self._first, 1)

    def _end_epoch(self, *, wanted: bool) -> None:
        at, job = self.at, self.job
        rate = job.optimizer.rate_at(at.updates, at.scale)
        line: dict[str, Any] = {
            "epoch": at.epoch,
            "loss": at.loss_sum / at.weight_sum,
            **({"accuracy": at.right / at.counted} if at.counted else {}),
            **({"padding": at.padded / at.tokens} if at.tokens else {}),
            "learning_rate": rate,
        }
        if job.optimizer.average is not None:
            self.update.gather_state(at.updates)
        if not self._finite():
            raise NonFinite(
                f"epoch {at.epoch}: the weights are no longer finite, expected numbers; lower the learning rate"
            )
        last = self._show_average()
        try:  # a peer that is lost in here leaves `at` and the weights as the last step left them
            if self.validation:
                line |= self.validation.run(at.epoch, at.updates)
            at.seconds = time.monotonic() - self._since
            line |= {"seconds": at.seconds, "samples_per_s": self.batches.rows / at.seconds}
            keep, stop = ask(job, self.model, self.comm, at, line)
            if keep:
                at.best_epoch, self.best = at.epoch, self.model.w.copy()
        finally:
            self.model.w[...] = last
        at.history.append(line)
        ranked = rank_epoch(job, at, line)
        at.epoch += 1
        at.stopped_early = bool(stop) and at.epoch < job.epochs
        at.finished = bool(stop) or at.epoch == job.epochs
        at.step, at.loss_sum, at.weight_sum, at.seconds = 0, 0.0, 0.0, 0.0
        at.right, at.counted, at.padded, at.tokens = 0.0, 0.0, 0.0, 0.0
        told = {"epochs": job.epochs, "workers": self.comm.size, "finished": at.finished}
        eta = 0.0 if at.finished else self._eta(time.monotonic())
        self.report({"event": "epoch", **told, "eta_s": eta, **line})
        if at.finished or wanted or ranked:
            self._keep(ranked=ranked)

    def _show_average(self) -> NDArray[np.float32]:
        """Put the average of the weights into the model if one is kept, for evaluation; give the weights it had."""
        w = self.model.w
        if self.job.optimizer.average is None:
            return w
        last = w.copy()
        w[...] = self.job.optimizer.averaged(w, self.update.state, self.at.updates)
        return last

    def _finite(self) -> bool:
        return math.isfinite(float(np.dot(self.model.w, self.model.w)))

    def _keep(self, *, ranked: bool = False) -> None:
        """A checkpoint in the memory of the ranks that need one, and when it is time, or it is one of the best, on disk."""
        began = time.monotonic()
        self.update.gather_state(self.at.updates)
        if self.comm.rank and (self.memory is None or not (self.update.sharded or self.at.finished)):
            return
        checkpoint = self._checkpoint()
        if self.memory is not None:
            self.memory.kept = checkpoint
        self._kept = time.monotonic()
        self._age = max(MEMORY_S, (self._kept - began) / KEEP_SHARE)
        counted = self.job.checkpoint_steps and self.at.updates % self.job.checkpoint_steps == 0
        old = self._kept - self._saved >= min(
            self.job.checkpoint_s, EPOCH_S if not self.at.step else math.inf
        )
        if self.comm.rank == 0 and (self.at.finished or counted or old or ranked):
            self._saved = self._kept
            self.saver.save(checkpoint)

    def _checkpoint(self) -> Checkpoint:
        w, state = self.model.w.copy(), self.update.state.copy()  # theirs may be memory of the links
        return Checkpoint(self.job.fingerprint, self.facts, self.at.copy(), w, state, self.best)

    def _tell_saved(self) -> None:
        for checkpoint, path in self.saver.written():
            at = checkpoint.progress
            self.report({"event": "checkpoint", "epoch": at.epoch, "step": at.step, "path": str(path)})

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
            best_checkpoints=self.checkpoints.kept(self.at.ranking) if self.comm.rank == 0 else (),
            numerics=self.facts,
        )

    def _warn(self, why: str) -> None:
        self.report({"event": "warning", "why": why})


def _silent(event: dict[str, Any]) -> None:
    del event
