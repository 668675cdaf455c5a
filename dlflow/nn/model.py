"""A model is frozen layer specs plus one flat vector w; a training step fills one message g.

    model.gradient(loss, X, y, rng=...)      a shard's sums into g (or into another message)
    (add up the messages of all shards)
    mean_loss = model.finish()               sums -> mean gradient, plus weight decay, once; checks that all is finite
    optimizer.step(model.w, model.g[:-2], state, t)

Letters: B samples, P parameters, Z the output before the head, which is the last activation.

Memory: activations and gradients live in Workspaces of the model and are overwritten by its next forward pass. What `predict` and
`outputs` give is the caller's. One model must not be used by two threads at once; its layers may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, prod
from typing import TypeVar

import numpy as np

from dlflow.errors import ModelError, NonFinite
from dlflow.nn.activations import activation, sigmoid
from dlflow.nn.choice import suggestion
from dlflow.nn.layers import Activation, Backward, Dense, Layer
from dlflow.nn.losses import Loss, checked_weights
from dlflow.nn.params import Array, Message, Shape, Slot, Views, Workspace, aligned, slots_of, views
from dlflow.nn.streams import Stream

__all__ = ["Model", "Tape"]

Thing = TypeVar("Thing")


class Tape:
    """The backward passes of one forward pass, last layer first to run. Valid until the model's next forward pass."""

    def __init__(self, steps: list[Backward], serial: int) -> None:
        self.steps = steps
        self.serial = serial


