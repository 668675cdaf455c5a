"""Commits: once per batch, on the newest version or not at all, whatever fails."""

import os
import resource
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine import InProcess
from pipelines.errors import CommitConflict, PartFailed
from pipelines.warehouse import (
    Snapshot,
    append,
    commit,
    compact,
    current_fingerprint_is,
    delete,
    delete_keys,
    log,
    replace,
    replace_partitions,
    restore,
    upsert,
    write_file,
)
from pipelines.warehouse.commit import Change
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def test_the_same_key_adds_nothing_the_second_time(uri):
    receipt = file(uri, [1])
    first = append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS)
    again = append(uri, [file(uri, [1])], key="k", lineage=lineage(), **COLUMNS)

    assert (first.version, first.already, again.version, again.already) == (0, False, 0, True)
    assert ids(uri) == [1]


def test_a_batch_that_was_replaced_meanwhile_can_come_again(uri):
    put(uri, [1], "k")
    replace(uri, [file(uri, [2])], key="r", lineage=lineage(), **COLUMNS)

    put(uri, [1], "k")

    assert ids(uri) == [1, 2]


def test_a_b_a_is_three_builds_and_a_a_is_one(uri):
    def build(name):
        return replace(uri, [file(uri, [ord(name)])], key=f"build/{name}", lineage=lineage(name), **COLUMNS)

    made = [build(name) for name in ("A", "A", "B", "A", "A")]

    assert [(m.version, m.already) for m in made] == [
        (0, False),
        (0, True),
        (1, False),
        (2, False),
        (2, True),
    ]
    assert ids(uri) == [ord("A")]
    assert current_fingerprint_is(uri, "A")
    assert not current_fingerprint_is(uri, "B")


def test_a_build_is_not_current_when_somebody_has_changed_the_rows(uri):
    replace(uri, [file(uri, [1])], key="k", lineage=lineage("A"), **COLUMNS)

    log.handle(uri).delete("id = 1")

    assert not current_fingerprint_is(uri, "A")


def test_a_build_stays_current_through_checkpoints_and_empty_commits(uri):
    replace(uri, [file(uri, [1])], key="k", lineage=lineage("A"), **COLUMNS)
    log.handle(uri).create_checkpoint()
    append(uri, [], key="nothing", lineage=lineage(), **COLUMNS)

    assert current_fingerprint_is(uri, "A")


def test_a_build_is_not_current_without_a_table(uri):
    assert not current_fingerprint_is(uri, "A")


OPERATIONS = {
    "append": lambda uri, i, then: append(uri, [file(uri, [i])], key=f"a{i}", lineage=lineage(), **COLUMNS),
    "replace": lambda uri, i, then: replace(uri, [file(uri, [i])], key=f"r{i}", lineage=lineage(), **COLUMNS),
    "replace_partitions": lambda uri, i, then: replace_partitions(
        uri, [file(uri, [i])], key=f"p{i}", partitions=[{"day": "d1"}], lineage=lineage(), **COLUMNS
    ),
    "repartition": lambda uri, i, then: replace(
        uri,
        [write_file(uri, rows([i]).append_column("day", pa.array(["d1"])), partition={}, schema=SCHEMA)],
        key=f"q{i}",
        schema=SCHEMA,
        partition_by=[],
        schema_change=True,
        lineage=lineage(),
    ),
    "upsert": lambda uri, i, then: upsert(
        uri, row(i), key=f"u{i}", by=["id"], runner=InProcess(), lineage=lineage(), **COLUMNS
    ),
    "delete": lambda uri, i, then: delete(uri, "id < 3", key=f"d{i}", runner=InProcess(), lineage=lineage()),
    "delete_keys": lambda uri, i, then: delete_keys(
        uri, pa.table({"id": [1, 2]}), key=f"x{i}", runner=InProcess(), lineage=lineage()
    ),
    "compact": lambda uri, i, then: compact(uri, runner=InProcess(), lineage=lineage()),
    "restore": lambda uri, i, then: restore(uri, 0, key=f"b{i}", runner=InProcess(), lineage=lineage()),
}


def row(i):
    return rows([i]).append_column("day", pa.array(["d1"]))


def under(limit):
    return lambda was, i: [n for n in was if n >= limit]


SERIAL = {
    "append": lambda was, i: [*was, i],
    "upsert": lambda was, i: [*was, i],
    "delete": under(3),
    "delete_keys": under(3),
    "compact": lambda was, i: was,
    "restore": lambda was, i: [1],
}


