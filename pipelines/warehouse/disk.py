"""Bytes that are on the disk before anything names them, and the sentence for a disk that refuses."""

import os
import shutil
import time
import uuid
from pathlib import Path

from pipelines import conditional
from pipelines.access import is_url
from pipelines.errors import PartFailed
from pipelines.failpoints import failpoint
from pipelines.places import place, put

__all__ = ["YOUNG_S", "make_young", "put_if_absent", "refused", "sync_folder", "write_new"]


YOUNG_S = 12 * 3600.0
"""A vacuum takes nothing that is younger than twice this; a commit sets the time of what is older anew."""


def write_new(path: str, content: memoryview) -> None:
    """Make a file that was not there, with its bytes and its name on the disk; leaves nothing behind if it fails.

    Raises: PartFailed with what is free.
    """
    if is_url(path):
        _put_new(path, content)
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise refused(path, len(content), error) from error
    try:
        _write(descriptor, content[: len(content) // 2])
        failpoint("file.half_written")
        _write(descriptor, content[len(content) // 2 :])
        failpoint("file.before_sync")
        os.fsync(descriptor)
        sync_folder(os.path.dirname(path))  # noqa: PTH120 - uris are text here
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise refused(path, len(content), error) from error
    finally:
        os.close(descriptor)


def put_if_absent(path: str, content: bytes) -> None:
    """Make a file with all its bytes at once, if there is none of this name: a hard link, or a conditional put, fails where one is.

    Raises: FileExistsError if it is there.
    """
    if is_url(path):
        failpoint("commit.before_link")
        conditional.put_if_absent(path, content)
        return
    aside = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        write_new(aside, memoryview(content))
        failpoint("commit.before_link")
        os.link(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def make_young(url: str) -> bool:
    """Put an object again if it is so old that a vacuum may soon take it; whether it was."""
    target = place(url)
    if time.time() - target.stat().st_mtime < YOUNG_S:
        return False
    put(target, target.read_bytes())
    return True


def sync_folder(path: str) -> None:
    """The names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refused(path: str, size: int, error: Exception) -> PartFailed:
    """The error for a file that could not be written."""
    return PartFailed(
        f"{path}: cannot write {size:,} bytes{_free(path)}: {_reason(error)}; "
        "nothing was committed, free space or correct the permissions, then run again"
    )


def _put_new(url: str, content: memoryview) -> None:
    """An object: nobody sees it before it is whole. Its name is its own, so there is none before it."""
    try:
        failpoint("file.half_written")
        put(place(url), bytes(content))
        failpoint("file.before_sync")
    except OSError as error:
        raise refused(url, len(content), error) from error


def _write(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _free(path: str) -> str:
    if is_url(path):
        return ""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f" ({shutil.disk_usage(folder).free:,} bytes free)"


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())
