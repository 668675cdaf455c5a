"""Checkpoints: files that exist whole or not at all, that say when they are damaged, and that only their own job reads.

    <job's fingerprint, 16>-<epoch, 6>-<updates, 12>-<sha256 of the file, 32>.safetensors

The digest of all bytes is in the name, so that a flipped bit anywhere is seen before anything is believed. Content: the arrays
w, state and best as tensors, and everything else as JSON in the header's metadata. Nothing in a file can be executed.
"""

import hashlib
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import ModelFileError
from dlflow.nn.files import sweep, write_whole

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Memory",
    "Progress",
    "decode",
    "encode",
    "load_checkpoint",
    "load_weights",
    "save_weights",
]

Array = NDArray[np.float32]

FORMAT = 2
HEADER_BYTES = 16 << 20  # history of a long training; more is refused
NAME = re.compile(r"([0-9a-f]{16})-(\d{6})-(\d{12})-([0-9a-f]{32})\.safetensors")


@dataclass
class Progress:
    """How far a training is. All sums of the running epoch are here, so that a resumed epoch ends with the same history."""

    epoch: int = 0  # whole epochs
    step: int = 0  # steps of the running epoch
    updates: int = 0  # steps in all
    loss_sum: float = 0.0
    weight_sum: float = 0.0
    right: float = 0.0  # rows that were classified right
    counted: float = 0.0  # of so many; 0 of a regression
    padded: float = 0.0  # tokens that were padding
    tokens: float = 0.0  # of so many; 0 where there is no padding
    seconds: float = 0.0  # spent on the running epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    scale: float = 1.0  # of the learning rate
    remembered: dict[str, dict[str, Any]] = field(default_factory=dict)  # by the callbacks
    best_epoch: int | None = None
    ranking: list[tuple[float, int]] = field(
        default_factory=list
    )  # value and updates of the best, best first
    finished: bool = False
    stopped_early: bool = False

    def copy(self) -> "Progress":
        """As it is now, whatever happens to this one; lines of the history do not change once they are there."""
        history, ranking = list(self.history), list(self.ranking)
        return replace(self, history=history, ranking=ranking, remembered=deepcopy(self.remembered))


@dataclass(frozen=True)
class Checkpoint:
    """All that a training is between two steps. Shapes: w (P,), state (slots * P,), best (P,) or None."""

    fingerprint: str
    numerics: dict[str, str | int]
    progress: Progress
    w: Array
    state: Array
    best: Array | None


@dataclass
class Memory:
    """The newest checkpoint of a training in the memory of one rank: while one rank lives, no disk is needed to go on."""

    kept: Checkpoint | None = None
    pause: bool = False  # asks rank 0 to end the ranks after the step that runs, and to have them keep it


def encode(checkpoint: Checkpoint) -> bytes:
    """The bytes of the file."""
    from safetensors.numpy import save  # noqa: PLC0415  (needed only where a checkpoint is)

    tensors = {"w": checkpoint.w, "state": checkpoint.state}
    if checkpoint.best is not None:
        tensors["best"] = checkpoint.best
    facts = {
        "format": FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "numerics": checkpoint.numerics,
        "progress": asdict(checkpoint.progress),
    }
    return save(tensors, {"dlflow": json.dumps(facts)})