class Model:
    """Layers in order over one vector w (P,) and one message g (P + 2,); dtype float64 is for gradient checks.

    Raises: ModelError if a layer does not fit the one before it.
    """

    def __init__(self, layers: Sequence[Layer], in_shape: Shape | int, *, dtype: type = np.float32) -> None:
        if not layers:
            raise ModelError("the model has no layers, expected at least one; add a Dense layer")
        self.layers = tuple(layers)
        self.in_shape: Shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        self.dtype = np.dtype(dtype)
        needs, self.shapes = _build(self.layers, self.in_shape)
        self.out_shape = self.shapes[-1]
        self.slots = slots_of(needs)
        self.parameters = self.slots[-1].stop if self.slots else 0
        self.w = aligned(self.parameters, dtype)
        self.p: tuple[Views, ...] = views(self.w, self.slots, len(self.layers))
        self.message = self.new_message()
        self.head, self._body = _split_head(self.layers)
        self._spaces = [Workspace() for _ in self.layers]
        self._loss_space = Workspace()
        self._serial = 0
        # a layer's dX is needed only if a layer before it has parameters
        self._need_dX = [any(needs[:number]) for number in range(len(self.layers))]
        self._penalties = self._named([layer.penalties() for layer in self.layers])
        self._constraints = self._named([layer.constraints() for layer in self.layers])
        self._penalty_space = Workspace()

    @property
    def g(self) -> Array:
        """The model's own message: gradient (P,), loss sum, weight sum."""
        return self.message.g

    def init(self, seed: int) -> None:
        """Fill w with initial weights, a pure function of the seed."""
        rng = Stream(seed, "weights")
        for number, (layer, p) in enumerate(zip(self.layers, self.p, strict=True)):
            layer.init(p, rng.at(layer=number))

    def new_message(self) -> Message:
        """Another message of this model, zero: `gradient(into=...)` fills it."""
        g = aligned(self.parameters + 2, self.dtype.type)
        return Message(g, views(g, self.slots, len(self.layers)))

    def cast(self, X: Array) -> Array:
        """X in the form the model computes with; unchanged if it has it already.

        Raises: ModelError that says how to reshape X.
        """
        X = np.asarray(X)
        if X.shape[1:] != self.in_shape or X.ndim == 0:
            raise ModelError(_shape_problem(X.shape, self.in_shape))
        if X.dtype.kind not in "biuf":
            raise ModelError(f"X is of type {X.dtype}, expected numbers; encode texts and dates first")
        return np.ascontiguousarray(X, self.dtype)

    def forward(self, X: Array, rng: Stream | None = None) -> tuple[Array, Tape]:
        """Output before the head, and the tape for `backward`. An `rng` means training. X is one that `cast` gave."""
        self._serial += 1
        steps = []
        for number, (layer, p, space) in enumerate(zip(self._body, self.p, self._spaces, strict=False)):
            X, step = layer.forward(p, X, None if rng is None else rng.at(layer=number), space)
            steps.append(step)
        return X, Tape(steps, self._serial)

    def backward(self, dZ: Array, tape: Tape, *, into: Message | None = None) -> None:
        """Fill the gradient of the message. Overwrites dZ; uses up the tape.

        Raises: ModelError if another forward pass has reused the tape's memory.
        """
        if tape.serial != self._serial or len(tape.steps) != len(self._body):
            raise ModelError(
                "this tape is of an earlier forward pass, whose memory is reused; call backward right after forward"
            )
        dp = (into or self.message).dp
        dY: Array | None = dZ
        while tape.steps and dY is not None:  # popped, so that activations can be freed on the way
            step, number = tape.steps.pop(), len(tape.steps)
            dY = step(dY, dp[number], self._need_dX[number])

    def gradient(
        self,
        loss: Loss,
        X: Array,
        y: Array,
        *,
        weights: Array | None = None,
        rng: Stream | None = None,
        into: Message | None = None,
    ) -> None:
        """Fill a message with the sums of one shard, which may be empty: gradient, loss, weight.

        Shapes: X (B, *in_shape); y as the loss wants it; weights (B,) of the samples or (B, *out_shape[:-1]) of
            their positions, None for ones.
        Raises: ModelError for rows or labels that do not fit.
        """
        X, y = self.cast(X), loss.labels(y, self.out_shape, self.dtype)
        if len(X) != len(y):
            raise ModelError(f"X has {len(X)} rows, y has {len(y)}; give one label per row")
        message = into or self.message
        if weights is not None:
            weights = checked_weights(weights, len(X), self.out_shape, self.dtype)
        with np.errstate(
            over="ignore", invalid="ignore", divide="ignore"
        ):  # `finish` says it better, and where
            Z, tape = self.forward(X, rng)
            made = loss(Z, y, weights, self.head, self._loss_space)
            self.backward(made.gradient, tape, into=message)
            message.g[-2:] = made.total, made.weight

    def finish(self, message: Message | None = None, *, lo: int = 0, hi: int | None = None) -> float:
        """Turn the sums of a whole batch into the mean gradient on [lo, hi), in place; give the mean loss, penalties included.

        Weight decay enters here, after the sum over shards, and so exactly once per batch. Call it once per batch and segment.

        Raises: NonFinite naming the layers whose gradient is not finite; ModelError if the weights of the batch sum to 0.
        """
        g = (message or self.message).g
        stop = self.parameters if hi is None else hi
        weight = float(g[-1])
        if weight == 0:
            raise ModelError(
                "the sample weights of this batch sum to 0, expected more; take larger batches or other weights"
            )
        part = g[lo:stop]
        part *= 1 / weight
        mean = float(g[-2]) / weight + self._decay(g, lo, stop)
        # one pass at the speed of a dot product; where only the square overflowed, check_finite finds nothing
        with np.errstate(over="ignore", invalid="ignore"):
            square = np.dot(part, part)
        if not (isfinite(mean) and isfinite(square)):
            self.check_finite(mean, g, lo, stop)
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
        total = 0.0
        for slot, (l1, l2) in self._penalties:
            w = self.w[slot.start : slot.stop]
            if l2:
                total += l2 * float(np.dot(w, w))
            if l1:
                total += l1 * float(np.abs(w, out=self._penalty_space.array("w", w.shape, w.dtype)).sum())
        return total

    def constrain(self) -> None:
        """Make the weights satisfy what their layers ask for, in place; called after every update, on the whole w."""
        for slot, constraint in self._constraints:
            constraint.apply(self.p[slot.layer][slot.name])

    def outputs(self, X: Array, *, batch: int = 1024) -> Array:
        """Z, the outputs before the head, as a new array. Shapes: (n, *out_shape)."""
        X = self.cast(X)
        Z = np.empty((len(X), *self.out_shape), self.dtype)
        for start in range(0, len(X), batch):
            Z[start : start + batch] = self.forward(X[start : start + batch])[0]
        return Z

    def predict(self, X: Array, *, batch: int = 1024) -> Array:
        """The model's output, as a new array. Shapes: (n, *out_shape)."""
        Z = self.outputs(X, batch=batch)
        if self.head == "sigmoid":
            return sigmoid(Z)
        activation(self.head).forward(Z, Workspace())
        return Z

    def name(self, layer: int) -> str:
        """How messages call a layer: its number and kind."""
        return f"layer {layer} ({self.layers[layer].kind})"

    def _named(self, asked: Sequence[Mapping[str, Thing]]) -> list[tuple[Slot, Thing]]:
        """What each layer asks for its parameters by name, with their places."""
        places = {(slot.layer, slot.name): slot for slot in self.slots}
        for number, wishes in enumerate(asked):
            for name in wishes:
                if (number, name) not in places:
                    known = [slot.name for slot in self.slots if slot.layer == number]
                    raise ModelError(f"{self.name(number)}: no parameter {name!r}; {suggestion(name, known)}")
        return [
            (places[number, name], wish)
            for number, wishes in enumerate(asked)
            for name, wish in wishes.items()
        ]

    def _decay(self, g: Array, lo: int, stop: int) -> float:
        for slot, (l1, l2) in self._penalties:
            at = slice(max(slot.start, lo), max(min(slot.stop, stop), lo))
            w, part = self.w[at], g[at]
            scratch = self._penalty_space.array("w", w.shape, w.dtype)
            if l2:
                np.add(part, np.multiply(w, 2 * l2, out=scratch), out=part)
            if l1:
                np.sign(w, out=scratch)
                np.add(part, np.multiply(scratch, l1, out=scratch), out=part)
        return self.penalty()


