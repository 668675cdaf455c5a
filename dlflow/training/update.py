"""One step of all ranks: each sums the gradients of its shards, they are added up, and every weight is updated once.

    small model     every rank sums the whole message and does the whole update            one round of messages
    others          each rank finishes the sum of one segment, updates the weights and     two rounds, and 1/W of the
                    the optimizer's state there, and sends these weights to all            optimizer's work

Both give the same bits: every operation of `finish` and of the optimizer is elementwise.

Of the tables of embeddings only the rows that the batch touches are exchanged, and every rank updates them whole: that is less than a
segment of the sum and a segment of the weights, as long as a batch has not more than two tokens for each row of the table.
"""

import time
from math import nan, prod

import numpy as np

from dlflow.data import Batches
from dlflow.errors import ModelError, NonFinite
from dlflow.nn import Message, Model, Stream
from dlflow.nn.clipping import Clipping
from dlflow.nn.losses import Hits
from dlflow.nn.params import Slot
from dlflow.nn.tables import table
from dlflow.parallel.comm import Comm
from dlflow.parallel.rows import Table
from dlflow.parallel.shards import shard_bounds
from dlflow.parallel.stages import place_of
from dlflow.parallel.tree import TreeSum
from dlflow.training.checkpoint import Progress
from dlflow.training.job import Job

__all__ = ["Update"]

Array = np.typing.NDArray[np.float32]
Squares = np.typing.NDArray[np.float64]

ALL_BYTES = (
    1 << 18
)  # up to here in all, every rank sends its whole sums to all it talks to: half the rounds beats less work
SECONDS, COMMAND, RIGHT, COUNTED, PADDED, TOKENS = range(6)  # the notes of a rank


