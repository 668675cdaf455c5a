"""Where a warehouse lies: a folder of a disk, or a prefix of an object store, s3://bucket/prefix, with the same few operations.

`place` gives a Path or a StorePath; both know what a warehouse asks of a folder. An object appears whole or not at
all, and what was put is what the next one reads; there are no links, no renames and no folders that must be made.
"""

import fnmatch
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pipelines import stores
from pipelines.access import SCHEME, filesystem, is_url, storage_of
from pipelines.errors import SpecError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Place",
    "StorePath",
    "absolute",
    "created",
    "modified_s",
    "opened",
    "place",
    "put",
    "remove_tree",
    "root_of",
    "state_folder",
]


class Stat(NamedTuple):
    """What a store knows of an object, by the names of `os.stat`."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class StorePath:
    """An object of a store, or a prefix of some; as much of a Path as a warehouse needs."""

    url: str
    _listed: Stat | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "StorePath":
        return StorePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """What is behind the last "/"."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last ending of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        """The prefix that it is in; that of a bucket is the bucket."""
        above = self.url.rpartition("/")[0]
        return StorePath(above) if len(above) > len(SCHEME) else self

    def relative_to(self, other: "StorePath | str") -> PurePosixPath:
        """What is behind a prefix."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(str(other)))

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing: prefixes are there when objects are."""

    def exists(self) -> bool:
        """Whether there is an object of this name, or one below it."""
        with stores.told(self.url):
            return bool(self._info().type.name != "NotFound")

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        with stores.told(self.url):
            return bool(self._info().type.name == "Directory")

    def stat(self) -> Stat:
        """Size and time of an object: of one that was listed, as it was then.

        Raises: FileNotFoundError if it is gone.
        """
        if self._listed is not None:
            return self._listed
        with stores.told(self.url):
            info = self._info()
        if info.type.name != "File":
            raise FileNotFoundError(2, "there is no such object", self.url)
        return _stat(info)

    def now(self) -> "StorePath":
        """The same without what was known of it when it was listed."""
        return StorePath(self.url)

    def read_bytes(self) -> bytes:
        """All of an object.

        Raises: FileNotFoundError if it is gone.
        """
        with stores.told(self.url), stores.opened(self.url) as file:
            content: bytes = file.read()
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of an object."""
        return self.read_bytes().decode(encoding)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove an object."""
        try:
            with stores.told(self.url):
                self._store.delete_file(self._key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> Iterator["StorePath"]:
        """What is directly below it."""
        yield from self.glob("*")

    def glob(self, pattern: str) -> Iterator["StorePath"]:
        """What is below it and matches, one "/" after another."""
        from pyarrow import fs  # noqa: PLC0415 - starts the library of the store

        steps = pattern.split("/")
        with stores.told(self.url):
            chosen = fs.FileSelector(self._key, allow_not_found=True, recursive=len(steps) > 1)
            infos = self._store.get_file_info(chosen)
        for info in infos:
            names = info.path.removeprefix(f"{self._key}/").split("/")
            if len(names) == len(steps) and all(map(fnmatch.fnmatchcase, names, steps)):
                yield StorePath(f"{SCHEME}{info.path}", _stat(info))

    @property
    def _key(self) -> str:
        return self.url.removeprefix(SCHEME)

    @property
    def _store(self) -> Any:
        return filesystem(storage_of(self.url))

    def _info(self) -> Any:
        return self._store.get_file_info(self._key)


Place: TypeAlias = Path | StorePath


def place(uri: str | Place, *parts: str) -> Place:
    """What a text names, with further names below it.

    >>> place("s3://bucket/tables", "trips"), place("tables", "trips").name
    (StorePath(url='s3://bucket/tables/trips'), 'trips')

    Raises: SpecError for a URL of a store that is not known.
    """
    if isinstance(uri, StorePath) or (isinstance(uri, str) and is_url(uri)):
        return StorePath("/".join([str(uri).rstrip("/"), *parts]))
    return Path(uri, *parts)


def root_of(text: str, folder: Path | None = None) -> Place:
    """The place of a warehouse: a folder, beside another one if it is relative, or a prefix of a bucket.

    Raises: SpecError for another URL, or names in it that are not safe everywhere.
    """
    if not is_url(text):
        return ((folder or Path.cwd()) / text).resolve()
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?", text):
        raise SpecError(
            f"{text}: expected s3://bucket or s3://bucket/prefix of letters, digits, '.', '_' and '-'; correct the URL"
        )
    return StorePath(text.rstrip("/"))


def absolute(uri: str) -> str:
    """The same place, whatever folder a worker is in."""
    return uri.rstrip("/") if is_url(uri) else os.path.abspath(uri)  # noqa: PTH100 - uris are text here


def opened(path: str) -> "pa.NativeFile":
    """A file or an object, to be read at any place."""
    if is_url(path):
        return stores.opened(path)
    import pyarrow as pa  # noqa: PLC0415 - the command line names places and opens none

    return pa.OSFile(path)


def created(path: str) -> "pa.NativeFile":
    """A new file or object, to be written from the beginning to the end."""
    if not is_url(path):
        import pyarrow as pa  # noqa: PLC0415 - see opened

        return pa.OSFile(path, "wb")
    with stores.told(path):
        return filesystem(storage_of(path)).open_output_stream(path.removeprefix(SCHEME), compression=None)


def put(target: Place, content: bytes) -> None:
    """All of a file at once: readers see the old content or the new one."""
    if isinstance(target, StorePath):
        with stores.told(target.url), created(target.url) as file:
            file.write(content)
        return
    aside = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    aside.write_bytes(content)
    aside.replace(target)


def modified_s(folder: Place) -> float:
    """When a folder changed last, seconds since 1970: of a prefix, the newest object below it; 0 if there is none."""
    if isinstance(folder, Path):
        return folder.stat().st_mtime
    with stores.told(folder.url):
        return max((one.stat().st_mtime for one in folder.glob("*")), default=0.0)


def remove_tree(folder: Place) -> None:
    """Remove a folder with all that is in it, as far as that is possible."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.is_dir():
        with stores.told(folder.url):
            filesystem(storage_of(folder.url)).delete_dir(folder.url.removeprefix(SCHEME))


def state_folder(root: Place, system: str, beside: Path | None = None) -> Path:
    """The folder of this machine for what is no table: models, logs, records of runs.

    It is in the warehouse if that is a folder, else `.dlflow` beside the pipeline file (or here).
    """
    if isinstance(root, Path):
        return root / system
    return (beside or Path.cwd()) / ".dlflow" / root.url.removeprefix(SCHEME)


def _stat(info: Any) -> Stat:
    return Stat(info.size or 0, (info.mtime_ns or 0) / 1e9)
