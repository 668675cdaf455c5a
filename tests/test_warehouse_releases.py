"""Releases and pins: versions of several tables that belong together, and what vacuum may not take."""

import datetime as dt
import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine import InProcess
from pipelines.errors import CheckFailed, PipelineError, SpecError
from pipelines.ledger import Entry
from pipelines.warehouse import (
    Snapshot,
    append,
    drop_release,
    held,
    history,
    log,
    make_release,
    open_at,
    open_release,
    pin,
    pins,
    release_versions,
    releases,
    replace,
    retained,
    sql,
    unpin,
    vacuum,
    version_at,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, stored

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def root(tmp_path):
    put(f"{tmp_path}/trips", [1], "k")
    put(f"{tmp_path}/zones", [7], "k")
    return str(tmp_path)


def build(root, name, numbers, fingerprint, **said):
    uri = f"{root}/{name}"
    return replace(
        uri, [file(uri, numbers)], key=fingerprint, lineage=lineage(fingerprint, **said), **COLUMNS
    ).version


def age(root, days=8):
    then = time.time() - days * 24 * 3600
    for path in Path(root).rglob("*"):
        os.utime(path, (then, then))


def test_readers_by_release_see_all_tables_as_they_were(root):
    made = make_release(root, "spring", note="for the model")
    build(root, "trips", [2], "A")
    build(root, "zones", [8], "A")

    assert made.tables == {"trips": 0, "zones": 0}
    assert [(one.name, one.note, one.tables) for one in releases(root)] == [
        ("spring", "for the model", {"trips": 0, "zones": 0})
    ]
    assert {name: one.version for name, one in open_release(root, "spring").items()} == made.tables
    query = "select t.id, z.id as zone from trips t cross join zones z"
    assert sql(root, query, at="spring").to_pylist() == [{"id": 1, "zone": 7}]
    assert sql(root, query).to_pylist() == [{"id": 2, "zone": 8}]
    assert sql(root, query, versions={"zones": 0}).to_pylist() == [{"id": 2, "zone": 7}]
    assert open_at(root, "trips", "spring").version == 0


def test_a_release_is_one_commit_and_its_name_is_given_once(root):
    make_release(root, "spring")

    with pytest.raises(SpecError, match="release 'spring' is there already"):
        make_release(root, "spring")
    assert len(history(f"{root}/_dlflow/releases")) == 1
    drop_release(root, "spring")
    assert releases(root) == []
    make_release(root, "spring", ["zones"])
    assert release_versions(root, "spring") == {"zones": 0}


def test_an_interrupted_release_is_not_there(root, monkeypatch):
    monkeypatch.setattr("pipelines.failpoints._arrivals", {})
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "commit.before_log=enospc")

    with pytest.raises(PipelineError, match="No space left"):
        make_release(root, "spring")

    assert releases(root) == []
    make_release(root, "spring")
    assert release_versions(root, "spring") == {"trips": 0, "zones": 0}


def test_a_table_built_from_another_version_is_not_released_beside_it(root):
    read = [{"kind": "table", "name": "trips", "version": 0, "rows": 1}]
    build(root, "zones", [8], "Z", sources=read)
    make_release(root, "fits")
    build(root, "trips", [2], "A")

    with pytest.raises(CheckFailed, match="'zones' was built from version 0 of 'trips', which is at 1"):
        make_release(root, "spring")

    make_release(root, "spring", stale=True)
    make_release(root, "alone", ["zones"])
    assert [one.name for one in releases(root)] == ["fits", "spring", "alone"]


def test_the_ledger_and_the_verdict_of_each_table_are_in_the_release(root):
    entry = Entry(table="trips", step="s", rows_in=1, rows_out=1).record()
    check = {"name": "c", "column": "id", "severity": "block", "passed": True, "found": "1", "expected": "1"}
    build(root, "trips", [2], "A", ledger=[entry], checks=[check])
    make_release(root, "good")

    row = sql(root, "select * from dlflow__releases where \"table\" = 'trips'").to_pylist()[0]

    assert (row["version"], row["rows"], row["built"]) == (1, 1, 1)
    assert '"rows_in": 1' in row["ledger"]
    assert '"severity": "block"' in row["checks"]
    build(root, "trips", [3], "B", checks=[check | {"passed": False}])
    with pytest.raises(CheckFailed, match="table 'trips': check 'c' failed"):
        make_release(root, "bad")


