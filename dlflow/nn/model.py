"""A model is frozen layer specs plus one flat vector w; a training step fills one message g.

    model.gradient(loss, X, y, rng=...)      a shard's sums into g (or into another message)
    (add up the messages of all shards)
    mean_loss = model.finish()               sums -> mean gradient, plus weight decay, once; checks that all is finite
    optimizer.step(model.w, model.g[:-2], state, t, rows=model.message.rows)
    model.settle()                           running statistics of normalisation
    model.constrain()

Letters: B samples, P parameters, Z the output before the head, which is the last activation.

Memory: activations and gradients live in Workspaces of the model and are overwritten by its next forward pass. What `predict` and
`outputs` give is the caller's. One model must not be used by two threads at once; its layers may.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from dlflow.errors import ModelError, NonFinite
from dlflow.nn.activations import activation, sigmoid
from dlflow.nn.door import Inputs, in_order, rows_of, shaped
from dlflow.nn.graph import Graph
from dlflow.nn.layers import Backward, JoinedBackward, Layer
from dlflow.nn.losses import Hits, Loss, checked_weights
from dlflow.nn.message import Message
from dlflow.nn.params import Array, Shape, Slot, Views, Workspace, Zeros, aligned, slots_of, views
from dlflow.nn.penalties import Decay
from dlflow.nn.plan import Plan, build
from dlflow.nn.portable import check_portable, moved
from dlflow.nn.sharing import Second, Wishes
from dlflow.nn.streams import Stream
from dlflow.nn.tables import parts

__all__ = ["Model", "Tape"]


@dataclass
class Tape:
    """The backward passes of one forward pass, last step first to run. Valid until the model's next forward pass."""

    steps: list[Any]
    serial: int


