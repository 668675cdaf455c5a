"""One data file of a table: written by a worker, read by anyone. Needs pyarrow only, never the log.

A file's name is `data/<part>-<sha256>-<random>.parquet`. The random end makes it unique, so a late attempt of a lost
worker hurts nobody; the digest is in the name because the log has no other durable place for it; the part number in
front makes the order of files, and so of rows, the same for every run that cuts its input in the same way.
"""

import contextlib
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.access import is_url
from pipelines.errors import InputError, PartFailed, SchemaMismatch
from pipelines.places import absolute, opened, place
from pipelines.warehouse import columns, footer, statistics
from pipelines.warehouse import partition as partitions
from pipelines.warehouse.disk import refused, write_new
from pipelines.warehouse.seal import Seals

__all__ = [
    "FOLDER",
    "ROW_GROUP",
    "LiveFile",
    "Receipt",
    "check_digest",
    "digest_of",
    "live",
    "part_of",
    "read_file",
    "row_groups",
    "write_file",
]

FOLDER = "data"
ROW_GROUP = 1 << 16  # rows: 22.8 Mrow/s into matrices with about 24 of them per task
_SAMPLE = 10_000  # texts looked at to decide on a dictionary
_FEW = (
    2048,
    64,
)  # of other columns so many values, with at most so many different ones: a third less time to write
_NAME = re.compile(r"\d{6,}-([0-9a-f]{64})-[0-9a-f]{32}\.parquet")


class Receipt(TypedDict):
    """What a worker says about a file it has written; plain JSON. Not visible to readers until it is committed."""

    path: str  # relative to the table
    rows: int
    bytes: int
    sha256: str
    partition: dict[str, str | None]
    stats: str  # JSON, as the log has it
    row_groups: list[int]
    seal: NotRequired[str]  # that the worker has read the footer back and found all this in it: `seal`


@dataclass(frozen=True)
class LiveFile:
    """A committed file of a snapshot; small, and all that a worker needs to read it."""

    path: str  # relative to the table
    absolute: str
    rows: int
    bytes: int
    partition: Mapping[str, Any] = field(hash=False)  # typed values
    modified_ms: int
    stats: Mapping[str, Any] = field(
        default_factory=dict
    )  # "min.<column>", "max.<column>", "null_count.<column>"

    @property
    def sha256(self) -> str | None:
        """The digest of the bytes; None if another program has written the file."""
        return digest_of(self.path)


