"""The face that Keras users know: Sequential, compile, fit, evaluate, predict, on arrays in this process.

>>> import numpy as np
>>> from dlflow.nn import SGD, Dense
>>> X = np.linspace(-1, 1, 64)[:, None]
>>> model = Sequential([Dense(1)])
>>> model.compile(optimizer=SGD(learning_rate=0.1), loss="mean_squared_error")
>>> history = model.fit(X, 3 * X + 1, epochs=50)
>>> bool(abs(model.predict(np.array([[2.0]])) - 7) < 0.01)
True
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlflow.errors import ModelError, NonFinite
from dlflow.nn.clipping import Clipping
from dlflow.nn.door import (
    Inputs,
    buffers_of,
    first_bad_row,
    in_order,
    rows_of,
    take_rows,
    warn_of_pixels,
)
from dlflow.nn.embedding import Embedding
from dlflow.nn.graph import Graph, Value
from dlflow.nn.layers import Layer
from dlflow.nn.losses import Loss, checked_weights
from dlflow.nn.model import Model
from dlflow.nn.normalization import BatchNormalization
from dlflow.nn.optimizers import Optimizer
from dlflow.nn.params import Array, Shape, Workspace
from dlflow.nn.shape import Rescaling
from dlflow.nn.spec import layer_from, loss_from, optimizer_from
from dlflow.nn.streams import Stream

__all__ = ["Functional", "Sequential"]

Line = dict[str, float]


class Sequential:
    """Layers in order. The model is built when the shape of the samples is known: given, or from the first X.

    `history` has one dict per epoch that was trained: epoch, loss, accuracy, val_loss, ...
    """

    def __init__(
        self, layers: Sequence[Layer | dict[str, Any]], in_shape: Shape | int | None = None, *, seed: int = 0
    ) -> None:
        self.layers = [layer_from(layer) for layer in layers]
        self.seed = seed
        self.history: list[Line] = []
        self._in_shape = in_shape
        self._graph: Graph | None = None
        self._model: Model | None = None
        self._loss: Loss | None = None
        self._optimizer: Optimizer | None = None
        self._state = np.zeros(0, np.float32)
        self._clipping: Clipping | None = None
        self._raw: Array | None = None  # the last weights, where the model is their average
        self._steps = 0

    def add(self, layer: Layer | dict[str, Any]) -> None:
        """Append a layer.

        Raises: ModelError if the model is built already.
        """
        if self._model is not None:
            raise ModelError(
                "the model is built, expected add() before fit() or predict(); make a new Sequential"
            )
        self.layers.append(layer_from(layer))

    def compile(
        self, *, optimizer: Optimizer | str | dict[str, Any], loss: Loss | str | dict[str, Any]
    ) -> None:
        """Choose how to train: specs, dicts or names. Weights are kept, the optimizer starts anew.

        Raises: ModelError with a "did you mean", or if the loss does not fit the last layer.
        """
        self._optimizer, self._loss = optimizer_from(optimizer), loss_from(loss)
        if self._in_shape is not None or self._model is not None:
            self._start(self.model)

    @property
    def model(self) -> Model:
        """The model core: w, g and the single steps.

        Raises: ModelError as long as the shape of the samples is not known.
        """
        if self._model is None:
            if self._in_shape is None:
                raise ModelError(
                    "the shape of the samples is not known; give in_shape, or fit the model first"
                )
            self._model = Model(self._graph or self.layers, self._in_shape)
            self._model.init(self.seed)
        return self._model

    def fit(
        self,
        X: Inputs,
        y: Array,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple[Inputs, Array] | None = None,
        sample_weight: Array | None = None,
        shuffle: bool = True,
        report: Callable[[Line], None] | None = None,
    ) -> list[Line]:
        """Train; give one dict per epoch. A function of the data and the seed alone; called again it goes on.

        The loss of an epoch is the mean over its steps, as they were taken. `report` is called after every epoch.

        Shapes: X (n, *in_shape), y (n, ...), sample_weight (n,).
        Raises: ModelError for data that do not fit; NonFinite when training diverges.
        """
        model, loss, optimizer = self._ready(X)
        X, y = self._data(X, y)
        n = rows_of(X)
        if not n or batch_size < 1:
            raise ModelError(
                f"{n} rows in batches of {batch_size!r}, expected at least 1 each; give rows to learn from"
            )
        weights = None if sample_weight is None else _weights(sample_weight, n, model)
        buffers = buffers_of(X, min(batch_size, n))
        first = len(self.history)
        if self._raw is not None:
            model.w[...], self._raw = self._raw, None
        for epoch in range(first, first + epochs):
            order = Stream(self.seed, "shuffle", step=epoch).permutation(n) if shuffle else np.arange(n)
            total = weight = 0.0
            for start in range(0, n, batch_size):
                at = order[start : start + batch_size]
                batch = take_rows(X, at, buffers)
                rng = Stream(self.seed, "dropout", step=self._steps)
                model.gradient(loss, batch, y[at], weights=None if weights is None else weights[at], rng=rng)
                batch_weight = float(model.g[-1])
                if not batch_weight:  # nothing here counts
                    continue
                total += self._step(model, optimizer, epoch) * batch_weight
                weight += batch_weight
            line: Line = {"epoch": epoch, "loss": total / weight}
            if validation_data is not None:
                raw = model.w.copy()
                model.w[...] = optimizer.averaged(model.w, self._state, self._steps)
                line |= {f"val_{name}": value for name, value in self.evaluate(*validation_data).items()}
                model.w[...] = raw
            self.history.append(line)
            if report is not None:
                report(line)
        if optimizer.average is not None:
            self._raw = model.w.copy()
            model.w[...] = optimizer.averaged(model.w, self._state, self._steps)
        return self.history[first:]

    def evaluate(self, X: Inputs, y: Array, *, sample_weight: Array | None = None) -> Line:
        """Mean loss, weight decay included, and for classes the accuracy; both weighted.

        Raises: ModelError for data that do not fit.
        """
        model, loss, _ = self._ready(X)
        X, y = self._data(X, y)
        if not rows_of(X):
            raise ModelError("no rows to evaluate, expected at least 1; give data")
        weights = None if sample_weight is None else _weights(sample_weight, rows_of(X), model)
        Z = model.outputs(X)
        made = loss(Z, y, weights, model.head, Workspace())
        line = {"loss": made.total / made.weight + model.penalty()}
        hits = loss.hits(Z, y, weights, model.head)
        if hits is not None:
            line["accuracy"] = hits.right / hits.counted
        return line

    def predict(self, X: Inputs, *, batch_size: int = 1024) -> Array:
        """The outputs of the last layer, as a new array. Shapes: (n, *out_shape)."""
        self._infer(X)
        return self.model.predict(X, batch=batch_size)

    def summary(self) -> str:
        """A table of the layers, their output shapes and parameters."""
        model = self.model
        counts = [
            sum(slot.stop - slot.start for slot in model.slots if slot.layer == number)
            for number in range(len(self.layers))
        ]
        lines = [f"{'layer':<28}{'output':<20}{'parameters':>12}"]
        for layer, shape, count in zip(self.layers, model.shapes, counts, strict=True):
            lines.append(f"{layer.kind:<28}{shape!s:<20}{count:>12,}")
        return "\n".join([*lines, f"{'total':<48}{model.parameters:>12,}"])

    def _step(self, model: Model, optimizer: Optimizer, epoch: int) -> float:
        try:
            mean = model.finish()
        except NonFinite as error:
            raise NonFinite(f"epoch {epoch}, step {self._steps}: {error}") from error
        self._steps += 1
        if self._clipping is not None:
            self._clipping.clip(model.g[:-2])
        optimizer.step(model.w, model.g[:-2], self._state, self._steps)
        model.settle()
        model.constrain()
        return mean

    def _infer(self, X: Inputs) -> None:
        if self._in_shape is None:
            if isinstance(X, (tuple, dict)):
                raise ModelError(
                    "X is several arrays, expected one; use Functional for a model of several inputs"
                )
            shape = np.shape(X)
            if len(shape) < 2:
                advice = "reshape one feature per row with X.reshape(-1, 1)"
                raise ModelError(f"X has shape {shape!r}, expected (rows, features); {advice}")
            self._in_shape = shape[1:]

    def _ready(self, X: Inputs) -> tuple[Model, Loss, Optimizer]:
        if self._loss is None or self._optimizer is None:
            raise ModelError(
                'the model has no loss and optimizer; call compile(optimizer="adam", loss=...) first'
            )
        self._infer(X)
        if self._model is None:
            self._start(self.model)
        return self.model, self._loss, self._optimizer

    def _start(self, model: Model) -> None:
        if self._loss is None or self._optimizer is None:
            return
        self._loss.check(model.out_shape, model.head)
        self._state, self._steps = self._optimizer.new_state(model.parameters), 0
        self._clipping, self._raw = Clipping(model.slots, self._optimizer), None
        model.constrain()

    def _data(self, X: Inputs, y: Array) -> tuple[Inputs, Array]:
        model, loss, _ = self._ready(X)
        for each, name, layer in zip(in_order(X, model.inputs), model.inputs, model.first, strict=True):
            if not isinstance(layer, (BatchNormalization, Embedding, Rescaling)):
                warn_of_pixels(np.asarray(each), name)
        X, y = model.cast(X), loss.labels(y, model.out_shape, model.dtype)
        if rows_of(X) != len(y):
            raise ModelError(f"X has {rows_of(X)} rows, y has {len(y)}; give one label per row")
        bad = first_bad_row(X)
        if bad is not None:
            raise ModelError(
                f"X holds nan or inf in row {bad[0]} ({bad[1]} rows), expected numbers; fill or drop them"
            )
        return X, y


class Functional(Sequential):
    """The same face for a Graph: a model with branches. X is a tuple of arrays in the order of the inputs, or a dict by their names.

    >>> from dlflow.nn import Add, Dense, Input, join
    >>> x = Input(4, "x")
    >>> model = Functional(join((x, join(x, Dense(4, "relu"))), Add(), Dense(1)))
    >>> model.predict({"x": np.zeros((2, 4))}).shape
    (2, 1)
    """

    def __init__(self, graph: Graph | Value, *, seed: int = 0) -> None:
        graph = Graph.of(graph) if isinstance(graph, Value) else graph
        super().__init__(graph.layers, (), seed=seed)
        self._graph = graph

    def add(self, layer: Layer | dict[str, Any]) -> None:
        """Raises: ModelError; a graph is whole."""
        raise ModelError(f"add({layer!r}) to a graph, expected a whole one; write it with join(...)")


def _weights(weights: Array, rows: int, model: Model) -> Array:
    made = checked_weights(weights, rows, model.out_shape, model.dtype)
    if not made.any():
        raise ModelError(f"all {rows} sample weights are 0, expected more; correct them")
    return made
