"""Images or documents, one file each, in folders by class or in a zip of such folders: the folder of a file is its label.

Members are ordered by name. A part carries the names of its members, so nobody has to look through the folder again.
"""

import dataclasses
import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from pipelines.errors import InputError
from pipelines.intake import Rejection
from pipelines.sources import stream
from pipelines.sources.inputs import InputFile, Part, listed, measured, whole
from pipelines.sources.rows import together, typed_rows
from pipelines.sources.source import Source
from pipelines.stage import Rows

__all__ = ["Member", "contents", "cut_members", "label_of", "rows_of"]

Member = tuple[str, bytes | Rejection]
"""Name, and what is in it or why that cannot be read."""

_DAMAGE = (  # what zipfile ends in on damaged bytes; an OSError where they send it before the beginning of the file
    *(
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        OSError,
    ),
)
_MOST = 2_000  # members of a part: their names travel with it


def cut_members(source: Source, file: InputFile, number: int, suffixes: tuple[str, ...]) -> list[Part]:
    """Parts of a folder or zip, of members with one of these suffixes.

    Raises: InputError if there is none, or the zip is damaged.
    """
    sizes = _sizes(file)
    wanted = [name for name in sizes if name.lower().endswith(suffixes)]
    if not wanted:
        known = sorted({PurePosixPath(name).suffix or name for name in sizes})
        raise InputError(
            f"{file.path}: no file that ends in {', '.join(suffixes)} among {len(sizes):,}"
            f" ({', '.join(known[:8])}); check path"
        )
    part = whole(file, number)
    parts, start, packed = [], 0, 0
    for at, name in enumerate(wanted):
        if at > start and (packed + sizes[name] > source.part_bytes or at - start >= _MOST):
            parts.append((start, at, packed))
            start, packed = at, 0
        packed += sizes[name]
    parts.append((start, len(wanted), packed))
    made = [
        dataclasses.replace(part, start=a, stop=b, line=a + 1, members=tuple(wanted[a:b]), weight=weight)
        for a, b, weight in parts
    ]
    return [measured(one) for one in made] if Path(file.path).is_dir() else made


def contents(part: Part, limit: int) -> Iterator[Member]:
    """What is in each member of a part; of one with more than `limit` bytes, or a damaged one, why it cannot be read."""
    if Path(part.path).is_dir():
        for name in part.members:
            with stream.opened(str(Path(part.path, name))) as file:
                yield name, _within(file.read(limit + 1), limit)
        return
    with _zip(part.path) as archive:
        for name in part.members:
            try:
                with archive.open(name) as file:
                    yield name, _within(file.read(limit + 1), limit)
            except _DAMAGE as error:
                if isinstance(error, OSError) and error.errno != errno.EINVAL:
                    raise
                yield name, Rejection("file", None, f"cannot be unpacked: {error}")


def label_of(name: str) -> str | None:
    """The folder that a member is in; None at the top."""
    return PurePosixPath(name).parent.name or None


def rows_of(source: Source, part: Part, columns: dict[str, pa.Array], why: dict[int, Rejection]) -> Rows:
    """Rows of a part; `columns` are those that the kind adds to label and file, by the name that it gives them.

    Shapes: each column (members,).
    """
    offered = columns | {
        "label": pa.array([label_of(name) for name in part.members], pa.string()),
        "file": pa.array(part.members, pa.string()),
    }
    values = {column: offered[name] for column, name in source.names.items()}
    lines = np.arange(part.start + 1, part.stop + 1)
    rows = typed_rows(
        source, part, lines, values, {}, why, lambda at: [part.members[row] for row in at.tolist()]
    )
    return together(source.schema, [rows])


def _within(data: bytes, limit: int) -> bytes | Rejection:
    if len(data) <= limit:
        return data
    return Rejection("field", None, f"more than max_field_bytes = {limit}")


def _sizes(file: InputFile) -> dict[str, int]:
    """Members and their sizes, unpacked, in the order of their names."""
    folder = Path(file.path)
    if folder.is_dir():
        return {name: (folder / name).stat().st_size for name in listed(folder)}
    with _zip(file.path) as archive:
        found = {one.filename: one.file_size for one in archive.infolist() if not one.is_dir()}
        if len(found) < sum(not one.is_dir() for one in archive.infolist()):
            raise InputError(f"{file.path}: two members have the same name; pack it again")
    return dict(sorted((name, size) for name, size in found.items() if not _hidden(name)))


def _hidden(name: str) -> bool:
    return any(step[0] in "._" for step in PurePosixPath(name).parts)


def _zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise InputError(
            f"{path}: no folder and no zip file ({error}); expected a folder of folders, or a zip of them"
        ) from error