def decode(data: bytes, *, parameters: int | None = None, state: int | None = None) -> Checkpoint:
    """The checkpoint in these bytes; if sizes are given, for a model of so many parameters and values of optimizer state.

    Raises: ModelFileError for anything else.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        tensors = load(data)
        facts = json.loads(
            json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["dlflow"]
        )
        if facts["format"] != FORMAT:
            raise ModelFileError(
                f"checkpoint of format {facts['format']!r}, expected {FORMAT}; use the dlflow that wrote it"
            )
        made = Checkpoint(
            str(facts["fingerprint"]),
            dict(facts["numerics"]),
            _progress(**facts["progress"]),
            tensors["w"],
            tensors["state"],
            tensors.get("best"),
        )
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"not a checkpoint of dlflow ({error!r}); remove it") from error
    wanted = {"w": (parameters,), "state": (state,), "best": (parameters,)}
    for name, tensor in tensors.items():
        if (parameters is not None and wanted.get(name) != tensor.shape) or tensor.dtype != np.float32:
            raise ModelFileError(
                f"checkpoint: tensor {name!r} is {tensor.dtype} {tensor.shape}, expected float32 {wanted.get(name)}; remove it"
            )
    return made


def load_checkpoint(path: str | Path) -> Checkpoint:
    """A checkpoint that an Outcome names.

    Raises: ModelFileError if it is not there, or its bytes are not those that were written.
    """
    return decode(_whole(Path(path)))


class Checkpoints:
    """The checkpoints of one job in a folder: the newest, and the best of its ranking. Those of other jobs are neither read nor removed."""

    def __init__(self, folder: str | Path, fingerprint: str, *, keep: int = 2) -> None:
        self.folder, self.fingerprint, self.keep = Path(folder), fingerprint, keep

    def updates(self) -> int:
        """Steps of the newest checkpoint by its name; -1 if there is none."""
        paths = self._paths()
        return _updates(paths[-1]) if paths else -1

    def newest(self, *, parameters: int, state: int, warn: Callable[[str], None]) -> bytes:
        """The newest whole checkpoint, as bytes that `decode` reads; empty if there is none.

        Raises: ModelFileError if there are some, and all are damaged: training from the start must be asked for.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                return self._read(path, parameters=parameters, state=state)
            except ModelFileError as error:
                warn(f"{path.name} is skipped: {error}")
        if paths:
            raise ModelFileError(
                f"{self.folder}: all {len(paths)} checkpoints of this job are damaged; restore one, or remove them to begin again"
            )
        return b""

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write the checkpoint and keep the newest `keep`, and those of its ranking.

        Raises: ModelFileError if the folder cannot be written.
        """
        data = encode(checkpoint)
        at, digest = checkpoint.progress, hashlib.sha256(data).hexdigest()[:32]
        path = self.folder / f"{self.fingerprint[:16]}-{at.epoch:06d}-{at.updates:012d}-{digest}.safetensors"
        # each name is written once, so what a killed writer left under another one is removed here
        sweep(self.folder, f".{self.fingerprint[:16]}-*.tmp")
        _write(path, data)
        for old in self._paths()[: -self.keep]:
            if _updates(old) not in {updates for _, updates in at.ranking}:
                old.unlink(missing_ok=True)
        return path

    def kept(self, ranking: list[tuple[float, int]]) -> tuple[str, ...]:
        """The files of a ranking, best first."""
        there = {_updates(path): str(path) for path in self._paths()}
        return tuple(there[updates] for _, updates in ranking if updates in there)

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        named = [(NAME.fullmatch(path.name), path) for path in self.folder.iterdir()]
        return sorted(path for match, path in named if match and match[1] == self.fingerprint[:16])

    def _read(self, path: Path, *, parameters: int, state: int) -> bytes:
        data = _whole(path, limit=4 * (2 * parameters + state) + HEADER_BYTES)
        found = decode(data, parameters=parameters, state=state)
        if found.fingerprint != self.fingerprint:
            raise ModelFileError("it is of another job")
        return data


def _whole(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a checkpoint, if they have the digest of its name."""
    match = NAME.fullmatch(path.name)
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise ModelFileError(f"{size} bytes are more than this model can have")
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot be read ({error})") from error
    if match is None or hashlib.sha256(data).hexdigest()[:32] != match[4]:
        raise ModelFileError(f"{path.name}: its bytes are not those that were written")
    return data


def _updates(path: Path) -> int:
    return int(path.name.split("-")[2])


def _progress(*, ranking: list[list[float]] | None = None, **facts: Any) -> Progress:
    """Progress as JSON has it; one that is older has no ranking."""
    return Progress(ranking=[(value, int(updates)) for value, updates in ranking or []], **facts)


def save_weights(path: Path, w: Array, facts: dict[str, Any]) -> None:
    """Write final weights; whole or not at all.

    Raises: ModelFileError if the folder cannot be written.
    """
    from safetensors.numpy import save  # noqa: PLC0415

    _write(path, save({"w": w}, {"dlflow": json.dumps(facts)}))


def load_weights(path: str | Path, *, sha256: str) -> Array:
    """The weights of an Outcome. Shapes: (P,).

    Raises: ModelFileError if they are not those of the digest.
    """
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        w: Array = load(Path(path).read_bytes())["w"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelFileError(f"{path}: not a file of weights ({error}); train again") from error
    found = hashlib.sha256(w.tobytes()).hexdigest()
    if found != sha256:
        raise ModelFileError(
            f"{path}: weights have sha256 {found}, expected {sha256}; it was replaced or damaged, train again"
        )
    return w


def _write(path: Path, data: bytes) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise ModelFileError(
            f"{path}: {len(data)} bytes cannot be written ({error}); make room or choose another folder, then run again to resume"
        ) from error
