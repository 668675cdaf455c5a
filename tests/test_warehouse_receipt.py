"""Receipts: what the Delta commit accepts in silence is refused before the log is touched."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import LedgerImbalance, PartFailed, SchemaMismatch
from pipelines.warehouse import (
    Snapshot,
    append,
    log,
    write_file,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def renamed(receipt, **changes):
    return {**receipt, **changes}


def other_file(uri):
    table = pa.table({"id": ["x"], "x": pa.array([None], pa.binary(8)), "speed": [1.0]})
    schema = pa.schema([SCHEMA.field("id").with_type(pa.string()), *[SCHEMA.field(i) for i in (1, 2, 3)]])
    table = table.cast(pa.schema([schema.field(i) for i in range(3)]))
    return write_file(uri, table, partition={"day": "d1"}, schema=schema)


def retyped(uri):
    return {"schema": SCHEMA.set(0, pa.field("id", pa.string(), nullable=False))}


def widened(uri):
    return {"schema": SCHEMA.append(pa.field("more", pa.int8()))}


def twice(uri):
    receipt = file(uri, [1])
    return {"receipts": [receipt, receipt]}


def live_already(uri):
    receipt = file(uri, [1])
    append(uri, [receipt], key="first", lineage=lineage(), **COLUMNS)
    return {"receipts": [receipt]}


def lost(uri):
    receipt = file(uri, [1])
    Path(uri, receipt["path"]).unlink()
    return {"receipts": [receipt]}


def cut(uri):
    receipt = file(uri, [1])
    os.truncate(Path(uri, receipt["path"]), receipt["bytes"] - 1)
    return {"receipts": [receipt]}


WRONG = {
    "declared type of id is string": (retyped, SchemaMismatch, "column 'id' is string, expected int64"),
    "declared schema has a further column": (widened, SchemaMismatch, r"extra \['more'\]"),
    "partition_by names another column": (lambda uri: {"partition_by": ["id"]}, SchemaMismatch, "partitioned by"),
    "partition values are missing": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), partition={})]}, SchemaMismatch, "expected those of"),
    "the file holds text in an int64 column": (
        lambda uri: {"receipts": [other_file(uri)]}, SchemaMismatch, "column 'id' is string, expected int64"),
    "the file does not exist": (lost, PartFailed, "the file is gone"),
    "statistics are not JSON": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), stats="not json")]}, SchemaMismatch, "says statistics"),
    "statistics are wrong": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), stats='{"numRecords": 2}')]}, SchemaMismatch, "says statistics"),
    "the same path twice": (twice, SchemaMismatch, "commit each file once"),
    "a path that is live": (live_already, SchemaMismatch, "commit each file once"),
    "a cut file": (cut, PartFailed, "run the part again"),
    "wrong size": (lambda uri: {"receipts": [renamed(file(uri, [1]), bytes=9)]}, PartFailed, "expected 9; run the part"),
    "wrong rows": (lambda uri: {"receipts": [renamed(file(uri, [1]), rows=2)]}, SchemaMismatch, "says rows 2"),
    "wrong row groups": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), row_groups=[1, 1])]}, SchemaMismatch, "says row groups"),
    "a path outside": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), path="data/../../x.parquet")]}, SchemaMismatch, "write_file"),
    "another digest": (lambda uri: {"receipts": [renamed(file(uri, [1]), sha256="0" * 64)]}, SchemaMismatch, "write_file"),
    "no receipt": (lambda uri: {"receipts": [{}]}, SchemaMismatch, "a receipt has no"),
    "an empty partition value": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), partition={"day": ""})]}, SchemaMismatch, "take for null"),
    "more rows than the ledger": (lambda uri: {"receipts": [file(uri, [1])], "rows_out": 0}, LedgerImbalance, r"\(\+1\)"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_delta_accepts_in_silence_is_refused_before_the_log_is_touched(uri, wrong):
    put(uri, [1, 2], "before")
    make, error, message = WRONG[wrong]
    given = {"receipts": [file(uri, [3])], **COLUMNS, **make(uri)}
    version = Snapshot.open(uri).version

    with pytest.raises(error, match=message):
        append(uri, key="k", lineage=lineage(), **given)

    assert Snapshot.open(uri).version == version


def test_a_table_with_rules_that_we_cannot_enforce_is_not_written(uri):
    put(uri, [1], "before")
    log.handle(uri).alter.add_constraint({"id_not_negative": "id >= 0"})

    with pytest.raises(SchemaMismatch, match=r"rules \['delta.constraints.id_not_negative'\]"):
        put(uri, [2], "k")

    assert ids(uri) == [1]


def test_null_in_a_foreign_file_is_found_in_its_footer(uri):
    receipt = file(uri, [1])
    table = rows([1]).cast(pa.schema([f.with_nullable(True) for f in rows([1]).schema]))
    table = table.set_column(0, "id", pa.array([None], pa.int64()))
    pq.write_table(table, Path(uri, receipt["path"]))
    size = Path(uri, receipt["path"]).stat().st_size
    del receipt["seal"]  # of the file that was there

    with pytest.raises(SchemaMismatch, match="'id' has nulls, expected NOT NULL"):
        append(uri, [renamed(receipt, bytes=size)], key="k", lineage=lineage(), **COLUMNS)