@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("first", [name for name in OPERATIONS if name != "repartition"])
def test_an_operation_planned_on_an_old_version_is_planned_again(uri, monkeypatch, first, second):
    """`first` commits between the reading and the writing of `second`: the rows are those of first, then second."""
    put(uri, [1], "before")
    put(uri, [5], "more")
    write, raced = log.write, []

    def write_after_another(*args):
        if not raced:
            raced.append(True)
            OPERATIONS[first](uri, 2, None)
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)

    made = OPERATIONS[second](uri, 3, None)

    after_first = SERIAL.get(first, lambda was, i: [i])([1, 5], 2)
    assert ids(uri) == sorted(SERIAL.get(second, lambda was, i: [i])(after_first, 3))
    if second != "compact":  # which has nothing to do where one file is left
        assert (made.version, made.already, Snapshot.open(uri).version) == (3, False, 3)
        assert 3 in {Snapshot.open(uri).transaction(f"{letter}3") for letter in "arpqudxb"}


def test_a_build_that_was_in_and_was_replaced_before_it_knew_is_not_done_again(uri, monkeypatch):
    """The answer to A's commit is lost, and B is built before A looks: A must not come back over B."""
    write, raced = log.write, []

    def write_and_lose_the_answer(*args):
        write(*args)
        if not raced:
            raced.append(True)
            replace(uri, [file(uri, [2])], key="b", lineage=lineage("B"), **COLUMNS)
            raise log.LostRaceError

    monkeypatch.setattr(log, "write", write_and_lose_the_answer)

    made = replace(uri, [file(uri, [1])], key="a", lineage=lineage("A"), **COLUMNS)

    assert (made.version, made.already) == (0, True)
    assert (ids(uri), Snapshot.open(uri).version) == ([2], 1)


def test_two_processes_making_the_same_table_make_it_once(uri, monkeypatch):
    write, raced = log.write, []

    def write_after_another(*args):
        if not raced:
            raced.append(True)
            put(uri, [1], "k")
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)

    put(uri, [1], "k")

    assert (ids(uri), Snapshot.open(uri).version) == ([1], 0)


def test_an_answer_that_was_lost_is_settled_by_the_log(uri, monkeypatch):
    put(uri, [1], "before")
    write = log.write

    def write_and_fail(*args):
        write(*args)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(log, "write", write_and_fail)

    made = append(uri, [file(uri, [2])], key="k", lineage=lineage(), **COLUMNS)

    assert (made.version, made.already, ids(uri)) == (1, False, [1, 2])


def test_a_commit_that_the_disk_refuses_can_be_run_again(uri, monkeypatch):
    put(uri, [1], "before")
    receipt = file(uri, [2])
    monkeypatch.setattr("pipelines.failpoints._arrivals", {})
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "commit.before_log=enospc")

    with pytest.raises(PartFailed, match="No space left on device"):
        append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS)
    assert ids(uri) == [1]
    append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS)

    assert ids(uri) == [1, 2]


def test_a_log_that_the_disk_refuses_stays_as_it_was(uri):
    put(uri, [1], "before")
    receipt = file(uri, [2])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(PartFailed, match=r"_delta_log: cannot write .* then run again"):
            append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert (Snapshot.open(uri).version, ids(uri)) == (0, [1])
    assert [path.name for path in Path(uri, "_delta_log").iterdir()] == ["00000000000000000000.json"]
    assert append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS).version == 1


def test_a_writer_that_loses_every_race_says_so(uri, monkeypatch):
    put(uri, [1], "before")

    def lose(*args):
        raise log.LostRaceError

    monkeypatch.setattr(log, "write", lose)

    with pytest.raises(CommitConflict, match="batch 'k' lost 3 races to other writers; run it again"):
        commit(
            uri,
            key="k",
            plan=lambda _: Change(operation="append", schema=SCHEMA, partition_by=["day"]),
            lineage=lineage(),
            attempts=3,
        )


def test_what_a_commit_says_of_itself_is_in_its_log_entry(uri):
    said = lineage("F", code="1.0", why=["code changed"], parts={"code": "c1"}, counts={"rows_in": 3})

    append(uri, [file(uri, [1, 2])], key="k", lineage=said, **COLUMNS)

    record = next(action for kind, action in log.actions(uri, 0) if kind == "commitInfo")["dlflow"]
    assert {
        "run": "run1",
        "fingerprint": "F",
        "rows": 2,
        "files": 1,
        "code": "1.0",
        "key": "k",
    }.items() <= record.items()
    assert (record["parts"], record["counts"], record["why"]) == (
        {"code": "c1"},
        {"rows_in": 3},
        ["code changed"],
    )
    assert "@" in record["who"]


def test_nothing_is_named_before_it_is_on_the_disk(uri, monkeypatch):
    put(uri, [1], "before")
    sync, synced = os.fsync, []

    def note(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)

    receipt = file(uri, [2])
    written = list(synced)
    append(uri, [receipt], key="k", lineage=lineage(), **COLUMNS)

    assert written == [Path(uri, receipt["path"]), Path(uri, "data")]
    assert synced[2:] == [log.entry_path(uri, 1), Path(uri, "_delta_log")]
