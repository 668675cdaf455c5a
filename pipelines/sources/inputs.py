"""The files of a source: which they are, what is in them (digest), and whether they are still the same while they are read.

A folder of images or documents is one input, and so are a database with its log and images with their labels.
"""

import contextlib
import dataclasses
import glob
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipelines import cache as caches
from pipelines import stores
from pipelines.errors import InputError, NoInput, PipelineError, SourceChanged
from pipelines.schema import Field
from pipelines.sources.digest import digest
from pipelines.sources.source import Source

__all__ = [
    "InputFile",
    "Offered",
    "Part",
    "around",
    "at_rest",
    "files",
    "listed",
    "measured",
    "objects",
    "row_ranges",
    "whole",
]

Offered = Mapping[str, Field | str]
"""What a file has: name in the file -> the column that it could be declared as, or why it can be none ("is list<int>")."""

_SUFFIXES = {
    "csv": (".csv", ".tsv", ".txt"),
    "jsonl": (".jsonl", ".ndjson"),
    "sqlite": (".sqlite", ".sqlite3", ".db"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".arrows", ".feather", ".ipc"),
    "idx": ("idx1-ubyte", "idx2-ubyte", "idx3-ubyte", "idx4-ubyte", ".idx"),
    "images": (".zip",),
    "text": (".txt",),
}
_AT_ONCE = 4  # files whose digests are taken: reading and hashing are done without Python's lock
_RECENT_NS = 2_000_000_000  # a file system may give two writes within this time the same times


@dataclass(frozen=True)
class InputFile:
    """A file and what was in it: the digest says whether anything has to be done again."""

    path: str
    size: int
    mtime_ns: int
    sha256: str  # of its bytes; of an object and the rows of a database another digest, which begins with its kind
    state: str = ""  # what size and mtime do not say: ctime and inode of a file, etag of an object, snapshot of a database
    beside: tuple[str, ...] = ()  # files that are read with it


@dataclass(frozen=True)
class Part:
    """A piece of one file that is read at once: `[start, stop)` in bytes or rows, or `[start, stop]` in keys of a table."""

    source: int  # number of the file in the plan's list
    path: str
    start: int
    stop: int
    line: int  # of its first row
    size: int  # of the whole file, with mtime_ns: what was planned
    mtime_ns: int
    names: tuple[str, ...] = ()  # columns of the file in their order
    state: str = ""  # as of the InputFile
    beside: tuple[str, ...] = ()  # files that are read with it
    members: tuple[str, ...] = ()  # of a folder or zip, what is read
    weight: int | None = None  # bytes that are read, where `stop - start` does not say so


def whole(file: InputFile, number: int) -> Part:
    """All of a file as one part."""
    return Part(
        number, file.path, 0, file.size, 1, file.size, file.mtime_ns, state=file.state, beside=file.beside
    )


