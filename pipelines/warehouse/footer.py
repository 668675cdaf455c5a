"""The footer of a data file, read from the storage and compared with what is said of the file.

Workers do this right after they have written (`file.write_file`), and the driver for each file whose seal does not
say that a worker has done it (`receipt.check`).
"""

import os
import time
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.access import is_url
from pipelines.errors import PartFailed, SchemaMismatch
from pipelines.places import opened
from pipelines.warehouse import columns, statistics
from pipelines.warehouse.disk import YOUNG_S

__all__ = ["check", "check_columns", "groups", "parse", "read"]

_TAIL = 4096  # bytes: holds most footers, so that one read is enough
_END = 8  # the length of the footer, and "PAR1"


def read(path: str, size: int, *, young: bool = False) -> bytes:
    """The footer with its length and the magic word, as they are in the storage; of a file that must have `size` bytes.

    With `young` the time of an old file is set anew first, so that no vacuum takes it now (an object gets one by a put alone).

    Raises: PartFailed for a file that is gone, has another size or cannot be read. Whether these bytes make sense is
    not looked at.
    """
    try:
        found, tail = _object(path) if is_url(path) else _file(path, young=young)
    except FileNotFoundError as error:
        raise PartFailed(f"{path}: the file is gone, expected {size:,} bytes; run the part again") from error
    except OSError as error:
        raise PartFailed(f"{path}: no readable Parquet file ({error}); run the part again") from error
    if found != size:
        raise PartFailed(f"{path}: the file has {found:,} bytes, expected {size:,}; run the part again")
    return tail[-_length(tail) :]


def _file(path: str, *, young: bool) -> tuple[int, bytes]:
    """The size of a file, and its end with at least the footer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        state = os.fstat(descriptor)
        if young and time.time() - state.st_mtime > YOUNG_S:
            os.utime(descriptor)
        found = state.st_size
        tail = os.pread(descriptor, _TAIL, max(0, found - _TAIL))
        if len(tail) < (length := _length(tail)) <= found:
            tail = os.pread(descriptor, length, found - length)
    finally:
        os.close(descriptor)
    return found, tail


def _object(url: str) -> tuple[int, bytes]:
    """The same of an object."""
    with opened(url) as file:
        found = file.size()
        tail = file.read_at(min(_TAIL, found), max(0, found - _TAIL))
        if len(tail) < (length := _length(tail)) <= found:
            tail = file.read_at(length, found - length)
    return found, tail


def _length(tail: bytes) -> int:
    return int.from_bytes(tail[-_END:-4], "little") + _END


def parse(path: str, tail: bytes) -> pq.FileMetaData:
    """What the bytes of a footer say.

    Raises: PartFailed if they are none.
    """
    try:
        return pq.read_metadata(pa.BufferReader(tail))
    except (OSError, pa.ArrowException) as error:
        raise PartFailed(f"{path}: no readable Parquet file ({error}); run the part again") from error


def groups(footer: pq.FileMetaData) -> list[int]:
    """Rows of each row group."""
    return [footer.row_group(r).num_rows for r in range(footer.num_row_groups)]


def check(path: str, footer: pq.FileMetaData, said: Mapping[str, Any], expected: pa.Schema) -> None:
    """Nothing, if the file has the `expected` columns and all that is `said` of it (rows, row_groups, stats) is true.

    Raises: SchemaMismatch.
    """
    check_columns(path, footer, expected)
    _same(path, "rows", said["rows"], footer.num_rows)
    _same(path, "row groups", said["row_groups"], groups(footer))
    _same(path, "statistics", said["stats"], statistics.from_footer(footer))


def check_columns(path: str, footer: pq.FileMetaData, expected: pa.Schema) -> None:
    """Nothing, if the columns have the expected names, order and types, and no null where it is forbidden.

    Raises: SchemaMismatch.
    """
    found = footer.schema.to_arrow_schema()
    stripped = pa.schema(
        [pa.field(f.name, f.type, e.nullable, e.metadata) for f, e in zip(found, expected, strict=False)]
    )
    names_or_types = columns.difference(found if len(found) != len(expected) else stripped, expected)
    if names_or_types:
        raise SchemaMismatch(f"{path}: {names_or_types}; cast the rows, or change the table's schema")
    for index, field in enumerate(expected):
        if (
            field.nullable or not found.field(index).nullable
        ):  # a REQUIRED column of Parquet cannot hold a null
            continue
        counted = [footer.row_group(r).column(index).statistics for r in range(footer.num_row_groups)]
        if any(s is None or not s.has_null_count or s.null_count for s in counted):
            raise SchemaMismatch(
                f"{path}: column {field.name!r} has nulls, expected NOT NULL; fill or reject them"
            )


def _same(path: str, what: str, stated: Any, found: Any) -> None:
    if stated != found:
        raise SchemaMismatch(
            f"{path}: the receipt says {what} {stated!r}, the file {found!r}; write the file again"
        )
