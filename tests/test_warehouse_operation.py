"""Operations: create, append, replace with and without other columns, replace partitions."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import SchemaMismatch
from pipelines.warehouse import (
    Snapshot,
    append,
    create,
    log,
    replace,
    replace_partitions,
    source_transactions,
    write_file,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def test_the_first_commit_makes_the_table_with_its_rows_in_one_version(uri):
    append(uri, [file(uri, [1], day=None)], key="k", lineage=lineage(), **COLUMNS)

    handle = log.handle(uri)
    assert (handle.version(), ids(uri)) == (0, [1])
    assert (handle.protocol().min_reader_version, handle.protocol().min_writer_version) == (1, 2)
    assert handle.metadata().configuration == {"delta.logRetentionDuration": "interval 90 days"}
    assert Snapshot.open(uri).schema.equals(SCHEMA, check_metadata=True)


def test_an_empty_table_is_made_once(uri):
    assert not create(uri, SCHEMA, ["day"]).already
    assert create(uri, SCHEMA, ["day"]).already
    assert Snapshot.open(uri).read().schema.equals(SCHEMA, check_metadata=True)
    with pytest.raises(SchemaMismatch, match="expected"):
        create(uri, SCHEMA, [])


def test_a_replacement_may_change_columns_only_when_that_is_said(uri):
    put(uri, [1], "k")
    schema = pa.schema([pa.field("id", pa.int32(), metadata={"unit": "m"}), pa.field("day", pa.string())])
    new = write_file(uri, pa.table({"id": pa.array([7], pa.int32())}), partition={"day": "d"}, schema=schema)

    with pytest.raises(SchemaMismatch, match="replace it with schema_change=True"):
        replace(uri, [new], key="r", schema=schema, partition_by=["day"], lineage=lineage())
    made = replace(
        uri, [new], key="r", schema=schema, partition_by=["day"], lineage=lineage(), schema_change=True
    )

    assert made.version == 1
    assert Snapshot.open(uri).schema.equals(schema, check_metadata=True)
    assert (ids(uri), ids(uri, 0)) == ([7], [1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.with_nullable(False), "'speed' is NOT NULL, expected nullable"),
        (lambda f: f.with_metadata({"unit": "km/h"}), "'speed' has metadata"),
    ],
)
def test_a_column_that_says_something_else_of_itself_is_another_column(uri, change, said):
    put(uri, [1], "k")
    schema = SCHEMA.set(2, change(SCHEMA.field("speed")))
    new = write_file(uri, rows([2]), partition={"day": "d1"}, schema=schema)

    with pytest.raises(SchemaMismatch, match=said):
        append(uri, [new], key="a", schema=schema, partition_by=["day"], lineage=lineage())
    replace(uri, [new], key="r", schema=schema, partition_by=["day"], lineage=lineage(), schema_change=True)

    assert Snapshot.open(uri).schema.equals(schema, check_metadata=True)


@pytest.mark.parametrize("partition_by", [[], ["id"], ["day", "id"]])
def test_a_replacement_may_change_the_partitioning_in_one_version(uri, partition_by):
    put(uri, [1], "k")
    values = {"day": "d", "id": 7}
    new = write_file(
        uri,
        rows([7]).append_column("day", pa.array(["d"])),
        partition={name: values[name] for name in partition_by},
        schema=SCHEMA,
    )

    made = replace(
        uri, [new], key="r", schema=SCHEMA, partition_by=partition_by, lineage=lineage(), schema_change=True
    )

    snapshot = Snapshot.open(uri)
    assert (made.version, snapshot.version, list(snapshot.partition_by)) == (1, 1, partition_by)
    assert (ids(uri), ids(uri, 0), snapshot.read(["day"]).to_pylist()) == ([7], [1], [{"day": "d"}])
    assert snapshot.transaction("k") == 0
    assert {path.name for path in Path(uri).iterdir()} == {"data", "_delta_log"}
    put_again = replace(uri, [], key="s", schema=SCHEMA, partition_by=partition_by, lineage=lineage())
    assert (put_again.version, ids(uri)) == (2, [])


def test_partitions_are_replaced_and_the_others_stay(uri):
    put(uri, [1], "k1", day="d1")
    put(uri, [2], "k2", day="d2")
    put(uri, [3], "k3", day=None)

    replace_partitions(
        uri,
        [file(uri, [4], day=None)],
        key="r",
        partitions=[{"day": "d1"}, {"day": None}],
        lineage=lineage(),
        **COLUMNS,
    )

    assert ids(uri) == [2, 4]
    with pytest.raises(SchemaMismatch, match="expected one of"):
        replace_partitions(
            uri, [file(uri, [5])], key="s", partitions=[{"day": "d2"}], lineage=lineage(), **COLUMNS
        )
    with pytest.raises(SchemaMismatch, match="a value for each of"):
        replace_partitions(uri, [], key="s", partitions=[{}], lineage=lineage(), **COLUMNS)


def test_the_sources_of_a_batch_are_known_until_they_are_replaced(uri):
    loaded = source_transactions([("in/a.csv", "aa"), ("in/b.csv", "bb")])
    append(uri, [file(uri, [1])], key="k", transactions=loaded, lineage=lineage(), **COLUMNS)
    before = Snapshot.open(uri)
    replace(uri, [], key="r", lineage=lineage(), **COLUMNS)

    assert before.has_loaded("in/a.csv", "aa")
    assert not before.has_loaded("in/a.csv", "bb")
    assert not Snapshot.open(uri).has_loaded("in/a.csv", "aa")


def test_too_many_sources_become_one_id_that_does_not_depend_on_their_order():
    many = [(f"in/{i}.csv", "aa") for i in range(10_001)]

    assert source_transactions(many) == source_transactions(many[::-1])
    assert len(source_transactions(many)) == 1
    assert len(source_transactions(many[:-1])) == 10_000
