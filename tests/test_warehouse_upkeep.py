"""Upkeep: fewer files, a checkpoint, nothing that is not needed; beside builds, for all tables of a warehouse."""

import os
import time
from pathlib import Path

import pytest

from pipelines.engine import InProcess
from pipelines.errors import SpecError
from pipelines.ledger import record
from pipelines.warehouse import Snapshot, commit_rejects, lock, maintain, replace, write_rejects
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rejects, stored


@pytest.fixture
def root(tmp_path):
    uri = f"{tmp_path}/trips"
    for number in range(12):
        key = f"k{number}"
        receipt = write_rejects(uri, rejects([number]), key=key, run="r", step="s", sources=["a.csv"])
        commit_rejects(uri, [receipt], key=key, lineage=lineage())
        put(uri, [number], key)
        record(str(tmp_path), "trips")
    return str(tmp_path)


def age(root):
    then = time.time() - 8 * 24 * 3600
    for path in Path(root).rglob("*"):
        os.utime(path, (then, then))


def test_every_table_its_quarantine_and_our_own_get_few_files(root):
    done = {one.table: one for one in maintain(root, runner=InProcess())}

    ours = ["dlflow__commits", "dlflow__ledger", "dlflow__quality"]
    assert list(done) == ["trips", "trips__quarantine", *ours]
    assert (done["trips"].before.files, done["trips"].after.files, done["trips"].packed) == (12, 1, 12)
    assert done["trips"].checkpoint == 12
    assert (done["dlflow__commits"].before.files, done["dlflow__commits"].after.files) == (12, 1)
    assert ids(f"{root}/trips") == list(range(12))
    again = {one.table: one for one in maintain(root, runner=InProcess())}
    assert [(one.packed, one.checkpoint, one.removed) for one in again.values()] == [(0, None, 0)] * 5


def test_old_files_go_and_a_dry_run_only_tells(root):
    uri = f"{root}/trips"
    replace(uri, [file(uri, [99])], key="r", schema=SCHEMA, partition_by=["day"], lineage=lineage())
    left = Path(root, "_dlflow", "rewrites", "trips-killed")
    left.mkdir(parents=True)
    age(root)

    told = maintain(root, ["trips"], runner=InProcess(), dry_run=True)[0]
    assert (told.removed, len(stored(uri)), left.exists()) == (12, 13, True)
    done = maintain(root, ["trips"], runner=InProcess())[0]

    assert (done.removed, len(stored(uri)), left.exists()) == (12, 1, False)
    assert done.after.median == done.after.bytes == Snapshot.open(uri).files()[0].bytes


def test_a_table_that_is_built_just_now_is_left_for_the_next_time(root):
    with lock(root, "trips", run="run1"):
        done = maintain(root, ["trips"], runner=InProcess())

    assert len(done) == 1
    assert "run1" in done[0].skipped
    assert Snapshot.open(f"{root}/trips").version == 11


def test_rows_are_sorted_if_that_is_wanted(root):
    maintain(root, ["trips"], runner=InProcess(), sort={"trips": ["speed"]})

    assert Snapshot.open(f"{root}/trips").read(["id"])["id"].to_pylist() == list(range(12))


@pytest.mark.parametrize("given", [{"tables": ["trip"]}, {"sort": {"trip": ["id"]}}])
def test_a_table_that_is_not_there_is_named_with_one_that_is(root, given):
    with pytest.raises(SpecError, match=r"no table 'trip'; did you mean 'trips'\?"):
        maintain(root, runner=InProcess(), **given)
