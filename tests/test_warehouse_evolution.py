"""Columns that a table gets while its rows stay: one commit for columns and rows, read by everyone, safe in a race."""

import subprocess
import sys

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import SchemaMismatch
from pipelines.warehouse import (
    Snapshot,
    append,
    log,
    replace,
    restore,
    upsert,
    vacuum,
    write_file,
    write_rows,
)
from pipelines.warehouse.columns import evolution
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}
NOTE = pa.field("note", pa.string(), metadata={"unit": "m"})
WIDER = SCHEMA.insert(1, NOTE)
MORE = {"schema": WIDER, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def noted(uri, numbers):
    """A file with the new column, not committed."""
    table = rows(numbers).append_column(NOTE, pa.array([f"n{i}" for i in numbers]))
    return write_file(uri, table, partition={"day": "d1"}, schema=WIDER)


def notes(uri, version=None):
    table = Snapshot.open(uri, version).read(["id", "note"], verify=True)
    return sorted(zip(table["id"].to_pylist(), table["note"].to_pylist(), strict=True))


def test_rows_with_a_new_column_come_in_with_it_in_one_version(uri):
    put(uri, [1, 2], "a")
    before = log.handle(uri).metadata()

    made = append(uri, [noted(uri, [3])], key="b", lineage=lineage(), evolve=True, **MORE)

    after = log.handle(uri)
    assert (made.version, notes(uri)) == (1, [(1, None), (2, None), (3, "n3")])
    assert Snapshot.open(uri).schema.equals(WIDER, check_metadata=True)
    assert Snapshot.open(uri, 0).schema.equals(SCHEMA, check_metadata=True)
    assert (after.metadata().id, after.metadata().configuration) == (before.id, before.configuration)
    assert (after.metadata().created_time, after.protocol().min_writer_version) == (before.created_time, 2)
    assert Snapshot.open(uri).holds("a")
    assert [event.operation for event in warehouse.history(uri)] == ["append", "append"]
    assert [kind for kind, _ in log.actions(uri, 1)].count("remove") == 0
    append(uri, [noted(uri, [4])], key="c", lineage=lineage(), **MORE)
    assert notes(uri)[-1] == (4, "n4")


def test_other_programs_read_a_table_whose_files_have_different_columns(uri):
    put(uri, [1, 2], "a")
    append(uri, [noted(uri, [3])], key="b", lineage=lineage(), evolve=True, **MORE)
    log.checkpoint(uri)
    expected = [(1, None), (2, None), (3, "n3")]

    files = [one.absolute for one in Snapshot.open(uri).files()]
    said = duckdb.sql(
        f"select id, note from read_parquet({files}, union_by_name=true) order by id"
    ).fetchall()
    script = f"import polars; print(sorted(polars.read_delta({uri!r}).select('id', 'note').rows()))"  # it leaves a thread
    frame = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert said == expected
    assert frame == f"{expected}\n"
    assert warehouse.sql(uri.removesuffix("/t"), "select id, note from t order by id").to_pylist() == [
        {"id": i, "note": note} for i, note in expected
    ]


def test_an_upsert_may_bring_a_column(uri):
    first = rows([1, 2]).append_column("day", pa.array(["d", "d"]))
    upsert(uri, first, key="a", by=["id"], lineage=lineage(), runner=InProcess(), **COLUMNS)
    new = pa.table(
        [pa.array([2, 3]), pa.array(["n2", "n3"]), *(pa.nulls(2, WIDER.field(i).type) for i in range(2, 5))],
        schema=WIDER,
    )

    made = upsert(uri, new, key="b", by=["id"], lineage=lineage(), runner=InProcess(), evolve=True, **MORE)

    assert (made.counts, notes(uri)) == (
        {"inserted": 1, "updated": 1},
        [(1, None), (2, "n2"), (3, "n3")],
    )


def test_only_further_columns_that_may_be_null_are_taken(uri):
    put(uri, [1], "a")
    strict = SCHEMA.append(pa.field("note", pa.string(), nullable=False))
    cases = [
        (strict, "new column 'note' is NOT NULL"),
        (WIDER.set(2, pa.field("x", pa.string())), "column 'x' is string, expected fixed_size_binary"),
        (WIDER.remove(3), r"missing \['speed'\]"),
        (WIDER.set(3, WIDER.field("speed").with_nullable(nullable=False)), "NOT NULL, expected nullable"),
    ]

    for schema, said in cases:
        with pytest.raises(SchemaMismatch, match=said):
            append(uri, [], key="b", lineage=lineage(), evolve=True, schema=schema, partition_by=["day"])
    with pytest.raises(SchemaMismatch, match="columns are"):
        append(uri, [noted(uri, [2])], key="b", lineage=lineage(), **MORE)
    with pytest.raises(SchemaMismatch, match="partitioned by"):
        append(uri, [], key="b", lineage=lineage(), evolve=True, schema=WIDER, partition_by=[])
    assert Snapshot.open(uri).version == 0
    assert evolution(SCHEMA, SCHEMA) is None


def test_a_stale_writer_of_other_columns_is_refused_and_one_of_the_same_comes_in(uri, monkeypatch):
    put(uri, [1], "a")
    stale = Snapshot.open(uri)
    append(uri, [noted(uri, [2])], key="b", lineage=lineage(), evolve=True, **MORE)
    opened = Snapshot.open

    def first_stale(place, version=None):
        monkeypatch.setattr(Snapshot, "open", opened)
        return stale

    monkeypatch.setattr(Snapshot, "open", first_stale)
    made = append(uri, [noted(uri, [3])], key="c", lineage=lineage(), evolve=True, **MORE)
    assert (made.version, notes(uri)) == (2, [(1, None), (2, "n2"), (3, "n3")])

    monkeypatch.setattr(Snapshot, "open", first_stale)
    with pytest.raises(SchemaMismatch, match=r"missing \['note'\]"):
        append(uri, [file(uri, [4])], key="d", lineage=lineage(), **COLUMNS)
    assert ids(uri) == [1, 2, 3]


def test_a_table_that_has_got_a_column_is_restored_replaced_compacted_and_cleaned(uri):
    put(uri, [1, 2], "a")
    append(uri, [noted(uri, [3])], key="b", lineage=lineage(), evolve=True, **MORE)
    warehouse.compact(uri, lineage=lineage(), runner=InProcess())
    assert notes(uri) == [(1, None), (2, None), (3, "n3")]
    assert len(Snapshot.open(uri).files()) == 1

    restore(uri, 0, key="undo", lineage=lineage(), runner=InProcess())
    assert (ids(uri), Snapshot.open(uri).schema.names) == ([1, 2], SCHEMA.names)
    restore(uri, 1, key="redo", lineage=lineage(), runner=InProcess())
    assert notes(uri) == [(1, None), (2, None), (3, "n3")]

    table = Snapshot.open(uri).read().filter(pc.field("id") > 1)
    kept = write_rows(uri, table, schema=WIDER, partition_by=[])
    again = {"schema": WIDER, "partition_by": [], "schema_change": True}
    replace(uri, kept, key="r", lineage=lineage(), **again)
    assert notes(uri) == [(2, None), (3, "n3")]
    assert vacuum(uri) == []
