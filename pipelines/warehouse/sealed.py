"""Small files beside a table that nobody changes: each is named by the digest of its content, which a commit names.

So a commit seals them: another content would have another name. A crash leaves at most a file that no commit names.

    root/_dlflow/<kind>/<table>-<number in hex>.<suffix>
"""

import hashlib
import time
from collections.abc import Collection
from contextlib import suppress

from pipelines.errors import PartFailed
from pipelines.places import Place, StorePath, place
from pipelines.warehouse.disk import make_young, put_if_absent, write_new
from pipelines.warehouse.names import SYSTEM

__all__ = ["KEPT_S", "number_of", "prune", "read", "sealed_path", "write"]

KEPT_S = 90 * 24 * 3600.0  # as long as a version can be restored


def sealed_path(uri: str, kind: str, number: int, suffix: str) -> Place:
    """Where the file with this number is."""
    return _folder(uri, kind) / f"{place(uri).name}-{number:016x}.{suffix}"


def write(uri: str, kind: str, content: bytes, suffix: str) -> int:
    """Put the file there, if it is not; its number."""
    number = number_of(content)
    path = sealed_path(uri, kind, number, suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == content:
        make_young(str(path))  # nothing names it yet: it shall not be pruned meanwhile
    elif isinstance(path, StorePath):
        write_new(str(path), memoryview(content))  # whole at once; another run would put the same
    else:
        path.unlink(missing_ok=True)  # damaged
        with suppress(FileExistsError):  # another run has put the same just now
            put_if_absent(str(path), content)
    return number


def read(path: Place | str, what: str, remedy: str) -> bytes:
    """The content of such a file.

    Raises: PartFailed if it is gone or damaged, with what it is and what to do.
    """
    here = place(path)
    try:
        content = here.read_bytes()
    except OSError as error:
        raise PartFailed(
            f"{here}: {what} cannot be read ({error}); restore it from a copy, or {remedy}"
        ) from error
    if not here.stem.endswith(f"-{number_of(content):016x}"):
        raise PartFailed(f"{here}: {what} is damaged; restore it from a copy, or {remedy}")
    return content


def prune(uri: str, kind: str, needed: Collection[Place]) -> int:
    """Remove the table's files of a kind that are older than 90 days and not needed; how many."""
    oldest = time.time() - KEPT_S
    found = _folder(uri, kind).glob(f"{place(uri).name}-*")
    gone = [
        path
        for path in found
        if str(path) not in {str(one) for one in needed} and path.stat().st_mtime < oldest
    ]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def number_of(content: bytes) -> int:
    """The number of a content: 62 bits of its digest, as transaction ids of the log have them."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8]) >> 2


def _folder(uri: str, kind: str) -> Place:
    return place(uri).parent / SYSTEM / kind
