"""A registered model that answers: rows in, answers out. The one way for tables, files, requests and exported files.

    rows --conform, encode (the recipe of the training)--> X --model--> scores --> predicted, probability, outputs

Scores are computed in float64 and given as float32, so that a row's answer does not depend on the rows beside it.

Letters: n rows, K outputs.
"""

import functools
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dlflow import fitted, nn, registry
from dlflow.errors import ModelError, ModelFileError
from dlflow.nn.graph import Graph, Node
from dlflow.training.numerics import one_blas_thread
from pipelines.features import Inputs, encode
from pipelines.recipes import conform, schema_of, type_of, usable
from pipelines.tensor import column as tensors
from pipelines.tensor import metadata as form_of
from pipelines.tensors import Form, numbers_of

__all__ = ["ENCODED", "FILE", "OUTPUTS", "Predictor", "in_use", "open_predictor", "samples", "served"]

ENCODED = "x"  # the column of a table of features that holds what a model reads
FILE = "production.json"  # beside the versions of a model: which one is in use
PREDICTED, PROBABILITY, OUTPUTS = "predicted", "probability", "outputs"
_FINAL = {"binary": "sigmoid", "classes": "softmax"}


@dataclass(frozen=True, eq=False)
class Estimator:
    """An estimator of scikit-learn, asked as a network is."""

    fitted: Any
    task: str
    classes: int  # of the label; 1 for a value

    @property
    def out_shape(self) -> tuple[int]:
        """One probability or value, or one probability per class."""
        return (self.classes,) if self.task == "classes" else (1,)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Shapes: (n, ...) -> (n, *out_shape).

        Raises: ModelError with what scikit-learn says.
        """
        return fitted.scores(self.fitted, X, self.task, self.classes).reshape(len(X), *self.out_shape)


@dataclass(frozen=True, eq=False)
class Predictor:
    """One version of a model. `model` gives scores: probabilities, or values of a regression. Threads may share it."""

    name: str
    version: int
    folder: str
    model: nn.Model | Estimator
    task: str
    recipe: Mapping[str, Any]
    metadata: Mapping[str, Any]
    digest: str  # of the weights, calibration included; of an estimator, of its answers to the training rows
    _own: threading.local = field(default_factory=threading.local, repr=False)

    @property
    def schema(self) -> pa.Schema:
        """The columns that it reads."""
        return schema_of(self.recipe)

    @property
    def answers(self) -> pa.Schema:
        """The columns that it gives.

        predicted    class or value              one output, or one of several classes
        probability  float32                     of the second class of two, of the predicted one of several
        outputs      tensor of float32           all scores, where there are several
        """
        shape, fields = self.model.out_shape, []
        single = shape == (1,)
        if self.task in _FINAL and (single or (self.task == "classes" and len(shape) == 1)):
            fields += [pa.field(PREDICTED, self._class_type()), pa.field(PROBABILITY, pa.float32())]
        elif single:
            fields.append(pa.field(PREDICTED, pa.float32()))
        if not single:
            said = form_of("float32", shape, None)
            classes = self.recipe["classes"]
            if classes is not None and len(classes) == prod(shape):
                said["names"] = json.dumps([str(one) for one in classes], ensure_ascii=False)
            fields.append(pa.field(OUTPUTS, pa.binary(4 * prod(shape)), metadata=said))
        return pa.schema(fields)

    def about(self) -> dict[str, Any]:
        """What an exported file says of itself; JSON."""
        return {
            "model": self.name,
            "version": self.version,
            "weights_sha256": self.digest,
            "task": self.task,
            "label": self.recipe["label"],
            "classes": self.recipe["classes"],
            "features": self.metadata["features"],
            "recipe": self.recipe,
            "lineage": {key: self.metadata["lineage"][key] for key in ("table", "version", "run")},
        }

    def encode(self, table: pa.Table) -> np.ndarray:
        """What the model reads of rows as `conform` gives them. Shapes: (n, *in_shape)."""
        return samples(encode(table, self.recipe))

    def scores(self, X: np.ndarray) -> np.ndarray:
        """What the model says. Shapes: (n, ...) -> (n, *out_shape), float32."""
        if not len(X):
            return np.zeros((0, *self.model.out_shape), np.float32)
        with one_blas_thread():
            return self._model().predict(X).astype(np.float32)

    def predict(self, table: pa.Table, *, where: str, first: int = 0) -> pa.Table:
        """The answers to rows with the columns that the model reads; null where a row lacks a tensor.

        Raises: as `conform`.
        """
        rows = conform(table, self.recipe, where=where, first=first)
        return self.answer(self.scores(self.encode(rows)), usable(rows, self.recipe))

    def encoded(self, table: pa.Table) -> np.ndarray:
        """What the model reads of rows whose column `x` its recipe has made. Shapes: (n, *in_shape)."""
        values, _ = numbers_of(table, ENCODED)
        form = Form.of(table.schema.field(ENCODED))
        return samples(Inputs(values, None, None if form is None else form.scale))

    def predict_encoded(self, table: pa.Table) -> pa.Table:
        """The answers to such rows."""
        return self.answer(self.scores(self.encoded(table)), np.ones(table.num_rows, bool))

    def _model(self) -> nn.Model | Estimator:
        """The model of this thread: a forward pass has memory of its own, an estimator has none."""
        if isinstance(self.model, Estimator):
            return self.model
        if not hasattr(self._own, "model"):
            self._own.model = _copy(self.model, np.float64)
        made: nn.Model = self._own.model
        return made

    def single(self) -> nn.Model:
        """The same model in float32, as files for other programs hold it.

        Raises: ModelError for an estimator of scikit-learn.
        """
        if isinstance(self.model, Estimator):
            raise ModelError(
                f"model {self.name!r} is {type(self.model.fitted).__name__} of scikit-learn, expected a network: only those are "
                "written as ONNX and scorer; dlflow.fitted.load opens this one"
            )
        return _copy(self.model, np.float32)

    def answer(self, scores: np.ndarray, there: np.ndarray) -> pa.Table:
        """Scores as columns. Shapes: scores (n, *out_shape); there (n,), false: null."""
        schema, missing = self.answers, ~there
        flat = scores.reshape(len(scores), prod(self.model.out_shape))
        columns: list[pa.Array] = []
        for one in schema:
            if one.name == OUTPUTS:
                columns.append(tensors(scores, there))
            elif one.name == PROBABILITY:
                columns.append(pa.array(flat.max(axis=1, initial=0), mask=missing))
            elif self.task in _FINAL:
                columns.append(self._classes(flat, one.type, missing))
            else:
                columns.append(pa.array(flat[:, 0], mask=missing))
        return pa.table(columns, schema=schema)

    def _classes(self, scores: np.ndarray, kind: pa.DataType, missing: np.ndarray) -> pa.Array:
        places = (
            (scores[:, 0] >= 0.5).astype(np.int32) if self.model.out_shape == (1,) else scores.argmax(axis=1)
        )
        number = pa.array(places.astype(np.int32), mask=missing)
        return pa.array(self.recipe["classes"]).cast(kind).take(number) if self._named() else number

    def _named(self) -> bool:
        """Whether each output has a class; else classes are told by their number."""
        classes, shape = self.recipe["classes"], self.model.out_shape
        return classes is not None and len(classes) == (2 if shape == (1,) else prod(shape))

    def _class_type(self) -> pa.DataType:
        return type_of(self.recipe["columns"][self.recipe["label"]]) if self._named() else pa.int32()


def open_predictor(models: Path, name: str, version: int | None = None) -> Predictor:
    """A version of a model: by default the one in use, else the newest.

    Raises: ModelError, ModelFileError for one that is not there or cannot answer.
    """
    known = registry.versions(models, name)
    if not known:
        registry.latest(models, name)  # says which models there are
    chosen = version if version is not None else in_use(models, name) or known[-1]
    if chosen not in known:
        raise ModelError(f"model {name!r} has no version {chosen}; expected one of {known}")
    return _opened(str(models), name, chosen)


@functools.lru_cache(maxsize=8)
def _opened(models: str, name: str, version: int) -> Predictor:
    folder = Path(models, name, str(version))
    if fitted.is_estimator(folder):
        estimator, metadata = fitted.load(folder)
        recipe = metadata["inputs"]
        asked = Estimator(estimator, metadata["task"], len(recipe["classes"] or (None,)))
        digest = metadata["record"]["weights_sha256"]
        return Predictor(name, version, str(folder), asked, asked.task, recipe, metadata, digest)
    model, metadata = registry.load(folder)
    recipe = metadata.get("inputs")
    if recipe is None or "columns" not in recipe or "loss" not in metadata:
        raise ModelFileError(
            f"{folder}: the model does not say how rows become its inputs, an older dlflow trained it; train it again"
        )
    loss, digest = nn.loss_from(metadata["loss"]), registry.weights_digest(model.w)
    return Predictor(name, version, str(folder), served(model, loss), loss.task, recipe, metadata, digest)


def served(model: nn.Model, loss: nn.Loss, dtype: type = np.float64) -> nn.Model:
    """The same model with what its loss does to the outputs as a last layer: it gives scores, never logits."""
    graph, final = model.graph, _FINAL.get(loss.task)
    if final and model.head == "linear" and not getattr(loss, "from_probabilities", False):
        last = len(graph.inputs) + len(graph.nodes) - 1
        graph = Graph(graph.inputs, (*graph.nodes, Node(nn.Activation(final), (last,))))
    made = nn.Model(graph, dtype=dtype)
    made.w[...] = model.w
    return made


def _copy(model: nn.Model, dtype: type) -> nn.Model:
    made = nn.Model(model.graph, dtype=dtype)
    made.w[...] = model.w
    return made


def samples(inputs: Inputs) -> np.ndarray:
    """Inputs as training reads them: float32 times their scale, tokens as they are."""
    x, scale = inputs.x, inputs.scale
    if (x.dtype == np.int32 and scale is None) or (x.dtype == np.float32 and scale in {None, 1.0}):
        return x
    return np.multiply(x, np.float32(1.0 if scale is None else scale), dtype=np.float32, casting="unsafe")


def in_use(models: Path, name: str) -> int | None:
    """The version that was promoted, if one ever was."""
    try:
        return int(json.loads((models / name / FILE).read_text("utf-8"))["version"])
    except FileNotFoundError:
        return None
