"""A pipeline file as a whole: its tables (pipelines) and its models (dlflow), checked together, and planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from dlflow import nn
from dlflow.errors import ModelError
from dlflow.fitted import estimator_from
from dlflow.nn.callbacks import check_callbacks
from flows.baselines import Baseline, Column
from flows.environment import Environment, environment
from pipelines import document as documents
from pipelines import plan, spec
from pipelines.names import did_you_mean
from pipelines.places import state_folder

__all__ = ["EstimatorSpec", "Gate", "ModelSpec", "Project", "open_project"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What a version must reach to be used: so much of a metric, and no more than `drop` worse than the version in use."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    metric: str
    on: Literal["train", "validation", "test"] = "test"
    at_least: float | None = None  # at most, where less is better: loss, log_loss, mse, mae, brier
    drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One [models.NAME] of the pipeline file."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["network"] = "network"
    table: str
    layers: tuple[dict[str, Any], ...]
    loss: str | dict[str, Any]
    class_weights: Literal["balanced"] | None = (
        None  # each class counts as much as the others, by the training rows
    )
    weight: str | None = None  # column that says how much a row counts, in training and validation loss
    optimizer: str | dict[str, Any] = "adam"
    batch: int = 256
    epochs: int = 10
    bucket: bool = False  # tokens: batches of rows of similar length, cut to their longest
    seed: int = 0
    shards: int = (
        0  # pieces of a batch, whatever the number of workers: a power of two; 0: by the size of the batch
    )
    exact: bool = True  # the same bits for any number of workers; false: a little faster
    patience: int | None = None  # epochs without a better validation loss before training stops
    callbacks: tuple[dict[str, Any], ...] = ()  # what may happen after an epoch
    calibrate: bool = False  # scale the logits by the validation rows, so that probabilities are true
    baselines: tuple[Baseline, ...] = ("prior",)
    slices: tuple[str, ...] = ()  # columns of the table by whose values the metrics are told apart
    warm_start: bool = False  # begin with the weights of the version before, if it has the same layers
    checkpoint_s: float = 30.0
    checkpoint_steps: int | None = None  # every so many steps besides
    checkpoints: str | None = None  # folder where they stay; None: they go when the model is registered
    keep_last: int = 2  # of the checkpoints
    keep_best: int = 0  # of those at ends of epochs, by `monitor`
    monitor: str = "val_loss"
    gate: Gate | None = None  # what a version must reach to be used

    def made(self) -> tuple[tuple[nn.Layer, ...], nn.Loss, nn.Optimizer]:
        """Layers, loss and optimizer.

        Raises: ModelError with a "did you mean".
        """
        layers = tuple(nn.layer_from(layer) for layer in self.layers)
        return (
            layers,
            nn.loss_from(_named(self.loss, "loss")),
            nn.optimizer_from(_named(self.optimizer, "optimizer")),
        )

    def watching(self) -> tuple[nn.Callback, ...]:
        """The callbacks.

        Raises: ModelError with a "did you mean", also for one that writes files: the history and the model are kept anyway.
        """
        made = tuple(nn.callback_from(callback) for callback in self.callbacks)
        for callback in made:
            if not callback.decides:
                raise ModelError(
                    f"callback {callback.kind!r} writes files, which a pipeline does anyway: the history is in the model's "
                    "record, every version of the model in the registry; leave it out"
                )
        if self.patience is not None:
            check_callbacks((nn.EarlyStopping(patience=self.patience), *made), validated=True)
        else:
            check_callbacks(made, validated=True)
        return made


@dataclass(frozen=True, kw_only=True)
class EstimatorSpec:
    """One [models.NAME] with kind = "sklearn": any estimator of scikit-learn that says probabilities or values."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Literal["sklearn"] = "sklearn"
    table: str
    estimator: str  # the full name of its class
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int = 0  # the random_state of those that have one
    baselines: tuple[Baseline, ...] = ("prior",)
    slices: tuple[str, ...] = ()
    gate: Gate | None = None

    def made(self) -> Any:
        """The estimator, not fitted.

        Raises: ModelError with a "did you mean".
        """
        return estimator_from(self.estimator, self.settings, self.seed)


KINDS: dict[str, type[ModelSpec] | type[EstimatorSpec]] = {"network": ModelSpec, "sklearn": EstimatorSpec}


@dataclass(frozen=True)
class Project:
    """A checked pipeline file."""

    pipeline: spec.Pipeline
    checked: Mapping[str, plan.Checked]
    models: Mapping[str, ModelSpec | EstimatorSpec]
    environment: Environment = Environment()  # noqa: RUF009 - frozen

    @property
    def state(self) -> Path:
        """Folder of what is not a table: logs, digests, models, records."""
        return state_folder(self.pipeline.warehouse, "_dlflow", self.pipeline.file.parent)


