"""CSV, JSON lines and Parquet files, written under another name and renamed when they are whole."""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from pipelines.errors import SpecError
from pipelines.export.batches import Batches
from pipelines.failpoints import failpoint
from pipelines.names import did_you_mean

__all__ = ["KINDS", "write"]

KINDS = (".csv", ".csv.gz", ".csv.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_PACKED = {".gz": "gzip", ".zst": "zstd"}
_ENCODE = json.JSONEncoder(ensure_ascii=False, default=str).encode


def write(batches: Batches, path: Path) -> int:
    """Write a file of the kind that its name says; the number of its rows.

    Raises: SpecError for another kind, and for a column that the kind has no form for.
    """
    kind = next((one for one in KINDS if path.name.lower().endswith(one)), None)
    if kind is None:
        ending = "".join(path.suffixes[-2:]) or path.name
        raise SpecError(
            f"--to {path}: no kind of file is known by this name{did_you_mean(ending, KINDS)}; expected one that ends in {', '.join(KINDS)}"
        )
    form, packed = kind.split(".")[1], _PACKED.get(path.suffix.lower())
    if form != "parquet":
        _check_texts(batches.schema, form)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with pa.OSFile(str(beside), "wb") as file:
            rows = _written(batches, form, file, packed)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        failpoint("export.before_commit")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return rows


def _check_texts(schema: pa.Schema, form: str) -> None:
    binary = [one.name for one in schema if _is_binary(one.type)]
    nested = [one.name for one in schema if pa.types.is_nested(one.type)] if form == "csv" else []
    if binary or nested:
        columns = ", ".join([*binary, *nested])
        raise SpecError(
            f"{form} has no form for columns {columns}; leave them out with --columns, or write a .parquet file"
        )


def _written(batches: Batches, form: str, file: pa.NativeFile, packed: str | None) -> int:
    rows = 0
    if form == "parquet":
        with pq.ParquetWriter(file, batches.schema, compression="zstd") as parquet:
            for batch in batches:
                parquet.write_batch(batch)
                rows += batch.num_rows
        return rows
    stream = pa.CompressedOutputStream(file, packed) if packed else file
    try:
        if form == "csv":
            with arrow_csv.CSVWriter(stream, batches.schema) as table:
                for batch in batches:
                    table.write_batch(batch)
                    rows += batch.num_rows
            return rows
        for batch in batches:
            stream.write(_lines(batch))
            rows += batch.num_rows
        return rows
    finally:
        if packed:
            stream.close()


def _lines(batch: pa.RecordBatch) -> bytes:
    names = batch.schema.names
    columns = [_jsonable(column).to_pylist() for column in batch.columns]
    rows = zip(*columns, strict=True)
    return "".join(f"{_ENCODE(dict(zip(names, row, strict=True)))}\n" for row in rows).encode()


def _jsonable(column: pa.Array) -> Any:
    """Dates and times as ISO text: 2024-02-29, 2024-02-29 12:30:15.250000Z."""
    return pc.cast(column, pa.string()) if pa.types.is_temporal(column.type) else column


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_large_binary(kind)