def write_file(
    root: str, table: pa.Table, *, partition: Mapping[str, Any], schema: pa.Schema, part: int = 0
) -> Receipt:
    """Write the rows of one partition as one file of the table at `root`, on the disk when this returns.

    `schema` is the whole table's, partition columns included; `table` may hold those columns or not. The footer is read
    back from the storage; what the receipt says is what was found there, under a seal.

    Raises: SchemaMismatch for rows that do not fit `schema`, nan, or null where it is forbidden; PartFailed if the
    disk refuses, or gives back something else.
    """
    columns.check(schema, tuple(partition))
    values = partitions.encode_all(schema, partition)
    rows = _fitting(root, table, schema, partition)
    content = _parquet(rows)
    digest = hashlib.sha256(content).hexdigest()
    path = f"{FOLDER}/{part:06d}-{digest}-{uuid.uuid4().hex}.parquet"
    target = os.path.join(root, path)  # noqa: PTH118 - uris are text here
    try:
        place(root, FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(target, len(content), error) from error
    write_new(target, memoryview(content))
    tail, found = _read_back(target, content, rows)
    receipt = Receipt(
        path=path,
        rows=rows.num_rows,
        bytes=len(content),
        sha256=digest,
        partition=values,
        stats=statistics.from_footer(found),
        row_groups=footer.groups(found),
    )
    receipt["seal"] = Seals(rows.schema).make(receipt, tail)
    return receipt


def read_file(
    file: LiveFile,
    schema: pa.Schema,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
    keep: pa.BooleanArray | None = None,
    verify: bool = False,
) -> pa.Table:
    """The rows of one file, or of some of its row groups, with the partition columns put back; `schema` is the whole table's.

    With `keep`, true or false for each row, only those rows: column after column, so that the others are never all in memory.
    Checksums of pages are always compared, the digest of the whole file with `verify`.

    Raises: PartFailed if the file is gone, InputError if it is damaged.
    """
    names = schema.names if names is None else names
    if verify:
        check_digest(file)
    with (
        _told(file),
        opened(file.absolute) as stored_file,
        pq.ParquetFile(
            stored_file, page_checksum_verification=True, pre_buffer=is_url(file.absolute)
        ) as source,
    ):
        stored = source.schema_arrow.names
        wanted_groups = list(range(source.num_row_groups) if groups is None else groups)
        rows = sum(source.metadata.row_group(group).num_rows for group in wanted_groups)
        present = [name for name in names if name in stored and name not in file.partition]
        if keep is None or is_url(file.absolute):  # there each read of a column would be a request
            table = source.read_row_groups(wanted_groups, present, use_threads=False)  # a worker has one core
            table = table if keep is None else table.filter(keep)
        else:
            table = pa.table({name: _kept(source, wanted_groups, name, keep) for name in present})
        rows = rows if keep is None else keep.true_count
    arrays = [_column(table, rows, file, schema.field(name)) for name in names]
    wanted = pa.schema([schema.field(name) for name in names])
    return pa.Table.from_arrays(arrays, schema=wanted) if arrays else table


def row_groups(file: LiveFile) -> tuple[int, ...]:
    """Rows of each row group, from the footer (about 70 us).

    Raises: as `read_file`.
    """
    with _told(file), opened(file.absolute) as stored:
        return tuple(footer.groups(pq.read_metadata(stored)))


def check_digest(file: LiveFile) -> None:
    """Nothing, if all bytes are those that were written; a file of another program has no digest.

    Raises: PartFailed if the file is gone, InputError if it is damaged.
    """
    if file.sha256 is None:
        return
    try:
        with opened(file.absolute) as source:
            found = _sha256(source)
    except FileNotFoundError as error:
        raise PartFailed(
            f"{file.absolute}: the file is gone, expected it to be kept by vacuum; read a newer version"
        ) from error
    if found != file.sha256:
        raise InputError(
            f"{file.absolute}: digest is {found[:16]}..., expected {file.sha256[:16]}...; the file is damaged, "
            "restore it, or build the table again"
        )


def digest_of(path: str) -> str | None:
    """The digest in the name of a file of ours."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    return match[1] if match else None


def part_of(path: str) -> int:
    """The number in front of the name of a file of ours, which orders the rows; 0 for another program's."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    return int(match[0].partition("-")[0]) if match else 0


def live(root: str, receipt: Receipt, schema: pa.Schema) -> LiveFile:
    """A file that is written and not committed yet, as workers read it."""
    return LiveFile(
        path=receipt["path"],
        absolute=os.path.join(absolute(root), receipt["path"]),  # noqa: PTH118 - uris are text here
        rows=receipt["rows"],
        bytes=receipt["bytes"],
        partition={
            name: partitions.decode(schema.field(name), text) for name, text in receipt["partition"].items()
        },
        modified_ms=0,
    )


@contextlib.contextmanager
def _told(file: LiveFile) -> Iterator[None]:
    """What is wrong with a file, in one sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise PartFailed(
            f"{file.absolute}: the file is gone, expected it to be kept by vacuum; read a newer version"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{file.absolute}: cannot be read ({error}); restore the file, or build the table again"
        ) from error


def _fitting(root: str, table: pa.Table, schema: pa.Schema, partition: Mapping[str, Any]) -> pa.Table:
    where = os.path.basename(root.rstrip("/"))  # noqa: PTH119 - uris are text here
    stored = columns.file_schema(schema, tuple(partition))
    if extra := [name for name in table.column_names if name not in schema.names]:
        raise SchemaMismatch(
            f"{where}: columns {extra} are not in the table, expected {schema.names}; drop them"
        )
    if missing := [name for name in stored.names if name not in table.column_names]:
        raise SchemaMismatch(f"{where}: columns {missing} are missing, expected {schema.names}; add them")
    if len(table.column_names) != len(set(table.column_names)):
        raise SchemaMismatch(f"{where}: a column is there twice in {table.column_names}; drop one")
    for name in table.column_names:
        _check_column(where, table[name], schema.field(name))
    for name, value in partition.items():
        if name in table.column_names:
            _check_partition(where, name, table[name], value)
    return pa.Table.from_arrays([table[name] for name in stored.names], schema=stored)


def _check_column(where: str, column: pa.ChunkedArray, expected: pa.Field) -> None:
    name = expected.name
    if column.type != expected.type:
        raise SchemaMismatch(
            f"{where}: column {name!r} is {column.type}, expected {expected.type}; add a cast of {name!r} before this step"
        )
    if not expected.nullable and column.null_count:
        row = pc.index(pc.is_null(column), pa.scalar(value=True)).as_py()
        raise SchemaMismatch(
            f"{where}: column {name!r} has {column.null_count} nulls, the first in row {row}, expected NOT NULL; fill or reject them"
        )
    if pa.types.is_floating(column.type) and pc.any(pc.is_nan(column)).as_py():
        row = pc.index(pc.is_nan(column), pa.scalar(value=True)).as_py()
        raise SchemaMismatch(
            f"{where}: column {name!r} has nan, the first in row {row}, expected numbers or null; "
            "turn nan into null (readers give wrong answers to comparisons with nan)"
        )


def _check_partition(where: str, name: str, column: pa.ChunkedArray, value: Any) -> None:
    value = value.as_py() if isinstance(value, pa.Scalar) else value
    same = pc.is_null(column) if value is None else pc.equal(column, pa.scalar(value, column.type))
    if not pc.all(pc.fill_null(same, fill_value=False)).as_py():
        raise SchemaMismatch(
            f"{where}: partition column {name!r} has values other than {value!r}; split the rows by it before writing"
        )


def _read_back(target: str, content: pa.Buffer, rows: pa.Table) -> tuple[bytes, pq.FileMetaData]:
    """The footer in the storage, as bytes and taken apart; that of these rows."""
    tail = footer.read(target, len(content))
    if tail != content[len(content) - len(tail) :]:
        raise PartFailed(
            f"{target}: the storage gives back other bytes than were written; run the part again"
        )
    found = footer.parse(target, tail)
    footer.check_columns(target, found, rows.schema)
    if found.num_rows != rows.num_rows:
        raise PartFailed(
            f"{target}: the file has {found.num_rows:,} rows, expected {rows.num_rows:,}; run the part again"
        )
    return tail, found


def _parquet(rows: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        compression_level=1,
        row_group_size=ROW_GROUP,
        use_dictionary=[name for name in rows.column_names if _repeats(rows[name])],
        write_statistics=[
            f.name for f in rows.schema if not _bytes(f.type)
        ],  # bounds of vectors fill the footer
        write_page_checksum=True,
    )
    return sink.getvalue()


def _repeats(column: pa.ChunkedArray) -> bool:
    """Whether a dictionary pays: a sample shows the same text twice on average, or few other values."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        sample = column.slice(0, _SAMPLE)
        return 2 * pc.count_distinct(sample).as_py() <= len(sample)
    if pa.types.is_boolean(column.type) or pa.types.is_nested(column.type) or _bytes(column.type):
        return False
    rows, most = _FEW
    return len(column) >= rows and pc.count_distinct(column.slice(0, rows)).as_py() <= most


def _bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _kept(source: pq.ParquetFile, groups: list[int], name: str, keep: pa.BooleanArray) -> pa.ChunkedArray:
    return source.read_row_groups(groups, [name], use_threads=False)[name].filter(keep)


def _column(table: pa.Table, rows: int, file: LiveFile, wanted: pa.Field) -> pa.Array | pa.ChunkedArray:
    if wanted.name in file.partition:
        return pa.repeat(pa.scalar(file.partition[wanted.name], wanted.type), rows)
    if wanted.name not in table.column_names:
        return pa.nulls(rows, wanted.type)  # a column that was added after this file
    column = table[wanted.name]
    return column if column.type == wanted.type else column.cast(wanted.type)


def _sha256(source: pa.NativeFile) -> str:
    digest = hashlib.sha256()
    while piece := source.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()