def test_a_release_that_is_not_there_is_named_with_one_that_is(root):
    make_release(root, "spring", ["trips"])

    with pytest.raises(SpecError, match=r"no release 'sprin'; did you mean 'spring'\?"):
        version_at(f"{root}/trips", "sprin")
    with pytest.raises(SpecError, match="release 'spring' does not name table 'zones'"):
        version_at(f"{root}/zones", "spring")
    with pytest.raises(SpecError, match="expected a letter"):
        make_release(root, "1")


def test_a_table_that_was_made_anew_is_not_the_released_one(root):
    import shutil

    make_release(root, "spring")
    shutil.rmtree(f"{root}/trips")
    put(f"{root}/trips", [5], "k")

    with pytest.raises(PipelineError, match="table 'trips' is not the one that was released"):
        release_versions(root, "spring")


def test_a_time_means_the_version_that_was_the_newest_then(root):
    uri = f"{root}/trips"
    first = history(uri)[0].time
    time.sleep(0.002)
    put(uri, [2], "l")

    assert version_at(uri, first) == 0
    assert version_at(uri, first.isoformat()) == 0
    assert version_at(uri, "2999-01-01") == 1
    assert (version_at(uri, "0"), version_at(uri, 1), version_at(uri, None)) == (0, 1, None)
    with pytest.raises(PipelineError, match="no version at 2020-01-01T00:00:00"):
        version_at(uri, dt.date(2020, 1, 1).isoformat())


def test_what_is_pinned_or_released_stays_and_what_is_not_goes(root):
    uri = f"{root}/trips"
    for number, name in enumerate("ABCD"):
        build(root, "trips", [number], name)  # versions 1 to 4
    pin(root, "trips", 1, holder="model:m/1", why="trained on it")
    age(root)
    make_release(root, "late", ["trips"])  # version 4, the newest anyway

    assert retained(uri) == {1: ["model:m/1"], 4: ["release:late"]}
    removed = vacuum(uri)

    assert len(removed) == 3  # those of versions 0, 2 and 3
    assert (ids(uri, 1), ids(uri, 4)) == ([0], [3])
    assert unpin(root, "model:m/1") == 1
    assert len(vacuum(uri)) == 1
    with pytest.raises(PipelineError, match=r"version 1 cannot be pinned, 1 of its files are gone"):
        pin(root, "trips", 1, holder="model:m/2")
    assert pins(root) == []


def test_no_version_of_a_model_a_release_or_a_running_job_is_removed(root):
    uri = f"{root}/trips"
    for number, name in enumerate("ABCDE"):  # versions 1 to 5
        build(root, "trips", [number], name)
        if name == "B":
            make_release(root, "spring", ["trips"])
    pin(root, "trips", 1, holder="model:m/1")
    age(root)

    with held(root, "trips", 3, holder="run:1"):
        removed = vacuum(uri)
        assert [ids(uri, version) for version in (1, 2, 3, 5)] == [[0], [1], [2], [4]]

    assert len(removed) == 2  # those of versions 0 and 4
    assert [len(vacuum(uri)), ids(uri, 1), ids(uri, 2)] == [1, [0], [1]]  # the job has ended


def test_a_running_job_holds_its_version_until_it_ends_or_its_lease_does(root):
    with held(root, "trips", 0, holder="run:1"):
        assert [(one.holder, one.version) for one in pins(root, "trips")] == [("run:1", 0)]
    pin(root, "trips", 0, holder="run:killed", lease_s=-1.0)

    assert pins(root) == []
    assert [one.holder for one in pins(root, expired=True)] == ["run:killed"]
    assert retained(f"{root}/trips") == {}


def test_the_log_of_a_pinned_version_is_not_cleaned_up(root):
    from pipelines.warehouse import maintain

    uri = f"{root}/trips"
    for number in range(12):
        put(uri, [100 + number], f"k{number}")
    pin(root, "trips", 1, holder="model:m/1")
    age(root, days=100)

    kept = maintain(root, ["trips"], runner=InProcess())[0]

    assert (kept.entries, kept.checkpoint) == (0, 13)
    assert ids(uri, 1) == [1, 100]
    unpin(root, "model:m/1")
    put(uri, [9], "more")
    age(root, days=100)
    assert maintain(root, ["trips"], runner=InProcess())[0].entries > 0
    assert len(ids(uri)) == 14
    assert Snapshot.open(uri).holds("k3")
    append(uri, [file(uri, [103])], key="k3", lineage=lineage(), **COLUMNS)
    assert len(ids(uri)) == 14
    assert stored(uri)
    assert log.newest(uri) == Snapshot.open(uri).version
    assert isinstance(pa.table(log.handle(uri).get_add_actions()), pa.Table)
