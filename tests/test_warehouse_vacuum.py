"""Vacuum removes what nobody can need, and never anything else."""

import os
import time
from pathlib import Path

import pytest

from pipelines.errors import LedgerImbalance, PipelineError
from pipelines.warehouse import Snapshot, append, log, replace, vacuum
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, stored

WEEK_S = 7 * 24 * 3600
COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def age(uri, by_s):
    """Make all that is there older."""
    then = time.time() - by_s
    for path in Path(uri).rglob("*"):
        os.utime(path, (then, then))


def test_live_files_stay_however_old(uri):
    put(uri, [1], "k")
    age(uri, 10 * WEEK_S)

    assert vacuum(uri) == []
    assert ids(uri) == [1]


def test_old_orphans_go_and_young_ones_stay(uri):
    put(uri, [1], "k")
    old = file(uri, [2])["path"]
    age(uri, 8 * 24 * 3600)
    young = file(uri, [3])["path"]

    assert vacuum(uri, dry_run=True) == [old]
    assert old in stored(uri)
    assert vacuum(uri) == [old]
    assert young in stored(uri)
    assert old not in stored(uri)


def test_files_that_were_replaced_within_the_limit_stay_for_readers_of_old_versions(uri):
    put(uri, [1], "k")
    age(uri, 30 * WEEK_S)
    replace(uri, [file(uri, [2])], key="r", lineage=lineage(), **COLUMNS)

    assert vacuum(uri) == []
    assert ids(uri, 0) == [1]


def test_files_that_were_replaced_long_ago_go(uri):
    put(uri, [1], "k")
    first = Snapshot.open(uri).files()[0].path
    replace(uri, [file(uri, [2])], key="r", lineage=lineage(), **COLUMNS)
    age(uri, 8 * 24 * 3600)

    assert vacuum(uri) == [first]
    assert ids(uri) == [2]


def test_a_file_that_is_committed_while_vacuum_runs_stays(uri, monkeypatch):
    put(uri, [1], "k")
    late = file(uri, [2])
    age(uri, 8 * 24 * 3600)
    actions = log.exists  # the first thing that opening the newest version asks

    def commit_first(place):
        monkeypatch.setattr(log, "exists", actions)
        append(uri, [late], key="late", lineage=lineage(), **COLUMNS)
        return actions(place)

    monkeypatch.setattr(log, "exists", commit_first)

    assert vacuum(uri) == []
    assert ids(uri) == [1, 2]


def test_a_file_that_a_commit_has_just_checked_stays(uri):
    put(uri, [1], "k")
    late = file(uri, [2])
    age(uri, 8 * 24 * 3600)

    with pytest.raises(LedgerImbalance, match="expected 5"):
        append(uri, [late], key="late", lineage=lineage(), rows_out=5, **COLUMNS)

    assert vacuum(uri) == []


def test_what_a_commit_that_was_killed_has_left_in_the_log_goes(uri):
    put(uri, [1], "k")
    left = Path(f"{log.entry_path(uri, 1)}.abc.tmp")
    left.write_text("{}")
    age(uri, 8 * 24 * 3600)

    assert vacuum(uri) == [f"_delta_log/{left.name}"]
    assert ids(uri) == [1]


@pytest.mark.parametrize("hours", [0, 23, 24 * 81])
def test_an_unsafe_age_is_refused(uri, hours):
    put(uri, [1], "k")

    with pytest.raises(PipelineError, match="expected 24 to 1920 h"):
        vacuum(uri, older_than_h=hours)


def test_the_clock_can_be_given(uri):
    put(uri, [1], "k")
    orphan = file(uri, [2])["path"]

    assert vacuum(uri) == []
    assert vacuum(uri, now_s=time.time() + 8 * 24 * 3600) == [orphan]
