"""Committed files as workers see them: a list of Parquet paths with their partition values, no log and no deltalake."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.warehouse.file import row_groups

if TYPE_CHECKING:
    from pipelines.warehouse.snapshot import Snapshot

__all__ = ["FileRef", "TableRef", "read_file", "read_table", "reference"]


@dataclass(frozen=True)
class FileRef:
    """One Parquet file: absolute path, rows of each row group, values of the partition columns (not in the file)."""

    path: str
    row_groups: tuple[int, ...]
    partition: tuple[tuple[str, Any], ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(self.row_groups)


@dataclass(frozen=True)
class TableRef:
    """One version of a table: small, hashable, sent to workers instead of rows."""

    name: str
    version: int
    files: tuple[FileRef, ...]
    columns: tuple[pa.Field, ...]

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
    files = tuple(FileRef(file.absolute, row_groups(file), tuple(file.partition.items())) for file in snapshot.files())
    return TableRef(name, snapshot.version, files, tuple(snapshot.schema))


def read_table(ref: TableRef, *, columns: tuple[str, ...] | None = None) -> pa.Table:
    """All rows of a version, or some columns of them, in the order of its files."""
    schema = ref.schema if columns is None else pa.schema([ref.schema.field(name) for name in columns])
    tables = [read_file(file, schema) for file in ref.files]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def read_file(file: FileRef, schema: pa.Schema, row_groups: tuple[int, ...] | None = None) -> pa.Table:
    """The columns of `schema` from one file, or from some of its row groups."""
    partition = dict(file.partition)
    stored = [name for name in schema.names if name not in partition]
    with pq.ParquetFile(file.path, pre_buffer=False) as parquet:
        groups = range(parquet.num_row_groups) if row_groups is None else row_groups
        present = set(parquet.schema_arrow.names)
        table = parquet.read_row_groups(list(groups), [name for name in stored if name in present], use_threads=False)
        rows = sum(parquet.metadata.row_group(group).num_rows for group in groups)
    arrays = []
    for field in schema:
        if field.name in partition:
            value = pa.scalar(partition[field.name], field.type)
            arrays.append(pa.nulls(rows, field.type) if value.as_py() is None else pa.repeat(value, rows))
        elif field.name in table.column_names:
            arrays.append(table[field.name].cast(field.type))
        else:  # a column that was added to the table after this file
            arrays.append(pa.nulls(rows, field.type))
    return pa.table(arrays, schema=schema)
