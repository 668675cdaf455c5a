"""The quarantine belongs to the content of its table, at every moment between two commits."""

import pytest

from pipelines.warehouse import (
    Snapshot,
    append,
    commit_rejects,
    quarantine_uri,
    read_quarantine,
    replace,
    tables,
    tidy,
    write_rejects,
)
from pipelines.warehouse import quarantine as quarantines
from tests.warehouse_tables import SCHEMA, file, ids, lineage, rejects

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def set_aside(uri, key, lines):
    receipts = (
        [write_rejects(uri, rejects(lines), key=key, run="run1", step="cast", sources=["in/a.csv"])]
        if lines
        else []
    )
    return commit_rejects(uri, receipts, key=key, lineage=lineage())


def build(uri, content, lines):
    """A whole build: rejects, rows, leftovers."""
    set_aside(uri, f"build/{content}", lines)
    replace(uri, [file(uri, [ord(content)])], key=f"build/{content}", lineage=lineage(content), **COLUMNS)
    tidy(uri, lineage=lineage())


def lines(uri, version=None):
    return sorted(read_quarantine(uri, version, ["line"])["line"].to_pylist())


def stored_lines(uri):
    """Those that a reader of the plain files sees."""
    return sorted(Snapshot.open(quarantine_uri(uri)).read(["line"])["line"].to_pylist())


def test_a_rejected_row_is_kept_with_its_origin(uri):
    build(uri, "A", [3])

    assert read_quarantine(uri).to_pylist() == [
        {
            "batch": "build/A",
            "run": "run1",
            "step": "cast",
            "source": "in/a.csv",
            "line": 3,
            "offset": -1,
            "rule": "type",
            "column": "id",
            "message": "column 'id': cannot read 'x' as int64",
            "raw": "x",
        }
    ]


def test_rejects_are_not_seen_before_their_rows_are(uri):
    build(uri, "A", [1, 2])

    set_aside(uri, "build/B", [7])

    assert lines(uri) == [1, 2]
    replace(uri, [file(uri, [9])], key="build/B", lineage=lineage("B"), **COLUMNS)
    assert lines(uri) == [7]


def test_a_retry_does_not_double_rejects(uri):
    for _ in range(3):
        set_aside(uri, "build/A", [1, 2])
    build(uri, "A", [1, 2])

    assert lines(uri) == stored_lines(uri) == [1, 2]


def test_the_leftovers_of_a_replaced_batch_are_removed(uri):
    for content, rejected in (("A", [1, 2]), ("B", [3]), ("C", [])):
        build(uri, content, rejected)
        assert lines(uri) == stored_lines(uri) == rejected


def test_a_b_a_ends_with_the_rejects_of_a(uri):
    for content, rejected in (("A", [1, 2]), ("B", [3]), ("A", [1, 2])):
        build(uri, content, rejected)

    assert lines(uri) == stored_lines(uri) == [1, 2]


def test_rejects_that_wait_for_their_rows_are_not_tidied_away(uri):
    build(uri, "A", [1])
    build(uri, "B", [2])

    set_aside(uri, "build/A", [1])
    tidy(uri, lineage=lineage())
    replace(uri, [file(uri, [ord("A")])], key="build/A", lineage=lineage("A"), **COLUMNS)

    assert lines(uri) == [1]


def test_rejects_whose_rows_never_came_go_after_a_week(uri, monkeypatch):
    build(uri, "A", [1])
    set_aside(uri, "crashed", [5])
    assert tidy(uri, lineage=lineage()) == 0
    monkeypatch.setattr("pipelines.warehouse.companion._KEPT_S", -60.0)

    assert tidy(uri, lineage=lineage()) == 1
    assert lines(uri) == stored_lines(uri) == [1]


def test_appended_batches_each_keep_their_rejects(uri):
    for i in range(3):
        set_aside(uri, f"k{i}", [i])
        append(uri, [file(uri, [i])], key=f"k{i}", lineage=lineage(), **COLUMNS)
    tidy(uri, lineage=lineage())

    assert (lines(uri), lines(uri, 1), ids(uri)) == ([0, 1, 2], [0, 1], [0, 1, 2])
    assert tables(uri.rpartition("/")[0])[0].quarantined == 3


def test_a_table_without_rejects_has_no_quarantine_table(uri):
    build(uri, "A", [])

    assert read_quarantine(uri).num_rows == 0
    assert read_quarantine(uri).schema.equals(quarantines.SCHEMA)
    assert [listing.quarantined for listing in tables(uri.rpartition("/")[0])] == [0]


def test_an_unknown_source_number_is_no_lost_row(uri):
    receipt = write_rejects(uri, rejects([]), key="k", run="r", step="cast", sources=[])

    assert receipt["rows"] == 0
