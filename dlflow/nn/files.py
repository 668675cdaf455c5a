"""Files that are there whole or not at all, and a model in one of them: tensors and their description, data only, never code.

    | length of the header | header: JSON                                  | tensors: little-endian float32 |
    | 8 bytes              | {"w": {"dtype", "shape", "data_offsets"}, ... |                                |
    |                      |  "__metadata__": {"dlflow": JSON, "sha256"}}  |                                |

This is the safetensors format, so its own library opens the file. Here it is written and read with NumPy alone, so that scoring needs
nothing else. The digest is that of all names, places, numbers and the description: a flipped bit anywhere is noticed.

A file is written aside, synced and renamed. What a killed writer left aside is removed by the next one: a writer holds a lock on its
file, so one that is not locked has no writer.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn.params import Array

__all__ = ["Readable", "read_tensors", "sweep", "write_tensors", "write_whole"]

MAX_HEADER = 32 << 20  # bytes. The longest description of the gallery has 40 KB
ALIGN = 8  # the header's length is padded to this, as the format recommends


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file, replacing an old one: whole or not at all, also after a power loss.

    Raises: OSError.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, f".{path.name}.*.tmp")
    aside, file = _locked(path)
    try:
        with open(file, "wb") as opened:  # noqa: PTH123  (a descriptor)
            opened.write(data)
            opened.flush()
            os.fsync(file)
            aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sweep(folder: Path, pattern: str) -> None:
    """Remove files of killed writers: those that nobody has locked."""
    for left in folder.glob(pattern):
        with contextlib.suppress(OSError):  # its writer lives, or another sweeper was faster
            file = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(file)


def write_tensors(path: str | Path, tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> str:
    """Write tensors of float32 and what is to be known of them (any JSON); give the digest.

    Raises: ModelError for other tensors or facts; ModelFileError if the file cannot be written.
    """
    header: dict[str, Any] = {}
    parts, stop = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32:
            raise ModelError(f"tensor {name!r} is {tensor.dtype}, expected float32; cast it")
        part = np.ascontiguousarray(tensor, "<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [stop, stop + len(part)],
        }
        parts.append(part)
        stop += len(part)
    try:
        text = json.dumps(facts, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"what is to be saved with the model is no JSON: {error}; give numbers, texts, lists and dicts"
        ) from error
    body = b"".join(parts)
    digest = _digest(header, text, body)
    header["__metadata__"] = {"dlflow": text, "sha256": digest}
    head = json.dumps(header, ensure_ascii=False).encode()
    head += b" " * (-len(head) % ALIGN)
    if len(head) > MAX_HEADER:
        raise ModelError(f"the description has {len(head):,} bytes, expected at most {MAX_HEADER:,}")
    try:
        write_whole(path, len(head).to_bytes(8, "little") + head + body)
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written ({error}); make room or choose another folder"
        ) from error
    return digest


class Readable(Protocol):
    """A path, also one within a zip."""

    def read_bytes(self) -> bytes:
        """All bytes of the file."""


def read_tensors(path: str | Readable) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and facts that `write_tensors` wrote; nothing in the file is believed before it is checked.

    Raises: ModelFileError for a file that is not there, foreign, cut short or changed.
    """
    try:
        data = (Path(path) if isinstance(path, str) else path).read_bytes()
    except (OSError, KeyError) as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); give the path of a saved model") from error
    try:
        header, start = _header(data)
        metadata = header.pop("__metadata__")
        text, digest = metadata["dlflow"], metadata["sha256"]
        if _digest(header, text, data[start:]) != digest:
            raise ModelFileError(f"{path}: its bytes are not those that were written; take another copy")
        return _tensors(header, data, start), _object(text)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: no model of dlflow ({error}); give the file of a saved one") from error


def _digest(tensors: Mapping[str, Any], text: str, body: bytes) -> str:
    """SHA-256 of all that a file says: names and places of the tensors, the description, the numbers."""
    return hashlib.sha256(json.dumps(tensors, sort_keys=True).encode() + text.encode() + body).hexdigest()


def _locked(path: Path) -> tuple[Path, int]:
    """A new file aside, open and locked."""
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:  # else a sweeper came between the two lines above
            return aside, file
        os.close(file)


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER, len(data) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    return _object(data[8 : 8 + length].decode()), 8 + length


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text, object_pairs_hook=_once)
    if not isinstance(found, dict):
        raise TypeError("no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name twice")
    return made


def _tensors(header: dict[str, Any], data: bytes, start: int) -> dict[str, Array]:
    """Tensors that follow each other without gaps and fill the file."""
    made, place = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (low, high) = entry["shape"], entry["data_offsets"]
        whole = all(type(length) is int and length >= 0 for length in (*shape, low, high))
        if entry["dtype"] != "F32" or not whole or low != place or high - low != 4 * prod(shape):
            raise ValueError(
                f"tensor {name!r}: {entry['dtype']} {shape} at {low}..{high}, expected F32 at {place}"
            )
        if start + high > len(data):
            raise ValueError(f"tensor {name!r} ends behind the file")
        made[name] = np.frombuffer(data, "<f4", prod(shape), start + low).reshape(shape).astype(np.float32)
        place = high
    if start + place != len(data):
        raise ValueError(f"{len(data) - start - place} bytes behind the last tensor")
    return made
