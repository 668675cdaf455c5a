"""Defects of deltalake that our commits work around; when one of these tests fails, the workaround may go.

Each test asserts the wrong behaviour that was measured with deltalake 1.6.6. Run on every change of its version.
"""

import json
import os
import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, QueryBuilder, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from tests.warehouse_tables import put

pytestmark = pytest.mark.slow


def three_files(root):
    for i in range(3):
        write_deltalake(root, pa.table({"id": [i], "p": ["a"]}), mode="append", partition_by=["p"])
    return DeltaTable(root), DeltaTable(root)


def rows(root):
    return sum(pq.read_metadata(file).num_rows for file in DeltaTable(root).file_uris())


@pytest.mark.parametrize("operation", [lambda t: t.optimize.compact(), lambda t: t.optimize.z_order(["id"])])
def test_two_compactions_that_race_still_double_the_rows(tmp_path, operation):
    """Good in 1.6.3 and before. If this fails because 3 rows are left: lift the ban on optimize."""
    first, stale = three_files(str(tmp_path))

    operation(first)
    operation(stale)

    assert rows(str(tmp_path)) == 6


def test_a_stale_overwrite_after_a_compaction_still_keeps_the_old_rows(tmp_path):
    """If this fails because the overwrite is rejected: default retries may be used for overwrites."""
    first, stale = three_files(str(tmp_path))

    first.optimize.compact()
    write_deltalake(stale, pa.table({"id": [9], "p": ["a"]}), mode="overwrite")

    assert rows(str(tmp_path)) == 4


def test_the_commit_still_accepts_a_file_that_does_not_exist(tmp_path):
    """If this fails because the commit is refused: receipt.check may leave the existence of files to deltalake."""
    _, table = three_files(str(tmp_path))
    ghost = AddAction(
        "p=a/none.parquet", 9, {"p": "a"}, 0, data_change=True, stats=json.dumps({"numRecords": 5})
    )

    table.create_write_transaction([ghost], "append", pa.schema(table.schema().to_arrow()), ["p"])

    assert DeltaTable(str(tmp_path)).version() == 3


def test_our_way_of_reading_does_not_abort_the_interpreter(tmp_path):
    """Reading through deltalake's default file system ended with SIGABRT at exit in 4 of 25 runs."""
    uri = str(tmp_path / "t")
    put(uri, [1], "k")
    script = f"from pipelines.warehouse import Snapshot; assert Snapshot.open({uri!r}).read().num_rows == 1"

    assert [subprocess.run([sys.executable, "-c", script], check=False).returncode for _ in range(5)] == [
        0
    ] * 5


def test_a_transaction_id_can_still_be_committed_twice(tmp_path):
    """If this fails because the second commit is refused: commit() may leave that check to deltalake."""
    table = pa.table({"id": [1]})
    properties = CommitProperties(app_transactions=[Transaction("batch", 1)])

    for _ in range(2):
        write_deltalake(str(tmp_path), table, mode="append", commit_properties=properties)

    assert rows(str(tmp_path)) == 2


def test_an_overwrite_still_replaces_the_columns_of_the_table_in_silence(tmp_path):
    """If this fails because it is refused: the check of columns in commit() is not needed for it."""
    write_deltalake(str(tmp_path), pa.table({"id": [1]}))
    table = DeltaTable(str(tmp_path))

    table.create_write_transaction([], "overwrite", pa.schema([("other", pa.string())]), [])

    assert [field.name for field in DeltaTable(str(tmp_path)).schema().fields] == ["other"]


def test_vacuum_still_leaves_orphans_unless_asked_for_all(tmp_path):
    """If this fails because the orphan is listed: deltalake's vacuum could take the place of ours, but for the pins."""
    write_deltalake(str(tmp_path), pa.table({"id": [1]}))
    orphan = tmp_path / "orphan.parquet"
    pq.write_table(pa.table({"id": [2]}), orphan)
    os.utime(orphan, (0, 0))

    assert DeltaTable(str(tmp_path)).vacuum(retention_hours=168, dry_run=True) == []


@pytest.mark.parametrize(("condition", "rows_said"), [("v < 5", 2), ("v <> 1.0", 0)])
def test_readers_still_answer_wrongly_where_nan_is_compared(tmp_path, condition, rows_said):
    """One row of [1, nan] is below 5, and one is not 1. If this fails because 1 is said: nan may be let into tables."""
    write_deltalake(str(tmp_path), pa.table({"v": [1.0, float("nan")]}))
    table = DeltaTable(str(tmp_path))

    found = pa.table(
        QueryBuilder().register("t", table).execute(f"select v from t where {condition}").read_all()
    )
    by_duckdb = duckdb.sql(f"select v from read_parquet({table.file_uris()}) where {condition}").fetchall()

    assert (found.num_rows, len(by_duckdb)) == (rows_said, rows_said)


def test_a_stale_handle_is_refused_without_retries(tmp_path):
    """What every commit of ours rests on. If this fails: stop, nothing may be committed with this version of deltalake."""
    first, stale = three_files(str(tmp_path))
    properties = CommitProperties(max_commit_retries=0)
    schema = pa.schema(first.schema().to_arrow())

    first.create_write_transaction([], "append", schema, ["p"], commit_properties=properties)

    with pytest.raises(CommitFailedError):
        stale.create_write_transaction([], "append", schema, ["p"], commit_properties=properties)
