"""A model in training in this process: optimizer state, learning rate, averages, and what callbacks decided."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dlflow.errors import NonFinite
from dlflow.nn.callbacks import Callback, Control, Line, decide
from dlflow.nn.clipping import Clipping
from dlflow.nn.door import Inputs, buffers_of, take_rows
from dlflow.nn.losses import Hits, Loss
from dlflow.nn.model import Model
from dlflow.nn.optimizer import Optimizer
from dlflow.nn.params import Array
from dlflow.nn.streams import Stream

__all__ = ["Learner", "Watch"]


class Learner:
    """Steps and epochs of one model. `state`, `steps` and `scale` go on over several calls of fit."""

    def __init__(self, model: Model, loss: Loss, optimizer: Optimizer, seed: int) -> None:
        loss.check(model.out_shape, model.head)
        self.model, self.loss, self.optimizer, self.seed = model, loss, optimizer, seed
        self.state = optimizer.new_state(model.parameters)
        self.steps = 0
        self.scale = 1.0  # of the learning rate
        self.last: Array | None = None  # the last weights, where the model shows others
        self._clipping = Clipping(model.slots, optimizer, model.tables)
        self._more = model.new_message()
        model.constrain()

    def begin(self) -> None:
        """Go on from the last weights."""
        if self.last is not None:
            self.model.w[...], self.last = self.last, None

    def epoch(
        self,
        X: Inputs,
        y: Array,
        weights: Array | None,
        *,
        epoch: int,
        batch_size: int,
        accumulate: int = 1,
        shuffle: bool = True,
    ) -> dict[str, float]:
        """Every row once, in steps of `accumulate` batches each; give the mean loss of the steps as they were taken.

        For classes the accuracy too, of the rows that have a weight, each as it was when it was trained on.

        Raises: NonFinite when training diverges.
        """
        rows = len(y)
        order = Stream(self.seed, "shuffle", step=epoch).permutation(rows) if shuffle else np.arange(rows)
        self.model.reset_states()
        buffers = buffers_of(X, min(batch_size, rows))
        total = weight = right = rows_counted = 0.0
        for start in range(0, rows, batch_size * accumulate):
            stop = min(start + batch_size * accumulate, rows)
            for shard, low in enumerate(range(start, stop, batch_size)):
                at = order[low : min(low + batch_size, stop)]
                hits = self._gradient(
                    take_rows(X, at, buffers), y[at], None if weights is None else weights[at], shard
                )
                if hits is not None:
                    right, rows_counted = right + hits.right, rows_counted + hits.counted
            counted = float(self.model.g[-1])
            if counted:  # else nothing here counts
                total += self._step(epoch) * counted
                weight += counted
        accuracy = {"accuracy": right / rows_counted} if rows_counted else {}
        return {"loss": total / weight, **accuracy}

    def end_epoch(self, line: Line, history: Sequence[Line], callbacks: "Watch") -> str:
        """Let the callbacks decide; give why the training stops, if it does."""
        control = Control(
            epoch=line["epoch"],
            epochs=callbacks.epochs,
            line=line,
            history=history,
            rate=self.optimizer.rate_at(self.steps + 1),
            scale=self.scale,
            save=callbacks.save,
        )
        decide(callbacks.run, control, callbacks.memory)
        self.scale = control.scale
        if control.keep:
            callbacks.best = self.model.w.copy()
        return control.stop

    @contextmanager
    def average_shown(self) -> Iterator[None]:
        """The model has the average of its weights meanwhile, if one is kept."""
        w = self.model.w
        if self.optimizer.average is None or not self.steps:
            yield
            return
        last = w.copy()
        w[...] = self.optimizer.averaged(w, self.state, self.steps)
        try:
            yield
        finally:
            w[...] = last

    def finish(self, best: Array | None) -> None:
        """Show the weights the training is for: the best if some were kept, the average if there is one, else the last."""
        w = self.model.w
        if self.optimizer.average is not None:
            self.last = w.copy()
            w[...] = self.optimizer.averaged(w, self.state, self.steps)
        if best is not None:
            w[...] = best

    def _gradient(self, X: Inputs, y: Array, weights: Array | None, shard: int) -> Hits | None:
        """The sums of a batch; added to those of the batches before it in this step. What was classified right."""
        rng = Stream(self.seed, "dropout", step=self.steps, shard=shard)
        if shard == 0:
            return self.model.gradient(self.loss, X, y, weights=weights, rng=rng, count=True)
        hits = self.model.gradient(self.loss, X, y, weights=weights, rng=rng, into=self._more, count=True)
        self.model.message.add(self._more)
        return hits

    def _step(self, epoch: int) -> float:
        model, g = self.model, self.model.g[:-2]
        try:
            mean = model.finish()
        except NonFinite as error:
            raise NonFinite(f"epoch {epoch}, step {self.steps}: {error}") from error
        self.steps += 1
        rows = model.message.rows
        self._clipping.clip(g, rows=rows)
        self.optimizer.step(model.w, g, self.state, self.steps, scale=self.scale, rows=rows)
        model.settle()
        model.constrain()
        return mean


class Watch:
    """The callbacks of one call of fit, what they remember, and the best weights."""

    def __init__(self, run: Sequence[Callback], epochs: int, save: Callable[[str | Path], None]) -> None:
        self.run, self.epochs, self.save = tuple(run), epochs, save
        self.memory: dict[str, dict[str, object]] = {}
        self.best: Array | None = None