def open_project(
    file: Path | str, settings: Mapping[str, str] | None = None, env: str | None = None
) -> Project:
    """The checked project of a pipeline file, in one of its environments.

    Raises: SpecError with every problem that can be known without reading data.
    """
    document = documents.read(file)
    where = environment(document, env)
    if where.warehouse is not None:
        document.values["warehouse"] = where.warehouse
    params = {name: str(value) for name, value in where.params.items()}
    pipeline = spec.build(document, {**params, **(settings or {})})
    checked = plan.check(document, pipeline)
    models = {
        name: model
        for name in pipeline.models
        if (model := _model(document, pipeline, checked, name)) is not None
    }
    document.raise_problems()
    return Project(pipeline, checked, models, where)


def _model(
    document: documents.Document, pipeline: spec.Pipeline, checked: Mapping[str, plan.Checked], name: str
) -> ModelSpec | EstimatorSpec | None:
    path = ("models", name)
    given = pipeline.models[name]
    kind = given.get("kind", "network") if isinstance(given, Mapping) else "network"
    if kind not in KINDS:
        document.problem(
            (*path, "kind"), f"models.{name}: there is no kind {kind!r}{did_you_mean(str(kind), KINDS)}"
        )
        return None
    model: ModelSpec | EstimatorSpec | None = document.checked(KINDS[kind], given, path)
    if model is None:
        return None
    if model.table not in pipeline.tables:
        document.problem(
            (*path, "table"),
            f"models.{name}: there is no table {model.table!r}{did_you_mean(model.table, pipeline.tables)}",
        )
    elif not any(step.do == "features" for step in pipeline.tables[model.table].steps if hasattr(step, "do")):
        document.problem(
            (*path, "table"),
            f'models.{name}: table {model.table!r} has no step {{ do = "features", ... }}, so there is nothing to train on',
        )
    elif model.table in checked:
        _check_columns(document, model, checked[model.table].schema.names, path)
    if isinstance(model, EstimatorSpec):
        try:
            model.made()
        except ModelError as error:
            document.problem((*path, "estimator"), f"models.{name}: {error}")
        return model
    return _network(document, name, model)


def _network(document: documents.Document, name: str, model: ModelSpec) -> ModelSpec:
    """Its numbers, layers, loss, optimizer and callbacks."""
    path = ("models", name)
    for key, least in (
        ("batch", 1),
        ("epochs", 1),
        ("shards", 0),
        ("checkpoint_steps", 1),
        ("keep_last", 1),
        ("keep_best", 0),
    ):
        value = getattr(model, key)
        if value is not None and value < least:
            document.problem((*path, key), f"models.{name}.{key} = {value}: expected at least {least}")
    if model.shards & (model.shards - 1):
        document.problem(
            (*path, "shards"),
            f"models.{name}.shards = {model.shards}: expected a power of two (1, 2, 4, 8, ...)",
        )
    if model.keep_best and model.checkpoints is None:
        document.problem(
            (*path, "keep_best"),
            f'models.{name}.keep_best = {model.keep_best}: expected a folder where they stay; set checkpoints = "FOLDER"',
        )
    if model.patience is not None and model.patience < 1:
        document.problem(
            (*path, "patience"), f"models.{name}.patience = {model.patience}: expected at least 1"
        )
        return model
    try:
        model.made()
    except ModelError as error:
        document.problem(path, f"models.{name}: {error}")
    try:
        model.watching()
    except ModelError as error:
        document.problem((*path, "callbacks"), f"models.{name}.callbacks: {error}")
    return model


def _check_columns(
    document: documents.Document,
    model: ModelSpec | EstimatorSpec,
    there: Sequence[str],
    path: tuple[str, str],
) -> None:
    """The columns of slices and baselines must be at the end of the table, beside the inputs."""
    for at, one in enumerate(model.baselines):
        if isinstance(one, Column):
            _check_column(document, (*path, "baselines", at), one.column, there)
    for at, column in enumerate(model.slices):
        _check_column(document, (*path, "slices", at), column, there)
    if isinstance(model, ModelSpec) and model.weight is not None:
        _check_column(document, (*path, "weight"), model.weight, there)


def _check_column(
    document: documents.Document, path: tuple[str | int, ...], column: str, there: Sequence[str]
) -> None:
    known = [name for name in there if name not in {"x", "y"} and not name.startswith("_")]
    if column not in known:
        document.problem(
            path,
            f"{path[0]}.{path[1]}.{path[2]}: the table keeps no column {column!r}{did_you_mean(column, known)}; "
            f'keep it: {{ do = "features", keep = [{column!r}], ... }}',
        )


def _named(value: str | dict[str, Any], what: str) -> str | dict[str, Any]:
    """`{ kind = "adam", ... }` as the registry of dlflow.nn reads it."""
    if isinstance(value, dict) and "kind" in value:
        return {what: value["kind"], **{key: item for key, item in value.items() if key != "kind"}}
    return value
