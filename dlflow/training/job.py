"""What to train, as one frozen value, and what came of it. The same Job gives the same weights on any number of ranks."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any

from dlflow.data import Dataset
from dlflow.errors import ModelError
from dlflow.nn import Callback, EarlyStopping, Graph, Layer, Loss, Model, Optimizer
from dlflow.nn.callbacks import check_callbacks
from dlflow.nn.params import Zeros
from dlflow.training.lengths import allow_lengths

__all__ = ["Job", "Line", "Outcome", "Weights", "default_shards"]

Line = dict[str, Any]
"""One epoch: epoch, loss, learning_rate, val_loss, val_accuracy, seconds, samples_per_s (what does not apply is not there)."""

MAX_SHARDS = 1024
# of a shard. Half of a batch of 1,024 images (784-512-10) as 1, 2, 4 shards: 5.4, 5.9, 6.9 ms; of 128: 1.04, 1.57, 2.4 ms
LARGE_ROWS, SMALL_ROWS = 256, 128
WHERE_AND_WHEN = {
    "folder",
    "checkpoint_s",
    "checkpoint_steps",
    "keep_last",
    "keep_best",
    "monitor",
    "callbacks",
}  # settings that cannot change a bit of the weights, or not all


def default_shards(batch: int) -> int:
    """Shards of 256 rows and more, for smaller batches up to 4 of 128, and at least 2: smaller ones cost more than they let more workers help.

    >>> [default_shards(batch) for batch in (16, 128, 512, 1024, 100_000)]
    [2, 2, 4, 4, 256]
    """
    large, small = (1 << (max(batch // rows, 1).bit_length() - 1) for rows in (LARGE_ROWS, SMALL_ROWS))
    return min(MAX_SHARDS, max(2, large, min(4, small)))


@dataclass(frozen=True)
class Weights:
    """A file of weights that another training of the same layers gave: an Outcome's, or a registered version's."""

    sha256: str  # of the bytes of w
    path: str = field(compare=False)  # reached by rank 0 only


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training. `shards` is part of the model, not of the cluster: another number gives other bits.

    A Graph reads the columns that `train.x` names, in the order of its inputs. Rows count as `train.weight` says, if it names a column.

    Raises: ModelError for settings that do not fit together.
    """

    layers: tuple[Layer, ...] | Graph
    loss: Loss
    optimizer: Optimizer
    train: Dataset
    folder: str  # of checkpoints and final weights; reached by rank 0 only
    validation: Dataset | None = None
    batch: int = 128  # rows of a step, over all ranks
    epochs: int = 10
    bucket: bool = False  # sequences of tokens: batches of similar length, cut to their longest row
    seed: int = 0
    begin: Weights | None = None  # first weights; None: by the seed
    shards: int = 0  # power of two; 0: `default_shards(batch)`
    exact: bool = (
        True  # False: one shard per rank, so that the bits depend on the number of ranks; a little faster
    )
    patience: int | None = (
        None  # epochs without a better validation loss before training ends with the best weights
    )
    callbacks: tuple[Callback, ...] = ()  # rank 0 decides, all ranks do the same
    checkpoint_s: float = 30.0
    checkpoint_steps: int | None = None  # every so many steps besides
    keep_last: int = 2  # of the checkpoints: an older one is used if the newest is damaged
    keep_best: int = 0  # of the checkpoints at ends of epochs: those with the best `monitor`
    monitor: str = "val_loss"

    def __post_init__(self) -> None:
        for name in ("batch", "epochs"):
            if getattr(self, name) < 1:
                raise ModelError(f"job: {name} is {getattr(self, name)!r}, expected at least 1; correct it")
        if not self.shards:
            object.__setattr__(self, "shards", default_shards(self.batch))
        if not 1 <= self.shards <= MAX_SHARDS or self.shards & (self.shards - 1):
            raise ModelError(
                f"job: shards is {self.shards!r}, expected a power of two up to {MAX_SHARDS}; 8 is a good choice"
            )
        if not 0 <= self.seed < 1 << 63:
            raise ModelError(
                f"job: seed is {self.seed!r}, expected a whole number from 0 to 2^63 - 1; choose another one"
            )
        if not self.checkpoint_s > 0:
            raise ModelError(
                f"job: checkpoint_s is {self.checkpoint_s!r}, expected seconds above 0; 30 is a good choice"
            )
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise ModelError(
                f"job: checkpoint_steps is {self.checkpoint_steps!r}, expected at least 1; leave it out for none"
            )
        if self.keep_last < 1 or self.keep_best < 0:
            raise ModelError(
                f"job: keep_last is {self.keep_last!r} and keep_best {self.keep_best!r}, expected at least 1 and 0; correct them"
            )
        if self.keep_best and self.monitor.startswith("val_") and self.validation is None:
            raise ModelError(
                f"job: keep_best is {self.keep_best!r} by {self.monitor!r} and there are no validation rows; give some, or monitor 'loss'"
            )
        if self.patience is not None and (self.patience < 1 or self.validation is None):
            raise ModelError(
                f"job: patience is {self.patience!r} and validation is {'missing' if self.validation is None else 'given'}, "
                "expected at least 1 with a validation set; give one, or leave patience out"
            )
        layers = self.layers.layers if isinstance(self.layers, Graph) else self.layers
        if any(isinstance(layer, Layer) and layer.stateful for layer in layers):
            raise ModelError(
                "job: a layer is stateful, but batches are of rows in random order, shared by ranks: no row goes on from another; "
                "leave stateful out, or train with Sequential.fit(shuffle=False)"
            )
        check_callbacks(self.watching, validated=self.validation is not None)
        for name in ("train", "validation"):
            dataset = getattr(self, name)
            if dataset is not None and not dataset.rows:
                raise ModelError(
                    f"job: {name} has no rows, expected at least 1; look at the split and the filters before it"
                )

    def model(self, zeros: Zeros | None = None) -> Model:
        """The model that is trained, without weights; `zeros` makes the memory of its weights.

        Raises: ModelError if layers and columns do not fit.
        """
        if isinstance(self.layers, Graph):
            model, found = Model(self.layers, zeros=zeros), tuple(each.shape for each in self.train.inputs)
            if model.in_shapes != found:
                wanted = dict(zip(model.inputs, model.in_shapes, strict=True))
                columns = [each.x for each in self.train.inputs]
                raise ModelError(
                    f"job: columns {columns!r} have samples of {list(found)!r}, expected those of the inputs {wanted!r} in this order; "
                    "name them so in Dataset(x=...)"
                )
            return model
        model = Model(self.layers, self.train.shape, zeros=zeros)
        if self.bucket:
            allow_lengths(model)
        return model

    @property
    def watching(self) -> tuple[Callback, ...]:
        """All callbacks: `patience` is one too."""
        stop = () if self.patience is None else (EarlyStopping(patience=self.patience),)
        return (*stop, *self.callbacks)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that decides the weights; a checkpoint is used only by the job that wrote it.

        Raises: ModelError for a layer, loss or optimizer that is no frozen dataclass of plain settings.
        """
        settings = {
            each.name: _plain(getattr(self, each.name))
            for each in fields(self)
            if each.name not in WHERE_AND_WHEN
        }
        settings["callbacks"] = [_plain(callback) for callback in self.callbacks if callback.decides]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training gave."""

    weights: str  # path of the weights file: safetensors with one tensor `w`
    weights_sha256: str  # of the bytes of w
    history: tuple[Line, ...]
    steps: int
    stopped_early: bool
    best_epoch: int | None  # where a callback keeps the best weights: the epoch whose weights these are
    parameters: int
    workers: int  # ranks that finished it
    best_checkpoints: tuple[str, ...]  # of `keep_best`, best first: files of rank 0, for `load_checkpoint`
    numerics: Mapping[str, Any]  # NumPy, BLAS kernel, threads: the bits hold for these
    restarts: tuple[str, ...] = field(default=())


def _plain(value: Any) -> Any:
    """The value as JSON can hold it, with the names of classes, so that equal text means equal settings."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        settings = {each.name: _plain(getattr(value, each.name)) for each in fields(value) if each.compare}
        return {"": kind, **settings}
    raise ModelError(
        f"job: {value!r} is a {type(value).__name__}, expected a frozen dataclass of numbers, texts and tuples; write it as one"
    )
