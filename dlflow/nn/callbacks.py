"""What may happen at the end of an epoch: stop, lower the learning rate, keep the best weights, write a file.

A callback is a frozen value. What it must remember it keeps in a dict of plain numbers and texts that the training saves with its
checkpoints, so a resumed training decides as an unbroken one. On several ranks rank 0 decides, and all do the same.

A callback of your own is a frozen dataclass:

    @dataclass(frozen=True)
    class Halve(Callback):
        kind: ClassVar[str] = "halve"
        every: int

        def epoch_end(self, control, memory):
            if (control.epoch + 1) % self.every == 0:
                control.scale /= 2
"""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, ClassVar

from dlflow.errors import ModelError
from dlflow.nn.choice import suggestion
from dlflow.nn.files import write_whole
from dlflow.nn.schedules import Schedule

__all__ = [
    "Callback",
    "Control",
    "EarlyStopping",
    "EpochRate",
    "HistoryFile",
    "Line",
    "ReduceOnPlateau",
    "SaveModel",
    "check_callbacks",
    "decide",
    "rises",
]

Line = dict[str, Any]
Memory = dict[str, Any]
RISING = {"accuracy", "auc", "f1", "macro_f1", "macro_precision", "macro_recall", "precision", "r2", "recall"}


@dataclass
class Control:
    """What a callback sees of the epoch that ended, and what it may change."""

    epoch: int  # from 0
    epochs: int
    line: Line  # of this epoch
    history: Sequence[Line]  # with this epoch
    rate: float  # learning rate of the next update, before `scale`
    save: Callable[[str | Path], None]  # writes the model as it is now
    scale: float = 1.0  # multiplies the learning rate from now on
    keep: bool = False  # these weights are the best so far; the training ends with the last that were kept
    stop: str = ""  # why training ends now, if it does


class Callback(ABC):
    """Something that happens at the end of every epoch."""

    kind: ClassVar[str]
    decides: ClassVar[bool] = True  # whether the weights depend on it
    keeps: bool = False  # whether it sets `keep`: one callback of a training may
    monitor: str = ""  # the number it needs in every line

    @abstractmethod
    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Look at the epoch, change `control`. `memory` is its own dict of what JSON can hold; it starts empty."""


def rises(monitor: str) -> bool:
    """Whether more is better: for accuracies and the like, of training or validation rows."""
    name = monitor.removeprefix("val_")
    return name in RISING or name.endswith("_accuracy")


def check_callbacks(callbacks: Sequence[Callback], *, validated: bool) -> None:
    """Raises: ModelError for a callback that cannot work: no validation rows to watch, or two that keep weights."""
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ModelError(f"callback {callback!r}, expected a dlflow.nn.Callback; write it as one")
        if callback.monitor.startswith("val_") and not validated:
            raise ModelError(
                f"callback {callback.kind!r} watches {callback.monitor!r} and there are no validation rows; "
                "give some, or watch 'loss'"
            )
    keepers = [callback.kind for callback in callbacks if callback.keeps]
    if len(keepers) > 1:
        raise ModelError(f"callbacks {keepers!r} all choose the final weights, expected one that does")


def decide(callbacks: Sequence[Callback], control: Control, memory: dict[str, Memory]) -> None:
    """Run all callbacks, in order, each with its own part of the memory.

    Raises: ModelError if one of them fails, with its name.
    """
    seen: dict[str, int] = {}
    for callback in callbacks:
        number = seen[callback.kind] = seen.get(callback.kind, 0) + 1
        own = memory.setdefault(f"{callback.kind} {number}", {})
        try:
            callback.epoch_end(control, own)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"callback {callback.kind!r} failed after epoch {control.epoch}: {type(error).__name__}: {error}; correct it"
            ) from error


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Stop after `patience` epochs without a better number; end with the weights of the best epoch, unless told otherwise.

    Better is by more than min_delta. mode is "min", "max", or "auto": up for accuracies and the like, else down.
    """

    kind: ClassVar[str] = "early_stopping"
    patience: int = 5
    monitor: str = "val_loss"
    min_delta: float = 0.0
    mode: str = "auto"
    restore_best: bool = True
    from_epoch: int = 0  # earlier ones do not count

    def __post_init__(self) -> None:
        _check_watch(self)

    @property
    def keeps(self) -> bool:  # type: ignore[override]
        """Whether it ends with the best weights."""
        return self.restore_best

    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Keep, or wait, or stop."""
        if control.epoch < self.from_epoch:
            return
        if _improved(self, control, memory):
            control.keep = control.keep or self.restore_best
        elif memory["waited"] >= self.patience:
            control.stop = control.stop or f"{self.monitor} did not improve for {memory['waited']} epochs"


@dataclass(frozen=True)
class ReduceOnPlateau(Callback):
    """Multiply the learning rate with `factor` after `patience` epochs without a better number, down to `floor`."""

    kind: ClassVar[str] = "reduce_on_plateau"
    factor: float = 0.1
    patience: int = 5
    monitor: str = "val_loss"
    min_delta: float = 1e-4
    mode: str = "auto"
    cooldown: int = 0  # epochs to wait after each reduction
    floor: float = 0.0  # learning rate

    def __post_init__(self) -> None:
        _check_watch(self)
        if not 0 < self.factor < 1:
            raise ModelError(f"{self.kind}: factor is {self.factor!r}, expected 0 < factor < 1")
        if self.cooldown < 0 or not 0 <= self.floor < inf:
            raise ModelError(
                f"{self.kind}: cooldown is {self.cooldown!r} and floor {self.floor!r}, expected 0 or more"
            )

    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Lower the rate, or wait."""
        resting = memory.get("resting", 0)
        memory["resting"] = max(0, resting - 1)
        improved = _improved(self, control, memory)
        if resting:
            memory["waited"] = 0
        elif not improved and memory["waited"] >= self.patience:
            control.scale = max(control.scale * self.factor, min(control.scale, self.floor / control.rate))
            memory |= {"waited": 0, "resting": self.cooldown}