class Model:
    """Layers in order, or a Graph, over one vector w (P,) and one message g (P + 2,); dtype float64 is for gradient checks.

    `arrays` is the module that makes all arrays, None for NumPy: see `portable`. `zeros` makes w and is not kept: memory that others read.

    Raises: ModelError if a layer does not fit the one before it.
    """

    def __init__(
        self,
        layers: Sequence[Layer] | Graph,
        in_shape: Shape | int = (),
        *,
        dtype: type = np.float32,
        fuse: bool = True,
        arrays: Any = None,
        zeros: Zeros | None = None,
    ) -> None:
        in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.graph = layers if isinstance(layers, Graph) else Graph.chain(layers, in_shape)
        self.layers = self.graph.layers
        self.inputs, self.in_shapes = map(tuple, zip(*self.graph.inputs, strict=True))
        self.in_shape = self.in_shapes[0]  # of a model with one input
        self.dtype = np.dtype(dtype)
        self.arrays = arrays = None if arrays is np else arrays
        check_portable(self.layers, arrays)
        needs, self.shapes = build(self.graph)
        self.out_shape, self.any_length = self.shapes[-1], False  # True: of any length up to `in_shape`
        self.slots = slots_of(needs)
        self.parameters = self.slots[-1].stop if self.slots else 0
        self.w = zeros(self.parameters, dtype) if zeros else aligned(self.parameters, dtype, arrays)
        self._owners = [self.graph.owner(number) for number in range(len(self.layers))]
        own = views(self.w, self.slots, len(self.layers))
        self.p: tuple[Views, ...] = tuple(own[owner] for owner in self._owners)
        self._second = Second(self.layers, self.p)
        wishes = Wishes(self.graph, self.slots)
        named = wishes.of(lambda layer: dict.fromkeys(layer.tables(), True))
        self._tables = {(slot.layer, slot.name): slot for slot, _ in named}
        self.message = self.new_message()
        plan = Plan.of(self.graph, fuse=fuse)
        self.head, self._out = plan.head, plan.out
        # a step's dX is needed only if something before it has parameters
        learns = [False] * len(self.inputs)
        for node, p in zip(self.graph.nodes, self.p, strict=True):
            learns.append(bool(p) or any(learns[source] for source in node.sources))
        self._body = [
            (step, Workspace(arrays), any(learns[source] for source in step.sources)) for step in plan.steps
        ]
        self.first = [self.layers[self.graph.readers(place)[0]] for place in range(len(self.inputs))]
        self._loss_space = Workspace(arrays)
        self._serial = 0
        self._penalties = wishes.of(lambda layer: layer.penalties())
        self._decay = Decay(self._penalties, Workspace(arrays))
        self._constraints = wishes.of(lambda layer: layer.constraints())
        self._followed = wishes.of(lambda layer: layer.statistics())
        self._moved: list[tuple[slice, Array]] = []  # where `settle` puts statistics

    @property
    def g(self) -> Array:
        """The model's own message: gradient (P,), loss sum, weight sum."""
        return self.message.g

    @property
    def stateful(self) -> bool:
        """Whether a layer hands its state on from batch to batch."""
        return any(layer.stateful for layer in self.layers)

    @property
    def statistics(self) -> tuple[Slot, ...]:
        """The parameters that no gradient moves: `settle` moves them towards what the batch showed."""
        return tuple(slot for slot, _ in self._followed)

    def init(self, seed: int) -> None:
        """Fill w with initial weights, a pure function of the seed."""
        rng = Stream(seed, "weights")
        w = self.w if self.arrays is None else aligned(self.parameters, self.dtype)
        for number, p in enumerate(views(w, self.slots, len(self.layers))):
            if self._owners[number] == number:
                self.layers[number].init(p, rng.at(layer=number))
        if w is not self.w:
            self.w[...] = moved(w, self.arrays)

    def new_message(self, zeros: Zeros | None = None) -> Message:
        """Another message of this model, zero: `gradient(into=...)` fills it. `zeros` makes its memory."""
        return Message.of(self.slots, self.tables, len(self.layers), self.dtype, self.arrays, zeros)

    @property
    def tables(self) -> tuple[Slot, ...]:
        """The parameters of which a batch touches some rows: their gradient is 0 elsewhere (see `tables`)."""
        return tuple(self._tables.values())

    def cast(self, X: Any) -> Inputs:
        """X in the form the model computes with, an array or a tuple of arrays of NumPy; unchanged if it has it already.

        Raises: ModelError that says how to reshape X.
        """
        made = []
        for each, shape, name, layer in zip(
            in_order(X, self.inputs), self.in_shapes, self.inputs, self.first, strict=True
        ):
            try:
                made.append(layer.accept(shaped(each, shape, name, shorter=self.any_length), self.dtype))
            except ModelError as error:
                if len(self.inputs) == 1:
                    raise
                raise ModelError(f"input {name!r}: {error}") from error
        if len(made) == 1:
            return made[0]
        rows_of(tuple(made))
        return tuple(made)

    def forward(self, X: Inputs, rng: Stream | None = None) -> tuple[Array, Tape]:
        """Output before the head, and the tape for `backward`. An `rng` means training. X is one that `cast` gave."""
        self._serial += 1
        values = dict(enumerate(X if isinstance(X, tuple) else (X,)))
        masks: dict[int, Array | None] = {}
        steps = []
        for step, space, need_dX in self._body:
            layer, sources, p = step.layer, step.sources, self.p[step.number]
            stream = None if rng is None else rng.at(layer=step.number)
            read = values[sources[0]]
            space.masks = tuple(masks.get(source) for source in sources)
            space.mask = space.masks[0]
            back: Backward | JoinedBackward
            if len(sources) == 1:
                values[step.makes], back = layer.forward(p, read, stream, space)
                masks[step.makes] = layer.mask(read, space.mask)
            else:
                Xs = tuple(values[source] for source in sources)
                values[step.makes], back = layer.forward_joined(p, Xs, stream, space)
                masks[step.makes] = layer.mask_joined(Xs, space.masks)
            steps.append((step, space, back, need_dX))
        return values[self._out], Tape(steps, self._serial)

    def backward(
        self, dZ: Array, tape: Tape, *, into: Message | None = None, to_inputs: bool = False
    ) -> list[Array | None]:
        """Fill the gradient of the message. Overwrites dZ; uses up the tape.

        Gives the gradients of the inputs if they are asked for; None for one that has none: tokens.

        Raises: ModelError if another forward pass has reused the tape's memory.
        """
        if tape.serial != self._serial or len(tape.steps) != len(self._body):
            raise ModelError(
                "this tape is of an earlier forward pass, whose memory is reused; call backward right after forward"
            )
        message = into or self.message
        message.clear()
        done: set[int] = set()
        gradients: dict[int, Array] = {self._out: dZ}
        while tape.steps:  # popped, so that activations can be freed on the way
            step, space, back, need_dX = tape.steps.pop()
            dY = gradients.pop(step.makes, None)
            if dY is None:  # nothing up to here has parameters
                continue
            need_dX = need_dX or to_inputs
            owner = self._owners[step.number]
            dX = back(dY, self._second.views(owner) if owner in done else message.dp[owner], need_dX)
            if owner in done:
                self._second.add(owner, message.dp[owner], space.rows)
            for name, rows in space.rows.items():
                message.touch(self._tables[owner, name], rows)
            space.rows.clear()
            done.add(owner)
            if dX is None or not need_dX:
                continue
            for source, part in zip(step.sources, dX if isinstance(dX, tuple) else (dX,), strict=True):
                there = gradients.get(source)
                gradients[source] = part if there is None else np.add(there, part, out=there)
        return [gradients.get(place) for place in range(len(self.inputs))]

    def gradient(
        self,
        loss: Loss,
        X: Inputs,
        y: Array,
        *,
        weights: Array | None = None,
        rng: Stream | None = None,
        into: Message | None = None,
        count: bool = False,
    ) -> Hits | None:
        """Fill a message with the sums of one shard, which may be empty: gradient, loss, weight.

        With `count` give how many positions with a weight were classified right, of how many; None for a regression.

        Shapes: X (B, *in_shape); y as the loss wants it; weights (B,) or of each position (B, *out_shape[:-1]), None for ones.
        Raises: ModelError for rows or labels that do not fit.
        """
        X, y = moved(self.cast(X), self.arrays), loss.labels(y, self.out_shape, self.dtype)
        if (rows := rows_of(X)) != len(y):
            raise ModelError(f"X has {rows} rows, y has {len(y)}; give one label per row")
        message = into or self.message
        if weights is not None:
            weights = moved(checked_weights(weights, rows, self.out_shape, self.dtype), self.arrays)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # `finish` says where
            Z, tape = self.forward(X, rng)
            counts = None if weights is None else np.greater(weights, 0).astype(self.dtype)
            found = loss.hits(Z, moved(y, self.arrays), counts, self.head) if count else None
            made = loss(Z, moved(y, self.arrays), weights, self.head, self._loss_space)
            self.backward(made.gradient, tape, into=message)
            message.g[-2], message.g[-1] = made.total, made.weight
            for slot, _ in self._followed:  # means become sums, as all of the message
                message.g[slot.start : slot.stop] *= made.weight
        return found

    def finish(self, message: Message | None = None, *, lo: int = 0, hi: int | None = None) -> float:
        """Turn the sums of a whole batch into the mean gradient on [lo, hi), in place; give the mean loss, penalties included.

        Weight decay enters here, after the sum over shards, and so exactly once per batch. The gradient of statistics (running
        means) is 0 afterwards; `settle` moves them. Call it once per batch and segment.

        Raises: NonFinite naming the layers whose gradient is not finite; ModelError if the weights of the batch sum to 0.
        """
        message = message or self.message
        g, stop = message.g, self.parameters if hi is None else hi
        weight = float(g[-1])
        if weight == 0:
            raise ModelError(
                "the sample weights of this batch sum to 0, expected more; take larger batches or other weights"
            )
        for slot, _ in self._penalties:  # these are not 0 anywhere
            message.rows.pop(slot, None)
        square = 0.0
        # at the speed of a dot product; where only the square overflowed, check_finite finds nothing
        with np.errstate(over="ignore", invalid="ignore"):
            for part in parts(g, message.rows, lo, stop):
                np.multiply(part, 1 / weight, out=part)
                square += float(np.dot(part, part))
        self._decay.add(self.w, g, lo, stop)
        mean = float(g[-2]) / weight + self.penalty()
        if not (isfinite(mean) and isfinite(square)):
            self.check_finite(mean, g, lo, stop)
        self._moved = []
        for slot, share in self._followed:
            at = slice(max(slot.start, lo), max(min(slot.stop, stop), lo))
            self._moved.append((at, self.w[at] + share * (g[at] - self.w[at])))
            g[at] = 0
        return mean

    def check_finite(self, mean: float, g: Array, lo: int, stop: int) -> None:
        """Raises: NonFinite naming the layers whose mean gradient is not finite on [lo, stop), or the mean loss that is not."""
        bad: dict[int, str] = {}
        for slot in self.slots:
            part = g[max(slot.start, lo) : max(min(slot.stop, stop), lo)]
            wrong = part[~np.isfinite(part)]
            if len(wrong):
                bad.setdefault(
                    slot.layer, f"{self.name(slot.layer)} {slot.name} ({wrong[0]}, {len(wrong)} values)"
                )
        if bad or not isfinite(mean):
            where = (
                f"not finite in the gradient of: {', '.join(bad.values())}"
                if bad
                else "all gradients are finite"
            )
            raise NonFinite(
                f"loss of the batch is {mean}; {where}; lower the learning rate, or look for nan in X and y"
            )

    def penalty(self) -> float:
        """What weight decay adds to the mean loss."""
        return self._decay.loss(self.w)

    def settle(self) -> None:
        """Move the statistics of the segment that was finished; called after the optimizer, which has no say in them."""
        for at, value in self._moved:
            self.w[at] = value
        self._moved = []

    def constrain(self) -> None:
        """Make the weights satisfy what their layers ask for, in place; called after every update, on the whole w."""
        for slot, constraint in self._constraints:
            constraint.apply(self.p[slot.layer][slot.name])

    def outputs(self, X: Inputs, *, batch: int = 1024) -> Array:
        """Z, the outputs before the head, as a new array. Shapes: (n, *out_shape)."""
        X = moved(self.cast(X), self.arrays)
        rows = rows_of(X)
        Z = (self.arrays or np).empty((rows, *self.out_shape), self.dtype)
        for start in range(0, rows, batch):
            at = slice(start, start + batch)
            Z[at] = self.forward(tuple(each[at] for each in X) if isinstance(X, tuple) else X[at])[0]
        return Z

    def predict(self, X: Inputs, *, batch: int = 1024) -> Array:
        """The model's output, as a new array. Shapes: (n, *out_shape)."""
        Z = self.outputs(X, batch=batch)
        if self.head == "sigmoid":
            return sigmoid(Z)
        activation(self.head).forward(Z, Workspace())
        return Z

    def name(self, layer: int) -> str:
        """How messages call a layer: its number and kind."""
        return f"layer {layer} ({self.layers[layer].kind})"

    def reset_states(self) -> None:
        """Let stateful layers begin with zero again."""
        for _, space, _ in self._body:
            space.carried = None
