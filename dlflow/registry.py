"""Models as files: a folder per version with the weights (safetensors) and a description (JSON). Data only, never code.

    <root>/<name>/1/model.safetensors     one float32 vector "w" (P,)
                    model.json            layers and input shape, or a graph, digest of the weights, metadata
    <root>/<name>/2/...

A version is written aside, synced, and appears by one rename: whole or not at all. The digest is checked on every load.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn.graph import Graph
from dlflow.nn.layers import Layer
from dlflow.nn.model import Model
from dlflow.nn.params import Array, Shape
from dlflow.nn.spec import graph_from, graph_to, layer_from, layer_to

__all__ = ["WEIGHTS", "latest", "load", "save", "save_files", "save_version", "versions", "weights_digest"]

FORMAT = "dlflow-model"
FORMAT_VERSION = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MAX_DESCRIPTION = 16 << 20  # bytes. The largest of the gallery has 40 KB: more is no model description
MAX_HEADER = 64 << 10  # bytes of safetensors header; ours has one tensor and needs about 100


def weights_digest(w: Array) -> str:
    """SHA-256, in hex, of the weights as little-endian float32: equal for equal bits, and only for them."""
    return hashlib.sha256(np.ascontiguousarray(w, "<f4").tobytes()).hexdigest()


def save(
    folder: str | Path,
    *,
    weights: Array,
    layers: Sequence[Layer] | Graph,
    in_shape: Shape = (),
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write a model to a folder that does not exist yet; give the digest of its weights. A Graph brings its own shapes.

    `metadata` is any JSON: loss, optimizer, feature transforms, lineage, fingerprint.

    Raises: ModelError if the weights do not fit the layers or are not finite, the metadata are no JSON, or the folder is there.
    """
    folder = Path(folder)
    files, digest = _files(weights, layers, in_shape, metadata or {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _Aside(folder.parent, files) as aside:
        if not _appear(aside, folder):
            raise ModelError(
                f"{folder}: a model is there already, expected a new folder; versions are never overwritten"
            )
    return digest


def save_version(
    root: str | Path,
    name: str,
    *,
    weights: Array,
    layers: Sequence[Layer] | Graph,
    in_shape: Shape = (),
    metadata: Mapping[str, Any] | None = None,
) -> tuple[int, Path]:
    """Write the next version of a named model; give its number and folder. Writers at the same time get different numbers.

    Raises: ModelError as `save`, or for a name that is no plain folder name.
    """
    files, _ = _files(weights, layers, in_shape, metadata or {})
    return save_files(root, name, files)


def save_files(root: str | Path, name: str, files: Mapping[str, bytes]) -> tuple[int, Path]:
    """Write the next version of a model of another kind, of these files by name, as `save_version` does."""
    home = _home(root, name)
    home.mkdir(parents=True, exist_ok=True)
    with _Aside(home, files) as aside:
        number = max(versions(root, name), default=0) + 1
        while not _appear(aside, home / str(number)):  # another writer took this number
            number += 1
    return number, home / str(number)


def versions(root: str | Path, name: str) -> list[int]:
    """The numbers of all versions, rising."""
    home = _home(root, name)
    if not home.is_dir():
        return []
    return sorted(int(each.name) for each in home.iterdir() if re.fullmatch(r"[1-9]\d*", each.name))


def latest(root: str | Path, name: str) -> Path:
    """Folder of the newest version.

    Raises: ModelFileError if there is none.
    """
    found = versions(root, name)
    if not found:
        known = (
            sorted(each.name for each in Path(root).iterdir() if versions(root, each.name))
            if Path(root).is_dir()
            else []
        )
        raise ModelFileError(f"no model {name!r} in {root}, expected one of {known!r}; train it first")
    return _home(root, name) / str(found[-1])


def load(folder: str | Path) -> tuple[Model, dict[str, Any]]:
    """The model of a folder, its weights checked against the digest, and its metadata.

    Raises: ModelFileError if a file is not there, cut short, changed or foreign.
    """
    folder = Path(folder)
    description = _read_description(folder / DESCRIPTION)
    path = folder / WEIGHTS
    try:
        model = _model(description)
    except (ModelError, MemoryError, OverflowError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{folder / DESCRIPTION}: cannot build the model: {error}; was it written by a newer dlflow?"
        ) from error
    w = _read_weights(path)
    if w.shape != model.w.shape or w.dtype != np.float32:
        raise ModelFileError(
            f"{path}: weights are {w.dtype} of shape {w.shape!r}, the layers need float32 {model.w.shape!r}; take another copy"
        )
    digest = weights_digest(w)
    if digest != description["weights_sha256"]:
        raise ModelFileError(
            f"{path}: SHA-256 of the weights is {digest[:16]}..., expected {description['weights_sha256'][:16]}...; the file is damaged, take another copy"
        )
    model.w[...] = w
    return model, description["metadata"]


def _home(root: str | Path, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ModelError(
            f"model name {name!r}, expected letters, digits, '_', '-' and '.'; it names a folder"
        )
    return Path(root) / name


def _files(
    w: Array, layers: Sequence[Layer] | Graph, in_shape: Shape, metadata: Mapping[str, Any]
) -> tuple[dict[str, bytes], str]:
    needed = Model(layers, in_shape).parameters
    if w.shape != (needed,) or w.dtype != np.float32:
        raise ModelError(
            f"weights are {w.dtype} of shape {w.shape!r}, the layers need float32 ({needed},); save the weights of this model"
        )
    if not np.isfinite(w).all():
        raise ModelError(
            f"{int((~np.isfinite(w)).sum())} weights are not finite, expected numbers; training has diverged, nothing was saved"
        )
    digest = weights_digest(w)
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **_architecture(layers, in_shape),
        "parameters": needed,
        "weights_sha256": digest,
        "metadata": dict(metadata),
    }
    try:
        text = json.dumps(description, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the metadata are not JSON: {error}; give numbers, texts, lists and dicts"
        ) from error
    made = {WEIGHTS: safetensors.numpy.save({"w": w}), DESCRIPTION: text.encode()}
    if len(made[DESCRIPTION]) > MAX_DESCRIPTION:
        raise ModelError(
            f"the metadata are {len(made[DESCRIPTION]):,} bytes, expected at most {MAX_DESCRIPTION:,}; leave data out"
        )
    return made, digest


def _architecture(layers: Sequence[Layer] | Graph, in_shape: Shape) -> dict[str, Any]:
    if isinstance(layers, Graph):
        return {"graph": graph_to(layers)}
    return {"layers": [layer_to(layer) for layer in layers], "in_shape": list(in_shape)}


def _model(description: Mapping[str, Any]) -> Model:
    if "graph" in description:
        return Model(graph_from(description["graph"]))
    return Model([layer_from(layer) for layer in description["layers"]], tuple(description["in_shape"]))


class _Aside:
    """A folder with these files, synced, under a name that no reader looks at; removed at the end if it was not renamed.

    It is locked meanwhile: those that nobody has locked were left by killed writers, and are removed first.
    """

    def __init__(self, parent: Path, files: Mapping[str, bytes]) -> None:
        self._parent, self._files = parent, files
        self._folder, self._lock = parent, -1

    def __enter__(self) -> Path:
        for left in self._parent.glob(".*.tmp"):
            _remove_left(left)
        self._folder, self._lock = self._new()
        try:
            for name, content in self._files.items():
                _write(self._folder / name, content)
            _sync_folder(self._folder)
        except BaseException:
            self.__exit__()
            raise
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def _new(self) -> tuple[Path, int]:
        while True:
            folder = self._parent / f".{uuid.uuid4().hex}.tmp"
            folder.mkdir()
            with contextlib.suppress(FileNotFoundError):  # another writer took it for one that was left
                lock = os.open(folder, os.O_RDONLY)
                fcntl.flock(lock, fcntl.LOCK_EX)
                if folder.exists():
                    return folder, lock
                os.close(lock)


def _remove_left(folder: Path) -> None:
    """Remove a folder of a writer that is no more."""
    with contextlib.suppress(OSError):  # its writer lives, or another one was faster
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _appear(aside: Path, folder: Path) -> bool:
    """Rename; False if a folder with files is there already (a rename replaces only an empty one)."""
    if folder.exists():
        return False
    try:
        aside.rename(folder)
    except OSError:
        if folder.exists():
            return False
        raise
    _sync_folder(folder.parent)
    return True


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_DESCRIPTION:
            raise ModelFileError(
                f"{path}: {path.stat().st_size:,} bytes, expected at most {MAX_DESCRIPTION:,}; this is no model of dlflow"
            )
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: there is no such file; give the folder of one version of a model"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path}: cannot be read ({error}); the file is damaged, take another copy"
        ) from error
    expected: dict[str, type] = {"weights_sha256": str, "metadata": dict}
    if isinstance(found, dict) and "estimator" in found:
        raise ModelFileError(f"{path}: this is {found['estimator']}, no network; dlflow.fitted.load opens it")
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ModelFileError(f"{path}: this is no model of dlflow; give the folder of one version of a model")
    if found.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {found.get('format_version')!r}, expected {FORMAT_VERSION}; install a newer dlflow"
        )
    chain: dict[str, type] = {"layers": list, "in_shape": list}
    expected |= {"graph": dict} if isinstance(found.get("graph"), dict) else chain
    wrong = [name for name, kind in expected.items() if not isinstance(found.get(name), kind)]
    if wrong:
        raise ModelFileError(
            f"{path}: {', '.join(wrong)} missing or of a wrong type; the file is damaged, take another copy"
        )
    return found


def _read_weights(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            if header > MAX_HEADER:
                raise ModelFileError(
                    f"{path}: header of {header:,} bytes, expected at most {MAX_HEADER:,}; this is no model of dlflow"
                )
        with safetensors.safe_open(path, framework="numpy") as file:
            if list(file.keys()) != ["w"]:
                raise ModelFileError(
                    f"{path}: holds {list(file.keys())!r}, expected the one vector 'w'; this is no model of dlflow"
                )
            w: Array = file.get_tensor("w")
    except FileNotFoundError as error:
        raise ModelFileError(
            f"{path}: there is no such file; give the folder of one version of a model"
        ) from error
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ModelFileError(
            f"{path}: cannot be read ({error}); the file is damaged, take another copy"
        ) from error
    return w
