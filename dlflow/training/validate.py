"""Loss and accuracy on the validation set, shared by all ranks, with the same bits for any number of them.

The rows are cut into fixed chunks in a fixed order. A rank computes the sums of its own chunks; all ranks then know the sums of all
chunks, and each adds them in the order of the chunks.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dlflow.data import Batches, Dataset
from dlflow.errors import NonFinite
from dlflow.nn import Model
from dlflow.nn.losses import checked_weights
from dlflow.nn.params import Workspace
from dlflow.parallel.comm import Comm, all_gather
from dlflow.parallel.shards import owned
from dlflow.training.job import Job

__all__ = ["CHUNK_ROWS", "Validation"]

CHUNK_ROWS = 4096


class Validation:
    """The validation set of a job, cut for the ranks."""

    def __init__(
        self, job: Job, dataset: Dataset, model: Model, comm: Comm, report: Callable[[dict[str, Any]], None]
    ) -> None:
        self.job, self.model, self.comm, self.report = job, model, comm, report
        self.chunks = Batches(dataset, batch=CHUNK_ROWS, seed=job.seed, bucket=job.bucket)
        self._space = Workspace()

    def run(self, epoch: int, step: int) -> dict[str, float]:
        """val_loss, weight decay included, and for classes val_accuracy.

        Raises: NonFinite on all ranks if the loss is not finite; PeerLost, Stopped.
        """
        steps, size = self.chunks.steps, self.comm.size
        bounds = [owned(rank, size, steps)[0] for rank in range(size)] + [steps]
        sums = np.zeros((steps, 4))  # loss, its weight, rows that are classified right, rows that count
        for chunk in range(bounds[self.comm.rank], bounds[self.comm.rank + 1]):
            sums[chunk] = self._sums(chunk)
            self.report({"event": "validation", "epoch": epoch, "chunk": chunk + 1, "chunks": steps})
        all_gather(self.comm, sums, bounds, step)
        total = np.zeros(4)
        for line in sums:
            total += line
        loss = float(total[0] / total[1]) + self.model.penalty() if total[1] else math.nan
        if not math.isfinite(loss):
            raise NonFinite(
                f"epoch {epoch}: validation loss is {loss}, expected a number; lower the learning rate, or look for nan in the set"
            )
        if math.isnan(total[2]):
            return {"val_loss": loss}
        return {"val_loss": loss, "val_accuracy": float(total[2] / total[3])}

    def _sums(self, chunk: int) -> tuple[float, float, float, float]:
        model, loss = self.model, self.job.loss
        X, y, weights = self.chunks.take_weighted(0, chunk, 0, self.chunks.size(chunk))
        y = loss.labels(y, model.out_shape, model.dtype)
        if weights is not None:
            weights = checked_weights(weights, len(y), model.out_shape, model.dtype)
        Z = model.outputs(X)
        hits = loss.hits(Z, y, weights, model.head)
        made = loss(Z, y, weights, model.head, self._space)
        return made.total, made.weight, *((math.nan, math.nan) if hits is None else hits)
