"""Snapshots: a version is a value, and anybody's files can be read."""

import json
import shutil

import pyarrow as pa
import pytest

from pipelines.errors import PipelineError
from pipelines.warehouse import (
    Snapshot,
    append,
    log,
    replace,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def test_rows_come_in_the_order_of_the_parts_whatever_the_order_of_the_receipts(uri):
    receipts = [file(uri, [i], part=i) for i in range(12)]

    append(uri, receipts[::-1], key="k", lineage=lineage(), **COLUMNS)

    assert Snapshot.open(uri).read(["id"])["id"].to_pylist() == list(range(12))


def test_a_table_copied_elsewhere_is_the_same_table(uri, tmp_path):
    put(uri, [1], "k")

    shutil.copytree(uri, tmp_path / "copy")

    assert ids(str(tmp_path / "copy")) == [1]


def test_a_snapshot_does_not_move_and_travels_as_uri_and_version(uri):
    import pickle

    put(uri, [1], "k")
    old = Snapshot.open(uri)
    put(uri, [2], "l")

    moved = pickle.loads(pickle.dumps(old))  # noqa: S301

    assert (moved.version, moved.read(["id"])["id"].to_pylist(), old.rows) == (0, [1], 1)
    assert Snapshot.open(uri, 0).read(["id"]).num_rows == 1


def test_a_table_that_is_not_there_is_named_with_one_that_is(tmp_path):
    put(str(tmp_path / "trips"), [1], "k")

    with pytest.raises(PipelineError, match=r"no table here.*did you mean 'trips'\?"):
        Snapshot.open(str(tmp_path / "trip"))
    with pytest.raises(PipelineError, match="version 9 cannot be opened"):
        Snapshot.open(str(tmp_path / "trips"), 9)
    with pytest.raises(PipelineError, match=r"columns \['nope'\] are not in the table"):
        Snapshot.open(str(tmp_path / "trips")).read(["nope"])
    with pytest.raises(PipelineError, match="no partition columns"):
        Snapshot.open(str(tmp_path / "trips")).files({"id": 1})


def test_files_of_other_programs_are_read(uri):
    from deltalake import write_deltalake

    write_deltalake(uri, pa.table({"id": [1, 2], "p": ["a/b %2F", None]}), partition_by=["p"])

    snapshot = Snapshot.open(uri)
    assert sorted(snapshot.read().to_pylist(), key=lambda row: row["id"]) == [
        {"id": 1, "p": "a/b %2F"},
        {"id": 2, "p": None},
    ]
    assert [f.sha256 for f in snapshot.files()] == [None, None]
    replace(uri, [], key="k", schema=snapshot.schema, partition_by=["p"], lineage=lineage())
    assert Snapshot.open(uri).rows == 0


def test_statistics_prune_for_other_readers(uri):
    put(uri, [1, 2], "k1")
    put(uri, [100, 200], "k2", day="d2")

    assert len(log.handle(uri).file_uris(file_pruning_predicate="id > 50")) == 1
    assert len(log.handle(uri).file_uris(file_pruning_predicate="day = 'd2'")) == 1
    assert json.loads(json.dumps([f.stats["max.id"] for f in Snapshot.open(uri).files()])) in (
        [2, 200],
        [200, 2],
    )
