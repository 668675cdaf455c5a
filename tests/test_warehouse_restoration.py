"""Restore: an old content is the newest again, with its columns, and with what it knew to be loaded."""

import pyarrow as pa
import pytest
from deltalake import Field

from pipelines.engine import InProcess
from pipelines.errors import PipelineError
from pipelines.warehouse import (
    Snapshot,
    append,
    current_fingerprint_is,
    history,
    log,
    replace,
    restore,
    write_file,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def back(uri, version, key="restore"):
    return restore(uri, version, key=key, lineage=lineage(), runner=InProcess())


def test_an_old_version_is_the_newest_again_and_the_ones_between_stay_readable(uri):
    put(uri, [1], "a")
    put(uri, [2], "b")
    replace(uri, [file(uri, [3])], key="c", lineage=lineage(), **COLUMNS)

    made = back(uri, 1)

    assert (made.version, ids(uri), ids(uri, 2)) == (3, [1, 2], [3])
    assert history(uri)[0].operation == "restore"
    assert history(uri)[0].record["changed"] == {"restored": 1}


def test_batches_loaded_after_that_version_can_be_loaded_again_and_those_before_cannot(uri):
    put(uri, [1], "a")
    put(uri, [2], "b")
    back(uri, 0)

    put(uri, [1], "a")
    put(uri, [2], "b")

    assert ids(uri) == [1, 2]


def test_batches_that_a_replacement_threw_away_count_as_loaded_again(uri):
    put(uri, [1], "a")
    replace(uri, [file(uri, [9])], key="r", lineage=lineage(), **COLUMNS)
    back(uri, 0)

    put(uri, [1], "a")

    assert ids(uri) == [1]


def test_what_is_set_back_survives_a_checkpoint(uri):
    put(uri, [1], "a")
    put(uri, [2], "b")
    back(uri, 0)
    log.checkpoint(uri)

    put(uri, [2], "b")

    assert ids(uri) == [1, 2]


def test_columns_and_partitioning_come_back_too(uri):
    put(uri, [1], "a")
    schema = pa.schema([pa.field("id", pa.int32())])
    new = write_file(uri, pa.table({"id": pa.array([7], pa.int32())}), partition={}, schema=schema)
    replace(uri, [new], key="r", schema=schema, partition_by=[], lineage=lineage(), schema_change=True)

    back(uri, 0)

    assert Snapshot.open(uri).schema.equals(SCHEMA, check_metadata=True)
    assert (ids(uri), Snapshot.open(uri).partition_by) == ([1], ("day",))
    put(uri, [1], "a")
    assert ids(uri) == [1]


def test_a_column_that_was_added_goes_and_files_of_both_versions_stay(uri):
    put(uri, [1], "a")
    log.handle(uri).alter.add_columns([Field("extra", "integer")])

    back(uri, 0)

    assert Snapshot.open(uri).schema.names == SCHEMA.names
    assert ids(uri) == [1]


def test_a_column_that_comes_between_the_reading_and_the_writing_of_a_restore_goes_too(uri, monkeypatch):
    put(uri, [1], "a")
    put(uri, [2], "b")
    write, between = log.write, []

    def write_after_another(*args):
        if not between:
            between.append(True)
            log.handle(uri).alter.add_columns([Field("extra", "integer")])
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)
    made = back(uri, 0)

    assert (made.version, Snapshot.open(uri, 2).schema.names) == (3, [*SCHEMA.names, "extra"])
    assert (Snapshot.open(uri).schema.names, ids(uri)) == (SCHEMA.names, [1])


def test_a_build_is_not_current_after_a_restore(uri):
    replace(uri, [file(uri, [1])], key="a", lineage=lineage("A"), **COLUMNS)
    replace(uri, [file(uri, [2])], key="b", lineage=lineage("B"), **COLUMNS)

    back(uri, 0)

    assert not current_fingerprint_is(uri, "A")
    assert not current_fingerprint_is(uri, "B")
    replace(uri, [file(uri, [2])], key="b", lineage=lineage("B"), **COLUMNS)
    assert ids(uri) == [2]


def test_a_version_whose_files_are_gone_is_refused(uri, tmp_path):
    put(uri, [1], "a")
    gone = Snapshot.open(uri).files()[0]
    replace(uri, [file(uri, [2])], key="r", lineage=lineage(), **COLUMNS)
    (tmp_path / "t" / gone.path).unlink()

    with pytest.raises(PipelineError, match=r"version 0 cannot be restored, 1 of its 1 files are gone"):
        back(uri, 0)

    assert ids(uri) == [2]


def test_files_of_another_program_are_written_anew(uri):
    from deltalake import write_deltalake

    write_deltalake(uri, pa.table({"id": [1, 2]}))
    schema = Snapshot.open(uri).schema
    replace(uri, [], key="r", schema=schema, lineage=lineage())

    back(uri, 0)

    assert ids(uri) == [1, 2]
    assert all(f.sha256 for f in Snapshot.open(uri).files())


def test_it_is_done_once_per_key(uri):
    put(uri, [1], "a")
    put(uri, [2], "b")
    back(uri, 0)
    put(uri, [3], "c")

    assert back(uri, 0).already
    assert ids(uri) == [1, 3]
    assert append(uri, [], key="d", lineage=lineage(), **COLUMNS).version == 4
