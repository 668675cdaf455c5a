"""A Parquet file of a training set: opened for reading, damage and loss told in one sentence with its name."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from dlflow.errors import ModelError

if TYPE_CHECKING:
    from pyarrow import fs

__all__ = ["TableFile"]


@dataclass(frozen=True)
class TableFile:
    """A Parquet file and the rows of each of its row groups, as its commit recorded them; `store` for a URL like s3://bucket/key.

    With `sha256` each process compares the digest of all bytes before it reads the file first. Checksums of pages, which
    find most damage of rows, are compared at every reading.
    """

    path: str
    row_groups: tuple[int, ...]
    store: "fs.FileSystem | None" = field(
        default=None, compare=False, repr=False
    )  # None: a path of this machine
    sha256: str | None = None  # None: not known, or not to be compared

    @staticmethod
    def of(path: str | Path) -> "TableFile":
        """The file as its own footer describes it.

        Raises: ModelError if it is no Parquet file.
        """
        with TableFile(str(path), ()).opened() as file:
            groups = file.metadata
            return TableFile(
                str(path), tuple(groups.row_group(i).num_rows for i in range(groups.num_row_groups))
            )

    def opened(self) -> pq.ParquetFile:
        """Ready to be read.

        Raises: ModelError if it is gone, has another digest, or is no Parquet file.
        """
        with _told(self.path):
            _compare_digest(self)
            if self.store is None:
                return pq.ParquetFile(
                    self.path, memory_map=True, pre_buffer=False, page_checksum_verification=True
                )
            return pq.ParquetFile(self._object(), pre_buffer=True, page_checksum_verification=True)

    def read(self, opened: pq.ParquetFile, group: int, names: Sequence[str]) -> pa.Table:
        """Some columns of one row group of the opened file.

        Raises: ModelError for a page whose checksum is another.
        """
        with _told(self.path):
            return opened.read_row_group(group, columns=list(names), use_threads=False)

    def digest(self) -> str:
        """SHA-256 of all bytes, as they are now."""
        digest = hashlib.sha256()
        with pa.OSFile(self.path) if self.store is None else self._object() as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def _object(self) -> pa.NativeFile:
        if self.store is None:
            raise AssertionError(self.path)
        return self.store.open_input_file(self.path.partition("://")[2])


@lru_cache(maxsize=1 << 16)
def _compare_digest(file: TableFile) -> None:
    """Once in a process: files of a table never change."""
    if file.sha256 is not None and (found := file.digest()) != file.sha256:
        raise ModelError(
            f"{file.path}: digest is {found[:16]}..., expected {file.sha256[:16]}...; the file is damaged, "
            "restore it, or build the table again"
        )


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What is wrong with a file, in one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{path}: there is no such file; was the table vacuumed? build it again") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise ModelError(f"{path}: cannot be read as Parquet ({error}); build the table again") from error
