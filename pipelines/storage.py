"""A version of a table as workers get it: a list of Parquet files, small enough to send; no log and no deltalake."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.warehouse.file import LiveFile, read_file, row_groups

if TYPE_CHECKING:
    from pipelines.warehouse.snapshot import Snapshot

__all__ = ["FileRef", "TableRef", "read_table", "reference", "row_bytes"]


@dataclass(frozen=True)
class FileRef:
    """A file and the rows of each of its row groups, so that a task can be given some of them."""

    file: LiveFile
    row_groups: tuple[int, ...]

    @property
    def path(self) -> str:
        """Where it is."""
        return self.file.absolute

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.row_groups)

    def partition(self, name: str) -> Any:
        """Its value of a partition column; None also for a column that is none."""
        return self.file.partition.get(name)


@dataclass(frozen=True)
class TableRef:
    """One version of a table. Equal and hashed by name, place and version: the rest follows from them."""

    name: str
    uri: str
    version: int
    files: tuple[FileRef, ...] = field(compare=False)
    columns: tuple[pa.Field, ...] = field(compare=False)

    @property
    def schema(self) -> pa.Schema:
        """Columns with their metadata, partition columns included."""
        return pa.schema(self.columns)

    @property
    def rows(self) -> int:
        """Rows of the version."""
        return sum(file.rows for file in self.files)


def reference(name: str, snapshot: "Snapshot") -> TableRef:
    """A snapshot as workers read it; asks every file for its row groups (about 70 us each)."""
    files = tuple(FileRef(replace(file, stats={}), row_groups(file)) for file in snapshot.files())
    return TableRef(name, snapshot.uri, snapshot.version, files, tuple(snapshot.schema))


def read_table(ref: TableRef, *, columns: tuple[str, ...]) -> pa.Table:
    """Some columns of all rows, in the order of the files."""
    wanted = pa.schema([ref.schema.field(name) for name in columns])
    return pa.concat_tables(
        [wanted.empty_table(), *(read_file(one.file, ref.schema, names=columns) for one in ref.files)]
    )


def row_bytes(schema: pa.Schema) -> int:
    """Bytes of a row in memory, a guess for what has no fixed width."""
    return sum(_width(field.type) for field in schema)


def _width(arrow: pa.DataType) -> int:
    try:
        return -(-arrow.bit_width // 8)
    except ValueError:  # text and lists
        return 24
