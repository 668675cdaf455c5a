"""The ledger: rows cannot get lost unseen, and its tables follow the commits, crash or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import ledger
from pipelines.errors import LedgerImbalance, PartFailed
from pipelines.ledger import Entry, balance, record, repair
from pipelines.warehouse import Snapshot, append, replace, sql
from tests.warehouse_tables import SCHEMA, file, lineage

COUNT = st.integers(0, 1000)
COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}
STEP = Entry(
    table="trips", step="cast", rows_in=10, rows_out=7, quarantined=2, deduplicated=1, filtered=1, added=1
)
CHECK = {
    "name": "volume",
    "column": None,
    "severity": "block",
    "passed": True,
    "found": "10",
    "expected": "at least 1",
}


@pytest.fixture
def root(tmp_path):
    return str(tmp_path)


def build(root, table="trips", fingerprint="A", run="run1", quarantined=2):
    uri = f"{root}/{table}"
    step = Entry(table=table, step="cast", rows_in=2 + quarantined, rows_out=2, quarantined=quarantined)
    said = lineage(fingerprint, run=run, ledger=[step.record()], checks=[CHECK], sources=[{"path": "a.csv"}])
    return replace(uri, [file(uri, [1, 2])], key=f"build/{run}/{fingerprint}", lineage=said, **COLUMNS)


def lines(root, table="trips"):
    query = "select version, step, rows_in, rows_out, quarantined, run from dlflow__ledger"
    return sorted(
        tuple(row.values()) for row in sql(root, f"{query} where \"table\" = '{table}'").to_pylist()
    )


@given(st.lists(st.tuples(COUNT, COUNT, COUNT, COUNT), min_size=1, max_size=5), COUNT)
def test_steps_that_account_for_all_rows_balance(steps, rows):
    entries = []
    for i, (quarantined, deduplicated, filtered, out) in enumerate(steps):
        added = max(0, quarantined + deduplicated + filtered + out - rows)
        rest = out + max(0, rows - quarantined - deduplicated - filtered - out)
        entry = Entry(
            table="t", step=str(i), rows_in=rows, rows_out=rest, added=added,
            quarantined=quarantined, deduplicated=deduplicated, filtered=filtered,
        )  # fmt: skip
        entries.append(entry)
        rows = rest

    balance(entries)


@pytest.mark.parametrize("name", ["rows_in", "rows_out", "added", "quarantined", "deduplicated", "filtered"])
@pytest.mark.parametrize("change", [-1, 1])
def test_any_count_that_is_wrong_by_one_is_found(name, change):
    balance([STEP])
    wrong = Entry(**(STEP.record() | {name: getattr(STEP, name) + change}))

    with pytest.raises(
        LedgerImbalance, match=r"table 'trips', step 'cast': 1 rows (are missing|came from nowhere): .* in"
    ):
        balance([wrong])


def test_rows_lost_between_two_steps_are_found():
    after = Entry(table="trips", step="write", rows_in=6, rows_out=6)

    with pytest.raises(
        LedgerImbalance,
        match="step 'write': 6 rows in, expected the 7 that step 'cast' let go, 1 are missing",
    ):
        balance([STEP, after])
    balance([STEP, Entry(table="zones", step="read", rows_in=6, rows_out=6)])


def test_a_build_is_in_the_tables_of_the_framework(root):
    build(root)

    assert record(root, "trips") == 3
    assert lines(root) == [(0, "cast", 4, 2, 2, "run1")]
    assert sql(root, "select name, passed, found from dlflow__quality").to_pylist() == [
        {"name": "volume", "passed": True, "found": "10"}
    ]
    assert sql(root, "select operation, fingerprint, rows, sources from dlflow__commits").to_pylist() == [
        {"operation": "replace", "fingerprint": "A", "rows": 2, "sources": '[{"path": "a.csv"}]'}
    ]


def test_recording_again_adds_nothing(root):
    build(root)
    record(root, "trips")
    versions = [Snapshot.open(f"{root}/_dlflow/{name}").version for name in ("ledger", "quality", "commits")]

    assert record(root, "trips") == 0
    assert [
        Snapshot.open(f"{root}/_dlflow/{name}").version for name in ("ledger", "quality", "commits")
    ] == versions


def test_what_a_crash_left_unrecorded_is_repaired_once(root):
    for fingerprint in ("A", "B", "A"):
        build(root, fingerprint=fingerprint)
    build(root, table="zones")

    assert repair(root) == ["trips", "zones"]
    assert repair(root) == []
    assert [line[0] for line in lines(root)] == [0, 1, 2]
    assert len(lines(root, "zones")) == 1


@pytest.mark.parametrize("hit", [1, 2, 3])
@pytest.mark.parametrize("place", ["ledger.before_commit", "ledger.after_commit", "commit.before_log"])
def test_a_ledger_that_the_disk_refuses_is_completed_by_the_next_run(root, monkeypatch, place, hit):
    build(root)
    monkeypatch.setattr("pipelines.failpoints._arrivals", {})
    monkeypatch.setenv("DLFLOW_FAILPOINTS", f"{place}=enospc@{hit}")

    with pytest.raises((OSError, PartFailed), match="No space left"):
        record(root, "trips")
    repair(root)

    assert len(lines(root)) == 1
    assert sql(root, "select count(*) as n from dlflow__commits")["n"].to_pylist() == [1]
    assert sql(root, "select count(*) as n from dlflow__quality")["n"].to_pylist() == [1]


def test_two_processes_that_record_the_same_commits_write_them_once(root, monkeypatch):
    build(root)
    commit, raced = ledger.commit, []

    def commit_after_another(*args, **kwargs):
        if not raced:
            raced.append(True)
            build(root, fingerprint="B")
            record(root, "trips", run="the other")
        return commit(*args, **kwargs)

    monkeypatch.setattr(ledger, "commit", commit_after_another)

    record(root, "trips")

    assert [line[0] for line in lines(root)] == [0, 1]


def test_a_table_that_was_deleted_and_built_anew_is_recorded_anew(root):
    import shutil

    build(root)
    build(root, fingerprint="B")
    record(root, "trips")
    shutil.rmtree(f"{root}/trips")

    build(root, run="run2")
    record(root, "trips")

    assert [(line[0], line[-1]) for line in lines(root)] == [(0, "run1"), (0, "run2"), (1, "run1")]


def test_commits_without_a_ledger_are_recorded_as_commits(root):
    append(f"{root}/trips", [file(f"{root}/trips", [1])], key="k", lineage=lineage(), **COLUMNS)

    assert record(root, "trips") == 1
    assert sql(root, "select operation, key from dlflow__commits").to_pylist() == [
        {"operation": "append", "key": "k"}
    ]