@dataclass(frozen=True)
class EpochRate(Callback):
    """The learning rate of a schedule whose t counts epochs; the optimizer's own rate is that of the first epoch."""

    kind: ClassVar[str] = "epoch_rate"
    schedule: Schedule

    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Set the rate of the next epoch."""
        del memory
        control.scale = self.schedule.at(control.epoch + 1) / control.rate


@dataclass(frozen=True)
class HistoryFile(Callback):
    """The history as a table (.csv) or as JSON (.json), written whole after every epoch."""

    kind: ClassVar[str] = "history_file"
    decides: ClassVar[bool] = False
    path: str

    def __post_init__(self) -> None:
        if Path(self.path).suffix not in {".csv", ".json"}:
            raise ModelError(f"history_file: path is {self.path!r}, expected one that ends in .csv or .json")

    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Write it."""
        del memory
        if self.path.endswith(".json"):
            text = json.dumps([dict(line) for line in control.history], indent=1)
        else:
            file = io.StringIO()
            names = list(dict.fromkeys(name for line in control.history for name in line))
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(control.history)
            text = file.getvalue()
        write_whole(self.path, text.encode())


@dataclass(frozen=True)
class SaveModel(Callback):
    """Write the model after every epoch (`which="last"`), or after those that are better than all before (`which="best"`).

    `{epoch}` in the path is the number of the epoch.
    """

    kind: ClassVar[str] = "save_model"
    decides: ClassVar[bool] = False
    path: str
    which: str = "best"
    monitor: str = "val_loss"
    min_delta: float = 0.0
    mode: str = "auto"
    patience: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        _check_watch(self)
        if self.which not in {"best", "last"}:
            raise ModelError(f"save_model: which is {self.which!r}, expected 'best' or 'last'")
        if self.which == "last":
            object.__setattr__(self, "monitor", "")

    def epoch_end(self, control: Control, memory: Memory) -> None:
        """Write it, or not."""
        if self.which == "last" or _improved(self, control, memory):
            control.save(self.path.replace("{epoch}", str(control.epoch)))


Watching = EarlyStopping | ReduceOnPlateau | SaveModel


def _check_watch(callback: Watching) -> None:
    if callback.patience < 1:
        raise ModelError(f"{callback.kind}: patience is {callback.patience!r}, expected at least 1 epoch")
    if not 0 <= callback.min_delta < inf:
        raise ModelError(f"{callback.kind}: min_delta is {callback.min_delta!r}, expected 0 or more")
    if callback.mode not in {"auto", "max", "min"}:
        raise ModelError(f"{callback.kind}: mode is {callback.mode!r}, expected 'auto', 'max' or 'min'")


def _improved(callback: Watching, control: Control, memory: Memory) -> bool:
    """Whether this epoch is the best so far; `memory` counts the epochs since then as "waited"."""
    value = _number(callback, control.line)
    rising = callback.mode == "max" or (callback.mode == "auto" and rises(callback.monitor))
    if value is not None and not rising:
        value = -value
    best = memory.get("best")
    if value is not None and (best is None or value > best + callback.min_delta):
        memory |= {"best": value, "waited": 0}
        return True
    memory["waited"] = memory.get("waited", 0) + 1
    return False


def _number(callback: Watching, line: Mapping[str, Any]) -> float | None:
    if callback.monitor not in line:
        raise ModelError(
            f"callback {callback.kind!r} watches {callback.monitor!r}, which no epoch has; {suggestion(callback.monitor, line)}"
        )
    value: float | None = line[callback.monitor]  # None where a metric is not defined, as AUC of one class
    return None if value is None or value != value else value  # noqa: PLR0124  (nan is never better)