class Update:
    """The model's message, the optimizer's state and the exchange between ranks."""

    def __init__(self, job: Job, model: Model, comm: Comm) -> None:
        self.job, self.model, self.comm = job, model, comm
        self.state: Array = job.optimizer.new_state(model.parameters)
        self._pads = bool(getattr(model.first[0], "mask_zero", False)) and len(model.inputs) == 1
        self.padding = Hits(0, 0)  # of the last step: tokens that were padding, of how many
        self.clipping = Clipping(model.slots, job.optimizer, model.tables)
        self.tables = _sparse(model, job)
        self._whole = [slot for slot in model.tables if slot not in self.tables]
        self.front = self.tables[-1].stop if self.tables else 0  # of the vector: what every rank updates
        rest = model.parameters - self.front
        small = 4 * rest * sum(factor - 1 for factor in comm.shape) <= ALL_BYTES
        shared = (
            model.parameters - self.front + 2 if small else 2
        )  # the loss and the weight of the batch are for all
        shards = job.shards if job.exact else comm.size
        self.sharded = not small
        self._pieces = self._pieces_of_ranks()
        edges = (
            self.clipping.edges[self._pieces].tolist() if self.sharded and self.clipping.needs_norms else None
        )
        self.tree: TreeSum[Message] = TreeSum(
            comm,
            shards,
            lambda: model.new_message(comm.zeros),
            shared=shared,
            notes=6 if self._pads else 4,
            edges=edges,
            tables=[Table(slot.start, slot.shape[0], prod(slot.shape[1:])) for slot in self.tables],
        )
        self._ended = time.perf_counter()

    def run(self, batches: Batches, at: Progress, *, command: int) -> tuple[float, float, int, Hits]:
        """The mean loss of this batch, its weight, the command of rank 0, to which only its own is heard, and what was right.

        Rows that are right are counted, not weighed: whole numbers, whose sum is the same for any number of ranks.
        `settle` must follow. If a peer is lost in here, weights and state are those before this step, unless they are `sharded`.

        Raises: NonFinite on all ranks alike; PeerLost, Stopped.
        """
        tree, comm = self.tree, self.comm
        right, counted = self._sum(batches, at)
        said = time.perf_counter() - self._ended, command, right, counted
        tree.notes[comm.rank] = (*said, *self.padding) if self._pads else said
        tree.scatter(at.updates)
        try:
            loss = self._apply(at)
        except NonFinite as error:
            raise NonFinite(f"epoch {at.epoch}, step {at.step} of {batches.steps}: {error}") from error
        hits = Hits(*(float(tree.notes[:, note].sum()) for note in (RIGHT, COUNTED)))
        if self._pads:
            self.padding = Hits(
                *(float(tree.notes[:, note].sum(dtype=np.float64)) for note in (PADDED, TOKENS))
            )
        return loss, float(tree.total.g[-1]), int(tree.notes[0, COMMAND]), hits

    def settle(self, step: int) -> None:
        """Wait until what the step has sent is on its way: the last of it, and apart, as the step counts even if a peer is lost now.

        Raises: PeerLost, Stopped.
        """
        self.tree.settle(step)
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> Array:
        """How long each rank computed in the last step, without waiting for others. Shapes: (ranks,)."""
        return self.tree.notes[:, SECONDS]

    def gather_state(self, step: int) -> None:
        """Complete the optimizer's state on every rank: each has kept it up to date only where it updates.

        Raises: PeerLost, Stopped.
        """
        if self.sharded and self.comm.size > 1:
            size = self.model.parameters
            for start in range(0, len(self.state), size):
                self.tree.gather(self.state[start : start + size], step)  # of tables every rank has all of it
            self.tree.settle(step)

    def _sum(self, batches: Batches, at: Progress) -> Hits:
        job, tree, right, counted = self.job, self.tree, 0.0, 0.0
        self.padding = Hits(0, 0)
        bounds = shard_bounds(batches.size(at.step), tree.shards)
        for shard in tree.own:
            X, y, weights = batches.take_weighted(at.epoch, at.step, bounds[shard], bounds[shard + 1])
            message = tree.buffer()
            for slot in self._whole:
                message.rows.pop(slot, None)  # the tree has added others to it
            rng = Stream(job.seed, "dropout", step=at.updates, shard=shard)
            hits = self.model.gradient(
                job.loss, X, y, weights=weights, rng=rng, into=message, count=True
            ) or Hits(0, 0)
            right, counted = right + hits.right, counted + hits.counted
            if self._pads:
                padded, tokens = self.padding
                self.padding = Hits(padded + X.size - np.count_nonzero(X), tokens + X.size)
            tree.add(shard, message, [message.rows[slot] for slot in self.tables])
        return Hits(right, counted)

    def _apply(self, at: Progress) -> float:
        model, total, optimizer = self.model, self._total(), self.job.optimizer
        g, rows = total.g[:-2], total.rows
        if not self.sharded:
            loss = model.finish(total)
            self.clipping.clip(g, rows=rows)
            optimizer.step(model.w, g, self.state, at.updates + 1, scale=at.scale, rows=rows)
            model.settle()
            model.constrain()
            return loss
        low, high = self.tree.segment
        own = [(0, self.front), (low, high)] if self.front else [(low, high)]
        wrong = None
        try:
            for start, stop in own:  # a table has no statistics: those are of the last part
                loss = model.finish(total, lo=start, hi=stop)
        except NonFinite as error:  # the others must hear of it in this very step
            wrong = error
        squares = self._squares(at.updates)
        if wrong:
            model.w[low : low + 1] = nan
        else:
            for start, stop in own:
                self.clipping.clip(g, squares, lo=start, hi=stop, rows=rows)
                optimizer.step(
                    model.w, g, self.state, at.updates + 1, lo=start, hi=stop, scale=at.scale, rows=rows
                )
            model.settle()
        self.tree.gather(model.w, at.updates)
        if wrong or any(np.isnan(model.w[start]) for start, stop in self.tree.segments if start < stop):
            self._diagnose(at)
            raise wrong or NonFinite("a weight is not finite, expected numbers; lower the learning rate")
        self.tree.settle(at.updates)
        model.constrain()
        return loss

    def _total(self) -> Message:
        """The sum of all shards, with the touched rows in their places."""
        total = self.tree.total
        for slot in self._whole:
            total.rows.pop(slot, None)
        for slot, found in zip(self.tables, self.tree.rows, strict=True):
            matrix = table(total.g, slot)
            matrix[total.rows[slot] if slot in total.rows else slice(None)] = 0  # of one shard
            matrix[found.places] = found.values
            total.rows[slot] = found.places
        return total

    def _pieces_of_ranks(self) -> list[int]:
        """Where the pieces of each segment begin, and the number of pieces: about equal parts of the gradient."""
        size, ranks = self.model.parameters - self.front, self.comm.size
        wanted = [self.front + size * rank // ranks for rank in range(ranks)]
        return [*np.searchsorted(self.clipping.edges, wanted).tolist(), len(self.clipping.edges) - 1]

    def _squares(self, step: int) -> Squares | None:
        """Sums of squares of all pieces of the mean gradient, if clipping asks for them: each rank computes its own."""
        if not self.clipping.needs_norms:
            return None
        place, bounds = place_of(self.comm.rank, self.comm.shape), self._pieces
        squares = np.zeros(bounds[-1])
        own = slice(bounds[place], bounds[place + 1])
        for part in (slice(0, bounds[0]), own):
            found = self.clipping.squares(
                self.tree.total.g, first=part.start, last=part.stop, rows=self.tree.total.rows
            )
            squares[part] = found
        self.tree.gather(squares, step, edges=bounds)
        return squares

    def _diagnose(self, at: Progress) -> None:
        """Raises: NonFinite with what all ranks found, the same words on each."""
        model, total = self.model, self.tree.total
        self.tree.gather(total.g, at.updates)
        self.tree.settle(at.updates)
        if not total.g[-1]:
            raise ModelError("the sample weights of this batch sum to 0")
        model.check_finite(float(total.g[-2]) / float(total.g[-1]), total.g, 0, model.parameters)


def _sparse(model: Model, job: Job) -> tuple[Slot, ...]:
    """The tables at the beginning of the model of which rows are exchanged.

    Raises: ModelError if a lazy optimizer needs the rows of another.
    """
    tokens = job.batch * sum(prod(shape) for shape in model.in_shapes)
    made: list[Slot] = []
    for slot in model.tables:
        if slot.start != (made[-1].stop if made else 0):
            break
        if tokens <= 2 * slot.shape[0] or job.optimizer.lazy:
            made.append(slot)
    if job.optimizer.lazy and len(made) < len(model.tables):
        raise ModelError(
            f"job: {job.optimizer.kind} is lazy, and {model.name(model.tables[len(made)].layer)} is not among the first layers, "
            "expected embeddings before all others; order them so, or leave lazy out"
        )
    return tuple(made)
