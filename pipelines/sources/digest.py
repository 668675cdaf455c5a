"""The digest of files that are read with each other: SHA-256, 1.5 to 2 GB a second of a core that has instructions for it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import InputError

__all__ = ["digest"]

_PIECE = 1 << 18  # bytes: stay in the cache between reading and hashing


def digest(content: Iterable[tuple[bytes, Path]]) -> str:
    """Of some files, each behind what is said of it.

    Raises: InputError if one may not be read.
    """
    made = hashlib.sha256()
    piece = bytearray(_PIECE)
    view = memoryview(piece)
    try:
        for said, path in content:
            made.update(said)
            with path.open("rb", buffering=0) as file:
                while size := file.readinto(piece):
                    made.update(view[:size])
    except PermissionError as error:
        raise InputError(f"{error.filename}: may not be read by this user; change its permissions") from error
    return made.hexdigest()