def row_ranges(whole: Part, sizes: Iterable[tuple[int, int]], part_bytes: int) -> list[Part]:
    """Parts of about `part_bytes` of a file made of batches: small batches together, a large one in pieces.

    `sizes`: rows and bytes of each batch, in their order. A part is a range of rows; its line is the first one's ordinal.
    """
    parts: list[tuple[int, int, int]] = []
    start = row = packed = 0
    for rows, size in sizes:
        if row > start and packed + size > part_bytes:
            parts.append((start, row, packed))
            start, packed = row, 0
        row, packed = row + rows, packed + size
        pieces = min(-(-packed // part_bytes), row - start)
        if pieces > 1:
            ends = [start + (row - start) * piece // pieces for piece in range(pieces + 1)]
            parts += [(ends[piece], ends[piece + 1], packed // pieces) for piece in range(pieces)]
            start, packed = row, 0
    if row > start or not parts:
        parts.append((start, row, packed))
    return [dataclasses.replace(whole, start=a, stop=b, line=a + 1, weight=weight) for a, b, weight in parts]


def files(source: Source, cache: Path | str | None = None) -> list[InputFile]:
    """The files of a source, sorted by path; `cache` is a JSON file that keeps digests from run to run.

    Raises: InputError if there is none or one cannot be read; SourceChanged if one changes meanwhile.
    """
    known = {} if cache is None or source.identity == "hash" else caches.load(cache)

    def one(path: Path, beside: tuple[str, ...]) -> tuple[InputFile, dict[str, list[int | str]]]:
        place = "\0".join([str(path.resolve()), *(str(Path(one).resolve()) for one in beside)])
        size, mtime_ns, state = there = _state(path, source.reader, beside)
        old = known.get(place)
        if isinstance(old, list) and len(old) == 4 and old[:3] == [*there]:
            return InputFile(str(path), size, mtime_ns, str(old[3]), state, beside), {}
        sha256 = digest(_content(path, source.reader, beside))
        if _state(path, source.reader, beside) != there:
            raise SourceChanged(f"{path}: changed while its digest was taken; run again when it is at rest")
        fresh: dict[str, list[int | str]] = {}
        if time.time_ns() - max(mtime_ns, int(state.partition(":")[0])) > _RECENT_NS:
            fresh[place] = [*there, sha256]
        return InputFile(str(path), size, mtime_ns, sha256, state, beside), fresh

    paths = _paths(source, source.path)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(one, paths, _beside(source, paths)))
    fresh = {place: entry for _, new in found for place, entry in new.items()}
    if cache is not None and fresh and source.identity != "hash":
        caches.store(cache, {**known, **fresh})
    return [file for file, _ in found]


def listed(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, in order; those that begin with '.' or '_' are no input."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in "._"]
        found += [str(Path(place, name).relative_to(folder)) for name in names if name[0] not in "._"]
    return sorted(found)


def measured(part: Part) -> Part:
    """The part of a folder with size and times of the files that it reads."""
    size, mtime_ns, state = _state(Path(part.path), "", (), part.members)
    return dataclasses.replace(part, size=size, mtime_ns=mtime_ns, state=state)


def objects(source: Source) -> list[InputFile]:
    """The same of an object store: an object is known by its etag and size, and is not read for it.

    Raises: NoInput if there is none; InputError if store, bucket or rights are wrong; PartFailed if it does not answer.
    """
    ends = (".zip",) if source.documents else _endings(source)
    with stores.using(source.storage):
        found: list[tuple[stores.Object, ...]] = [(one,) for one in stores.found(source.path, ends)]
        if source.labels is not None:
            labels = stores.found(source.labels, ends)
            _check_pairs(source, len(labels), len(found))
            found = [(*one, label) for one, label in zip(found, labels, strict=True)]
    made = []
    for one in found:
        size, etags = sum(each.size for each in one), " ".join(each.etag for each in one)
        urls = [each.url for each in one]
        made.append(InputFile(urls[0], size, one[0].mtime_ns, f"etag:{etags}:{size}", etags, tuple(urls[1:])))
    return made


@contextlib.contextmanager
def at_rest(one: InputFile | Part, reader: str) -> Iterator[None]:
    """What happens inside has seen one state of the file, the planned one. A server keeps that state by itself.

    Raises: SourceChanged if the file is another before or after, whatever else went wrong.
    """
    if reader == "postgresql":
        yield
        return
    remote = stores.is_url(one.path)
    _check_same(one, reader)
    try:
        with stores.told(one.path) if remote else contextlib.nullcontext():
            yield
    except (PipelineError, OSError) as error:
        try:
            _check_same(one, reader)
        except SourceChanged as changed:
            raise changed from error
        if isinstance(error, PermissionError):
            raise InputError(f"{one.path}: may not be read by this user; change its permissions") from error
        raise
    _check_same(one, reader)


def _check_same(one: InputFile | Part, kind: str) -> None:
    try:
        if stores.is_url(one.path):
            there = [stores.state(path) for path in (one.path, *one.beside)]
            size, same = sum(each.size for each in there), " ".join(each.etag for each in there) == one.state
        else:
            members = one.members if isinstance(one, Part) else ()
            size, mtime_ns, state = _state(Path(one.path), kind, one.beside, members)
            same = (mtime_ns, state) == (one.mtime_ns, one.state)
    except FileNotFoundError as error:
        raise SourceChanged(
            f"{error.filename or one.path}: is gone since the run was planned; bring it back or run again"
        ) from error
    if not same or size != one.size:
        raise SourceChanged(
            f"{one.path}: changed since the run was planned ({one.size:,} bytes then, {size:,} now); run again when it is at rest"
        )


def _state(
    path: Path, kind: str, beside: Sequence[str] = (), members: Sequence[str] = ()
) -> tuple[int, int, str]:
    """Size, mtime, and "ctime:inode"; of a folder, of its files and folders, and of a database with its write-ahead log.

    The system sets the ctime at every write, and no program can set it back as it can the mtime. That of a log is left out:
    who reads a database as root sets the owner of its log.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        files = [path / name for name in members or listed(path)]
        folders = {path, *(one.parent for one in files)}  # a renamed file changes its folder only
        read = [one.stat() for one in files]
        times = read if members else [*read, *(one.stat() for one in folders)]
    else:
        times = [found, *(Path(one).stat() for one in beside)]
        read = [*times, *(one.stat() for one in _logs(path, kind))]
    size, mtime_ns = sum(one.st_size for one in read), max(one.st_mtime_ns for one in (*read, *times))
    return size, mtime_ns, f"{max(one.st_ctime_ns for one in times)}:{found.st_ino}"


def _logs(path: Path, kind: str) -> list[Path]:
    log = path.with_name(path.name + "-wal")
    return (
        [log] if kind == "sqlite" and log.exists() and log.stat().st_size else []
    )  # a reader leaves an empty one


def _content(path: Path, kind: str, beside: Sequence[str]) -> Iterator[tuple[bytes, Path]]:
    """What the digest of an input is over: files, and what stands before each."""
    if not path.is_dir():
        yield from ((b"", one) for one in (path, *_logs(path, kind), *map(Path, beside)))
        return
    for name in listed(path):
        one = path / name
        yield f"{name}\0{one.stat().st_size}\0".encode("utf-8", "surrogateescape"), one


def _beside(source: Source, paths: list[Path]) -> list[tuple[str, ...]]:
    """Files that are read with each of these: the labels of images, paired in the order of their names."""
    if source.labels is None:
        return [()] * len(paths)
    labels = _paths(source, source.labels)
    _check_pairs(source, len(labels), len(paths))
    return [(str(label),) for label in labels]


def _check_pairs(source: Source, labels: int, images: int) -> None:
    if labels != images:
        raise InputError(
            f"{source.labels}: {labels} files of labels for {images} files of images; expected one for each"
        )


def _paths(source: Source, wanted_path: str) -> list[Path]:
    path = Path(wanted_path)
    folders = source.kind == "images" or source.documents
    if folders and path.is_dir():
        found, wanted = [path], ""
    elif path.is_dir():
        ends = _endings(source)
        there = [one for one in path.iterdir() if one.name.lower().endswith(ends) and not one.is_dir()]
        found = [one for one in there if one.name[0] not in "._"]
        wanted = f"a file that ends in {', '.join(_SUFFIXES[source.reader])}"
    elif path.exists():
        found, wanted = [path], ""
    else:
        found = [
            Path(one)
            for one in glob.glob(wanted_path, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not Path(one).is_dir()
        ]
        wanted = "a file of this name"
    if not found:
        raise NoInput(f"{wanted_path}: no input; expected {wanted}; {around(path)}")
    for one in found:
        if not stat.S_ISREG(one.stat().st_mode) and not (folders and one.is_dir()):
            raise InputError(f"{one}: is no regular file; expected a file that can be read twice")
    return sorted(found)


def _endings(source: Source) -> tuple[str, ...]:
    return tuple(end + packed for end in _SUFFIXES[source.reader] for packed in ("", ".gz", ".zst"))


def around(path: Path) -> str:
    """What is in the nearest folder that exists."""
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    names = sorted(one.name + "/" * one.is_dir() for one in folder.iterdir())
    more = f" and {len(names) - 8:,} more" if len(names) > 8 else ""
    return f"{folder} has {', '.join(names[:8]) or 'nothing'}{more}"
