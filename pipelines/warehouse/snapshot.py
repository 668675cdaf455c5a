"""One version of a table, as a value: what it holds now is what it holds for ever, as long as vacuum keeps its files.

Beside the files it knows the transaction ids of the log. Ours have the version that they made as their number:

    <batch key>           the batch is in the table
    src:<path>#<sha256>   the source file is in the table
    build:<fingerprint>   the content was built from this
    dlflow:last           the newest build
    dlflow:replaced       the newest commit that threw all earlier content away
    dlflow:born           a random number, given at creation: tells a table from its successor of the same name

so "in the table now" is: the id is there, and its number is not below that of `dlflow:replaced`. What was taken out
alone has RELEASED as its number. Two ids belong to `loads`, which tells how.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.errors import PipelineError
from pipelines.places import absolute, opened, place
from pipelines.warehouse import columns, log
from pipelines.warehouse.file import LiveFile, read_file

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = [
    "BORN",
    "LAST",
    "RELEASED",
    "REPLACED",
    "Snapshot",
    "build_id",
    "rows_changed_since",
    "source_id",
]

BORN, LAST, REPLACED = "dlflow:born", "dlflow:last", "dlflow:replaced"
RELEASED = -1


def build_id(fingerprint: str) -> str:
    """The transaction id of a build."""
    return f"build:{fingerprint}"


def source_id(path: str, sha256: str) -> str:
    """The transaction id of a loaded source file."""
    return f"src:{path}#{sha256}"


@dataclass(frozen=True)
class Snapshot:
    """A version of a table. Pickles as (uri, version)."""

    uri: str
    version: int
    schema: pa.Schema
    partition_by: tuple[str, ...]
    _handle: "DeltaTable" = field(repr=False, compare=False)

    @classmethod
    def open(cls, uri: str, version: int | None = None) -> "Snapshot":
        """The newest version, or the given one.

        Raises: PipelineError if there is none.
        """
        from deltalake.exceptions import DeltaError  # noqa: PLC0415 - slow to import, not for workers

        if not log.exists(uri):
            raise PipelineError(f"{uri}: there is no table here, expected one{_near(uri)}; build it first")
        try:
            handle = log.handle(uri, version)
        except (DeltaError, OSError) as error:
            raise PipelineError(
                f"{uri}: version {'newest' if version is None else version} cannot be opened ({' '.join(str(error).split())}); "
                "see `dlflow history` for the versions there are"
            ) from error
        log.check_protocol(handle, write=False)
        schema = columns.from_delta(pa.schema(handle.schema().to_arrow()))
        return cls(uri, handle.version(), schema, tuple(handle.metadata().partition_columns), handle)

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return Snapshot.open, (self.uri, self.version)

    @cached_property
    def listing(self) -> pa.Table:
        """What the log says of the files, one row each, in the order of their rows.

        Columns: path, num_records, size_bytes, modification_time, partition.<column>, and min.<column>, max.<column>,
        null_count.<column> where there are statistics.
        """
        table = pa.table(self._handle.get_add_actions(flatten=True))
        paths = pa.array([unquote(path) for path in table["path"].to_pylist()], pa.string())
        table = table.set_column(table.schema.get_field_index("path"), "path", paths)
        return table.take(pc.sort_indices(paths))

    @cached_property
    def _files(self) -> tuple[LiveFile, ...]:
        listed = self.listing
        home = absolute(self.uri)
        given = {
            name: listed[name].to_pylist()
            for name in ("path", "num_records", "size_bytes", "modification_time")
        }
        partitions = _rows_of(listed, "partition.", self.partition_by)
        places = [os.path.join(home, path) for path in given["path"]]  # noqa: PTH118 - uris are text here
        return tuple(
            LiveFile(
                path=path,
                absolute=place,
                rows=_rows(place) if rows is None else rows,
                bytes=size,
                partition=partition,
                modified_ms=modified,
                stats=stats,
            )
            for path, place, rows, size, modified, partition, stats in zip(
                given["path"],
                places,
                given["num_records"],
                given["size_bytes"],
                given["modification_time"],
                partitions,
                _bounds(listed),
                strict=True,
            )
        )

    def chosen(self, passing: pa.Array | pa.ChunkedArray) -> tuple[LiveFile, ...]:
        """The files for which `passing`, one value for each of `listing`, is true."""
        return tuple(file for file, passes in zip(self._files, passing.to_pylist(), strict=True) if passes)

    def files(self, where_partition: Mapping[str, Any] | None = None) -> tuple[LiveFile, ...]:
        """The files, in the order of their rows; only those with the given partition values."""
        wanted = (where_partition or {}).items()
        if unknown := [name for name, _ in wanted if name not in self.partition_by]:
            raise PipelineError(
                f"{self.uri}: {unknown} are no partition columns, expected some of {self.partition_by}"
            )
        return tuple(f for f in self._files if all(f.partition[name] == value for name, value in wanted))

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self._files)

    def read(
        self,
        columns: Sequence[str] | None = None,
        where_partition: Mapping[str, Any] | None = None,
        *,
        verify: bool = False,
    ) -> pa.Table:
        """The rows, through plain Parquet files; `verify` compares the digest of each.

        Raises: PipelineError for a column that is not there, PartFailed for a lost file, InputError for a damaged one.
        """
        names = self.schema.names if columns is None else list(columns)
        if unknown := [name for name in names if name not in self.schema.names]:
            raise PipelineError(
                f"{self.uri}: columns {unknown} are not in the table, expected some of {self.schema.names}"
            )
        wanted = pa.schema([self.schema.field(name) for name in names])
        parts = [read_file(f, self.schema, names=names, verify=verify) for f in self.files(where_partition)]
        return pa.concat_tables([wanted.empty_table(), *parts])

    def transaction(self, key: str) -> int | None:
        """The number that a transaction id has in this version."""
        return self._handle.transaction_version(key)

    def holds(self, key: str) -> bool:
        """Whether the batch or source with this transaction id is part of the content."""
        number = self.transaction(key)
        return number is not None and number >= (self.transaction(REPLACED) or 0)

    def has_loaded(self, path: str, sha256: str) -> bool:
        """Whether this source file is part of the content."""
        return self.holds(source_id(path, sha256))

    def is_built_from(self, fingerprint: str) -> bool:
        """Whether the content is that of the build with this fingerprint, and nobody has changed it since."""
        last = self.transaction(LAST)
        if last is None or self.transaction(build_id(fingerprint)) != last:
            return False
        return not rows_changed_since(self, last)

    def committed_s(self) -> float:
        """Time of this version, seconds since 1970."""
        try:
            return log.entry_path(self.uri, self.version).stat().st_mtime
        except FileNotFoundError:
            return time.time()


def _rows_of(listed: pa.Table, prefix: str, names: Sequence[str]) -> list[dict[str, Any]]:
    if not names:
        return [{} for _ in range(listed.num_rows)]
    columns = [listed[prefix + name].to_pylist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _bounds(listed: pa.Table) -> list[dict[str, Any]]:
    names = [name for name in listed.column_names if name.startswith(("min.", "max.", "null_count."))]
    columns = [listed[name].to_pylist() for name in names]
    return [
        {name: value for name, value in zip(names, values, strict=True) if value is not None}
        for values in (zip(*columns, strict=True) if columns else [()] * listed.num_rows)
    ]


def _rows(path: str) -> int:
    """Rows of a file of another program that has written no statistics."""
    with opened(path) as file:
        return pq.read_metadata(file).num_rows


def rows_changed_since(snapshot: Snapshot, version: int) -> bool:
    """Whether a commit after `version` has changed rows or columns; a rewrite that changes none does not count."""
    return any(_changes_rows(snapshot.uri, after) for after in range(version + 1, snapshot.version + 1))


def _changes_rows(uri: str, version: int) -> bool:
    try:
        return any(
            kind == "metaData" or (kind in {"add", "remove"} and action.get("dataChange", True))
            for kind, action in log.actions(uri, version)
        )
    except FileNotFoundError:  # cleaned up: nobody can know, and building again is safe
        return True


def _near(uri: str) -> str:
    folder = place(uri).parent
    names = [path.name for path in folder.iterdir() if log.exists(str(path))] if folder.is_dir() else []
    near = get_close_matches(place(uri).name, names)
    return f" (did you mean {near[0]!r}?)" if near else ""
