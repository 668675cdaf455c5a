"""Whether a warehouse can be written at all, found out before any work is done."""

import os
import shutil
import uuid
from pathlib import Path

from pipelines.access import is_url
from pipelines.conditional import check_conditional
from pipelines.errors import PipelineError
from pipelines.places import place as place_of
from pipelines.places import put
from pipelines.warehouse.disk import sync_folder
from pipelines.warehouse.names import SYSTEM

__all__ = ["preflight"]

_PROBE = b"\0" * 65_536


def preflight(root: str) -> None:
    """Nothing, if files can be made, put on the disk, linked, renamed and removed in `root`; makes the folder.

    In an object store: if objects can be put, put only where there is none, and removed.

    Raises: PipelineError with what the system said and what to do.
    """
    if is_url(root):
        probe = place_of(root, SYSTEM, f"probe-{uuid.uuid4().hex}")
        put(probe, _PROBE[:1])
        probe.unlink()
        check_conditional(root)
        return
    place = Path(root)
    name = f".probe-{uuid.uuid4().hex}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        _write(place / name)
        os.link(place / name, place / f"{name}-linked")  # how a commit makes sure that it is the only one
        (place / f"{name}-linked").replace(place / name)
        sync_folder(root)
    except OSError as error:
        raise PipelineError(
            f"{root}: cannot write to the warehouse: {error.strerror} ({error.filename or root}); {_remedy(place)}"
        ) from error
    finally:
        for left in (name, f"{name}-linked"):
            _remove(place / left)


def _write(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if os.write(descriptor, _PROBE) < len(_PROBE):
            raise OSError(28, "only a part of 64 KiB could be written", str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # the folder cannot be written at all: the first error says so
        return


def _remedy(place: Path) -> str:
    parent = next((p for p in (place, *place.parents) if p.exists()), Path("/"))
    if not parent.is_dir():
        return f"{parent} is a file, expected a folder; move it away, or choose another warehouse"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"{parent} is not writable for this user; correct the permissions, or choose another warehouse"
    free = shutil.disk_usage(parent).free
    if free < 16 * len(_PROBE):
        return f"the disk has {free:,} bytes free; free some space, or choose another warehouse"
    return "expected a local file system that can be written and knows hard links; choose another folder"
