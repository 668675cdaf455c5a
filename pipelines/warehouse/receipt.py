"""Receipts, checked before the log is touched: the Delta commit itself checks nothing at all.

Every statement of a receipt is compared with the file's own footer. A receipt that does not fit is an error of the
rows (SchemaMismatch: cast them), a file that is gone or cut is an accident (PartFailed: run again).
"""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import LedgerImbalance, PartFailed, SchemaMismatch
from pipelines.warehouse import columns, partition, statistics
from pipelines.warehouse.file import FOLDER, Receipt, digest_of

__all__ = ["check"]


def check(
    uri: str,
    receipts: Iterable[Receipt],
    *,
    schema: pa.Schema,
    partition_by: Sequence[str],
    live: Collection[str] = (),
    rows_out: int | None = None,
) -> None:
    """Nothing, if these files can become part of the table; their age is reset, so that no vacuum takes them now.

    Raises: SchemaMismatch, PartFailed, LedgerImbalance if the rows are not `rows_out`.
    """
    seen = set(live)
    rows = 0
    for receipt in receipts:
        _check_statement(uri, receipt, seen)
        _check_partition(receipt, schema, partition_by)
        _check_file(uri, receipt, columns.file_schema(schema, partition_by))
        rows += receipt["rows"]
    if rows_out is not None and rows != rows_out:
        raise LedgerImbalance(
            f"{uri}: the files hold {rows} rows, expected {rows_out} by the ledger ({rows - rows_out:+d}); "
            "nothing was committed, this is a bug of a step"
        )


def _check_statement(uri: str, receipt: Receipt, seen: set[str]) -> None:
    if missing := sorted(Receipt.__required_keys__ - receipt.keys()):
        raise SchemaMismatch(
            f"{uri}: a receipt has no {missing}, expected all of {sorted(Receipt.__required_keys__)}; write the file with write_file"
        )
    path = receipt["path"]
    pure = PurePosixPath(path)
    if pure.parts[:1] != (FOLDER,) or len(pure.parts) != 2 or digest_of(path) != receipt["sha256"]:
        raise SchemaMismatch(
            f"{uri}: file {path!r} is not {FOLDER}/<part>-<sha256>-<random>.parquet; write the file with write_file"
        )
    if path in seen:
        raise SchemaMismatch(
            f"{uri}: file {path!r} is in the table or in this commit already; commit each file once"
        )
    seen.add(path)


def _check_partition(receipt: Receipt, schema: pa.Schema, partition_by: Sequence[str]) -> None:
    found = receipt["partition"]
    if set(found) != set(partition_by):
        raise SchemaMismatch(
            f"{receipt['path']}: partition values are {found}, expected those of {list(partition_by)}; "
            "write the file with all of them"
        )
    for name, text in found.items():
        partition.decode(schema.field(name), text)


def _check_file(uri: str, receipt: Receipt, expected: pa.Schema) -> None:
    path = os.path.join(uri, receipt["path"])  # noqa: PTH118 - uris are text here
    try:
        os.utime(path, follow_symlinks=False)  # fails if it is gone; a vacuum that runs now sees a young file
        size = os.lstat(path).st_size
        footer = pq.read_metadata(path)
    except FileNotFoundError as error:
        raise PartFailed(
            f"{path}: the file is gone, expected {receipt['bytes']:,} bytes; run the part again"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise PartFailed(f"{path}: no readable Parquet file ({error}); run the part again") from error
    if size != receipt["bytes"]:
        raise PartFailed(
            f"{path}: the file has {size:,} bytes, expected {receipt['bytes']:,}; run the part again"
        )
    _check_footer(path, footer, expected)
    groups = [footer.row_group(r).num_rows for r in range(footer.num_row_groups)]
    _same(path, "rows", receipt["rows"], footer.num_rows)
    _same(path, "row groups", receipt["row_groups"], groups)
    _same(path, "statistics", receipt["stats"], statistics.from_footer(footer))


def _check_footer(path: str, footer: pq.FileMetaData, expected: pa.Schema) -> None:
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
        groups = [footer.row_group(r).column(index).statistics for r in range(footer.num_row_groups)]
        if any(s is None or not s.has_null_count or s.null_count for s in groups):
            raise SchemaMismatch(
                f"{path}: column {field.name!r} has nulls, expected NOT NULL; fill or reject them"
            )


def _same(path: str, what: str, stated: Any, found: Any) -> None:
    if stated != found:
        raise SchemaMismatch(
            f"{path}: the receipt says {what} {stated!r}, the file {found!r}; write the file again"
        )