def _build(layers: tuple[Layer, ...], in_shape: Shape) -> tuple[list[dict[str, Shape]], list[Shape]]:
    needs, shapes, shape = [], [], in_shape
    if any(length < 1 for length in in_shape):
        raise ModelError(
            f"samples have shape {in_shape!r}, expected lengths of at least 1; give the shape of one sample"
        )
    for number, layer in enumerate(layers):
        try:
            need, shape = layer.build(shape)
        except ModelError as error:
            raise ModelError(f"layer {number}: {error}") from error
        needs.append(need)
        shapes.append(shape)
    return needs, shapes


def _split_head(layers: tuple[Layer, ...]) -> tuple[str, tuple[Layer, ...]]:
    """The last activation, and the layers that run before it."""
    match layers[-1]:
        case Dense(activation=str(name)):
            return name, (*layers[:-1], replace(layers[-1], activation=None))
        case Activation(function=name):
            return name, layers[:-1]
        case _:
            return "linear", layers


def _shape_problem(shape: Shape, expected: Shape) -> str:
    """What to do about X of a wrong shape."""
    rows, sample = shape[:1], shape[1:]
    wanted = f"({', '.join(['n', *map(str, expected)])})"
    if shape == expected:
        advice = "this is one sample; add the batch axis with X[None]"
    elif (*sample, 1) == expected:
        advice = "the channel axis is missing; add it with X[..., None]"
    elif rows and sample == (*expected, 1):
        advice = "there is an axis too many; take X[..., 0]"
    elif rows and prod(sample) == prod(expected) and len(expected) == 1:
        advice = "begin the model with Flatten() or reshape X with X.reshape(len(X), -1)"
    elif rows and prod(sample) == prod(expected):
        advice = f"the number of values fits; reshape X with X.reshape(-1, {', '.join(map(str, expected))})"
    else:
        advice = "give the columns the model was built for, or build it for these"
    return f"X has shape {shape!r}, expected {wanted}; {advice}"
