"""Commits: checked before the log is touched, once per batch, and on the newest version or not at all."""

import json
import os
import resource
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import CommitConflict, LedgerImbalance, PartFailed, PipelineError, SchemaMismatch
from pipelines.warehouse import (
    Snapshot,
    append,
    commit,
    create,
    current_fingerprint_is,
    log,
    replace,
    replace_partitions,
    source_transactions,
    write_file,
)
from pipelines.warehouse.commit import Change
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def renamed(receipt, **changes):
    return {**receipt, **changes}


def other_file(uri):
    table = pa.table({"id": ["x"], "x": pa.array([None], pa.binary(8)), "speed": [1.0]})
    schema = pa.schema([SCHEMA.field("id").with_type(pa.string()), *[SCHEMA.field(i) for i in (1, 2, 3)]])
    table = table.cast(pa.schema([schema.field(i) for i in range(3)]))
    return write_file(uri, table, partition={"day": "d1"}, schema=schema)


def retyped(uri):
    return {"schema": SCHEMA.set(0, pa.field("id", pa.string(), nullable=False))}


def widened(uri):
    return {"schema": SCHEMA.append(pa.field("more", pa.int8()))}


def twice(uri):
    receipt = file(uri, [1])
    return {"receipts": [receipt, receipt]}


def live_already(uri):
    receipt = file(uri, [1])
    append(uri, [receipt], key="first", lineage=lineage(), **COLUMNS)
    return {"receipts": [receipt]}


def lost(uri):
    receipt = file(uri, [1])
    Path(uri, receipt["path"]).unlink()
    return {"receipts": [receipt]}


def cut(uri):
    receipt = file(uri, [1])
    os.truncate(Path(uri, receipt["path"]), receipt["bytes"] - 1)
    return {"receipts": [receipt]}


WRONG = {
    "declared type of id is string": (retyped, SchemaMismatch, "column 'id' is string, expected int64"),
    "declared schema has a further column": (widened, SchemaMismatch, r"extra \['more'\]"),
    "partition_by names another column": (lambda uri: {"partition_by": ["id"]}, SchemaMismatch, "partitioned by"),
    "partition values are missing": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), partition={})]}, SchemaMismatch, "expected those of"),
    "the file holds text in an int64 column": (
        lambda uri: {"receipts": [other_file(uri)]}, SchemaMismatch, "column 'id' is string, expected int64"),
    "the file does not exist": (lost, PartFailed, "the file is gone"),
    "statistics are not JSON": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), stats="not json")]}, SchemaMismatch, "says statistics"),
    "statistics are wrong": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), stats={"numRecords": 2})]}, SchemaMismatch, "says statistics"),
    "the same path twice": (twice, SchemaMismatch, "commit each file once"),
    "a path that is live": (live_already, SchemaMismatch, "commit each file once"),
    "a cut file": (cut, PartFailed, "run the part again"),
    "wrong size": (lambda uri: {"receipts": [renamed(file(uri, [1]), bytes=9)]}, PartFailed, "expected 9; run the part"),
    "wrong rows": (lambda uri: {"receipts": [renamed(file(uri, [1]), rows=2)]}, SchemaMismatch, "says rows 2"),
    "wrong row groups": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), row_groups=[1, 1])]}, SchemaMismatch, "says row groups"),
    "a path outside": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), path="data/../../x.parquet")]}, SchemaMismatch, "write_file"),
    "another digest": (lambda uri: {"receipts": [renamed(file(uri, [1]), sha256="0" * 64)]}, SchemaMismatch, "write_file"),
    "no receipt": (lambda uri: {"receipts": [{}]}, SchemaMismatch, "a receipt has no"),
    "an empty partition value": (
        lambda uri: {"receipts": [renamed(file(uri, [1]), partition={"day": ""})]}, SchemaMismatch, "take for null"),
    "more rows than the ledger": (lambda uri: {"receipts": [file(uri, [1])], "rows_out": 0}, LedgerImbalance, r"\(\+1\)"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_delta_accepts_in_silence_is_refused_before_the_log_is_touched(uri, wrong):
    put(uri, [1, 2], "before")
    make, error, message = WRONG[wrong]
    given = {"receipts": [file(uri, [3])], **COLUMNS, **make(uri)}
    version = Snapshot.open(uri).version

    with pytest.raises(error, match=message):
        append(uri, key="k", lineage=lineage(), **given)

    assert Snapshot.open(uri).version == version


def test_a_table_with_rules_that_we_cannot_enforce_is_not_written(uri):
    put(uri, [1], "before")
    log.handle(uri).alter.add_constraint({"id_not_negative": "id >= 0"})

    with pytest.raises(SchemaMismatch, match=r"rules \['delta.constraints.id_not_negative'\]"):
        put(uri, [2], "k")

    assert ids(uri) == [1]


def test_null_in_a_foreign_file_is_found_in_its_footer(uri):
    receipt = file(uri, [1])
    table = rows([1]).cast(pa.schema([f.with_nullable(True) for f in rows([1]).schema]))
    table = table.set_column(0, "id", pa.array([None], pa.int64()))
    pq.write_table(table, Path(uri, receipt["path"]))
    size = Path(uri, receipt["path"]).stat().st_size

    with pytest.raises(SchemaMismatch, match="'id' has nulls, expected NOT NULL"):
        append(uri, [renamed(receipt, bytes=size)], key="k", lineage=lineage(), **COLUMNS)


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


def test_rows_come_in_the_order_of_the_parts_whatever_the_order_of_the_receipts(uri):
    receipts = [file(uri, [i], part=i) for i in range(12)]

    append(uri, receipts[::-1], key="k", lineage=lineage(), **COLUMNS)

    assert Snapshot.open(uri).read(["id"])["id"].to_pylist() == list(range(12))


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
}
SERIAL = {"append": lambda was, i: [*was, i]}


@pytest.mark.parametrize("second", OPERATIONS)
@pytest.mark.parametrize("first", ["append", "replace", "replace_partitions"])
def test_an_operation_planned_on_an_old_version_is_planned_again(uri, monkeypatch, first, second):
    """`first` commits between the reading and the writing of `second`: the rows are those of first, then second."""
    put(uri, [1], "before")
    write, raced = log.write, []

    def write_after_another(*args):
        if not raced:
            raced.append(True)
            OPERATIONS[first](uri, 2, None)
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)

    made = OPERATIONS[second](uri, 3, None)

    after_first = SERIAL.get(first, lambda was, i: [i])([1], 2)
    assert ids(uri) == sorted(SERIAL.get(second, lambda was, i: [i])(after_first, 3))
    assert (made.version, made.already, Snapshot.open(uri).version) == (2, False, 2)
    assert {2} == {Snapshot.open(uri).transaction(key) for key in ("a3", "r3", "p3", "q3")} - {None}


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
