"""The face that Keras users know: Sequential, compile, fit, evaluate, predict, save, load, on arrays in this process.

>>> import numpy as np
>>> from dlflow.nn import SGD, Dense
>>> X = np.linspace(-1, 1, 64)[:, None]
>>> model = Sequential([Dense(1)])
>>> model.compile(optimizer=SGD(learning_rate=0.1), loss="mean_squared_error")
>>> history = model.fit(X, 3 * X + 1, epochs=50)
>>> bool(abs(model.predict(np.array([[2.0]])) - 7) < 0.01)
True
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.callbacks import Callback, Line, check_callbacks
from dlflow.nn.door import Inputs, first_bad_row, in_order, rows_of, warn_of_pixels
from dlflow.nn.embedding import Embedding
from dlflow.nn.evaluation import check_metrics, measure
from dlflow.nn.graph import Graph, Value
from dlflow.nn.layers import Layer
from dlflow.nn.learner import Learner, Watch
from dlflow.nn.losses import Loss, checked_weights
from dlflow.nn.model import Model
from dlflow.nn.model_file import Description, read_model, write_model
from dlflow.nn.normalization import BatchNormalization
from dlflow.nn.optimizer import Optimizer
from dlflow.nn.params import Array, Shape
from dlflow.nn.rows import class_weights, split_rows
from dlflow.nn.shape import Rescaling
from dlflow.nn.spec import callback_from, layer_from, loss_from, optimizer_from

__all__ = ["Functional", "Sequential"]

EVALUATED = 1024  # rows at a time


class Sequential:
    """Layers in order. The model is built when the shape of the samples is known: given, or from the first X.

    `history` has one dict per epoch that was trained: epoch, loss, accuracy, learning_rate, val_loss, val_accuracy, ...; `stopped` says why
    a callback ended the last training, and is "" if none did.
    """

    def __init__(
        self, layers: Sequence[Layer | dict[str, Any]], in_shape: Shape | int | None = None, *, seed: int = 0
    ) -> None:
        self.layers = [layer_from(layer) for layer in layers]
        self.seed = seed
        self.history: list[Line] = []
        self.stopped = ""
        self._in_shape = in_shape
        self._graph: Graph | None = None
        self._model: Model | None = None
        self._loss: Loss | None = None
        self._optimizer: Optimizer | None = None
        self._metrics: tuple[str, ...] = ()
        self._learner: Learner | None = None

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
        self,
        *,
        optimizer: Optimizer | str | dict[str, Any],
        loss: Loss | str | dict[str, Any],
        metrics: Sequence[str] = (),
    ) -> None:
        """Choose how to train: specs, dicts or names. Weights are kept, the optimizer starts anew.

        `metrics` are what `evaluate` tells beside loss and accuracy: "auc", "f1", "log_loss", "top_3_accuracy", "mae", "r2", ...

        Raises: ModelError with a "did you mean", or if the loss does not fit the last layer.
        """
        self._optimizer, self._loss = optimizer_from(optimizer), loss_from(loss)
        check_metrics(metrics, self._loss.task)
        self._metrics, self._learner = tuple(metrics), None
        if self._in_shape is not None or self._model is not None:
            self._learner = Learner(self.model, self._loss, self._optimizer, self.seed)

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

    def reset_states(self) -> None:
        """Let stateful layers begin with zero again: `predict` goes on where the last one ended, `fit` and `evaluate` begin with zero."""
        self.model.reset_states()

    def fit(
        self,
        X: Inputs,
        y: Array,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        validation_data: tuple[Any, ...] | None = None,
        validation_split: float = 0.0,
        sample_weight: Array | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool = True,
        accumulate: int = 1,
        callbacks: Sequence[Callback | str | dict[str, Any]] = (),
        report: Callable[[Line], None] | None = None,
    ) -> list[Line]:
        """Train; give one dict per epoch. A function of the data and the seed alone; called again it goes on.

        Loss and (of classes) accuracy of an epoch are means over its steps, as they were taken. `validation_data` is (X, y) or (X, y, sample_weight);
        `validation_split` takes the last rows, before any shuffling. `accumulate` adds the gradients of so many batches for one
        step. `report` is called after every epoch. `class_weight` is {class: weight}, or "balanced": all classes count alike.

        Shapes: X (n, *in_shape), y (n, ...), sample_weight (n,) or one for each position.
        Raises: ModelError for data that do not fit; NonFinite when training diverges.
        """
        learner = self._ready(X)
        X, y = self._data(X, y)
        weights = self._sample_weights(sample_weight, class_weight, y)
        if validation_split:
            X, y, weights, validation_data = split_rows(X, y, weights, validation_split, validation_data)
        if not len(y) or batch_size < 1 or accumulate < 1:
            raise ModelError(
                f"{len(y)} rows in batches of {batch_size!r}, {accumulate!r} for a step, expected at least 1 each; "
                "give rows to learn from"
            )
        if self.model.stateful and (shuffle or len(y) % batch_size):
            raise ModelError(
                f"stateful layers go on from batch to batch, row by row; got shuffle={shuffle} and {len(y)} rows in batches of {batch_size}, "
                "expected shuffle=False and batches of one size"
            )
        run = [callback_from(callback) for callback in callbacks]
        check_callbacks(run, validated=validation_data is not None)
        first = len(self.history)
        watch, self.stopped = Watch(run, first + epochs, self.save), ""
        learner.begin()
        for epoch in range(first, first + epochs):
            rate = learner.optimizer.rate_at(learner.steps + 1, learner.scale)
            made = learner.epoch(
                X, y, weights, epoch=epoch, batch_size=batch_size, accumulate=accumulate, shuffle=shuffle
            )
            line: Line = {"epoch": epoch, **made, "learning_rate": rate}
            self.history.append(line)
            with learner.average_shown():
                if validation_data is not None:
                    held, size = (*validation_data, None), batch_size if self.model.stateful else EVALUATED
                    measured = self.evaluate(*held[:2], sample_weight=held[2], batch_size=size)
                    line |= {f"val_{name}": value for name, value in measured.items()}
                self.stopped = learner.end_epoch(line, self.history, watch)
            if report is not None:
                report(line)
            if self.stopped:
                break
        learner.finish(watch.best)
        self.model.reset_states()
        return self.history[first:]

    def evaluate(
        self, X: Inputs, y: Array, *, sample_weight: Array | None = None, batch_size: int = EVALUATED
    ) -> Line:
        """Mean loss, penalties included; for classes the accuracy; and the metrics that were chosen. All but these are weighted.

        Raises: ModelError for data that do not fit.
        """
        learner = self._ready(X)
        X, y = self._data(X, y)
        if not len(y):
            raise ModelError("no rows to evaluate, expected at least 1; give data")
        weights = None if sample_weight is None else self._sample_weights(sample_weight, None, y)
        model = learner.model
        model.reset_states()
        Z = model.outputs(X, batch=batch_size)
        model.reset_states()
        line = measure(learner.loss, Z, y, weights, model.head, self._metrics)
        line["loss"] += model.penalty()
        return line

    def predict(self, X: Inputs, *, batch_size: int = EVALUATED) -> Array:
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

    def save(self, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Write the model into one file: layers, weights, loss, optimizer and its state, history. A loaded one trains on as this one.

        `metadata` is any JSON: names of classes and features, transforms, lineage. The file is safetensors, whole or not at all.

        Raises: ModelError for metadata that are no JSON; ModelFileError if the file cannot be written.
        """
        learner = self._learner
        write_model(
            path,
            self.model,
            Description(
                loss=self._loss,
                optimizer=self._optimizer,
                metrics=self._metrics,
                seed=self.seed,
                history=self.history,
                steps=learner.steps if learner else 0,
                scale=learner.scale if learner else 1.0,
                metadata=dict(metadata or {}),
            ),
            state=learner.state if learner else None,
            last=learner.last if learner else None,
        )

    @staticmethod
    def load(path: str | Path) -> "Sequential":
        """The model of a file that `save` wrote; a Functional if it has branches.

        Raises: ModelFileError for a file that is damaged or foreign.
        """
        model, found, tensors = read_model(path)
        made = (
            Sequential(model.layers, model.in_shape, seed=found.seed)
            if model.graph.is_chain
            else Functional(model.graph, seed=found.seed)
        )
        made._restore(model, found, tensors)  # noqa: SLF001  (of this very class)
        return made

    def _restore(self, model: Model, found: Description, tensors: Mapping[str, Array]) -> None:
        self._model, self.history = model, found.history
        if found.loss is not None and found.optimizer is not None:
            self.compile(optimizer=found.optimizer, loss=found.loss, metrics=found.metrics)
            learner = self._ready_learner()
            learner.steps, learner.scale = found.steps, found.scale
            learner.state[...] = tensors["state"]
            learner.last = tensors.get("last")
            model.w[...] = tensors["w"]

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

    def _ready(self, X: Inputs) -> Learner:
        if self._loss is not None:
            self._infer(X)
        return self._ready_learner()

    def _ready_learner(self) -> Learner:
        if self._loss is None or self._optimizer is None:
            raise ModelError(
                'the model has no loss and optimizer; call compile(optimizer="adam", loss=...) first'
            )
        if self._learner is None:
            self._learner = Learner(self.model, self._loss, self._optimizer, self.seed)
        return self._learner

    def _data(self, X: Inputs, y: Array) -> tuple[Inputs, Array]:
        learner = self._ready(X)
        model = learner.model
        for each, name, layer in zip(in_order(X, model.inputs), model.inputs, model.first, strict=True):
            if not isinstance(layer, (BatchNormalization, Embedding, Rescaling)):
                warn_of_pixels(np.asarray(each), name)
        X, y = model.cast(X), learner.loss.labels(y, model.out_shape, model.dtype)
        if rows_of(X) != len(y):
            raise ModelError(f"X has {rows_of(X)} rows, y has {len(y)}; give one label per row")
        bad = first_bad_row(X)
        if bad is not None:
            raise ModelError(
                f"X holds nan or inf in row {bad[0]} ({bad[1]} rows), expected numbers; fill or drop them"
            )
        return X, y

    def _sample_weights(
        self, weights: Array | None, classes: Mapping[int, float] | str | None, y: Array
    ) -> Array | None:
        """One weight for each row or position: that which was given, times that of its class."""
        model, made = self.model, None
        if weights is not None:
            made = checked_weights(weights, len(y), model.out_shape, model.dtype)
        if classes is not None:
            each = class_weights(classes, y, model)
            made = each if made is None else made.reshape(*made.shape, *[1] * (each.ndim - made.ndim)) * each
        if made is not None and not made.any():
            raise ModelError(f"all {len(y)} sample weights are 0, expected more; correct them")
        return made


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
