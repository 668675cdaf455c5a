"""Seals: the worker's check of a footer is not done again for the same file, and no fault after it goes unseen."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.errors import PartFailed, PipelineError, SchemaMismatch
from pipelines.warehouse import Snapshot, append, footer, log, seal, write_file
from pipelines.warehouse import file as files
from pipelines.warehouse import receipt as receipts
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows, stored

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


@pytest.fixture
def parsed(monkeypatch):
    """The files whose footers are taken apart."""
    parse, seen = footer.parse, []

    def note(path, tail):
        seen.append(path)
        return parse(path, tail)

    monkeypatch.setattr(footer, "parse", note)
    return seen


def commit(uri, *made, **given):
    return append(uri, made, key="k", lineage=lineage(), **{**COLUMNS, **given})


def end_of(uri, receipt):
    """Where the footer starts, and the whole file."""
    content = Path(uri, receipt["path"]).read_bytes()
    return len(content) - len(footer.read(str(Path(uri, receipt["path"])), len(content))), content


def test_a_footer_is_taken_apart_once_by_the_worker(uri, parsed):
    made = [file(uri, [i], part=i) for i in range(3)]
    assert [str(Path(uri, one["path"])) for one in made] == parsed
    parsed.clear()

    commit(uri, *made)

    assert (parsed, ids(uri)) == ([], [0, 1, 2])


def test_a_receipt_may_travel(uri, parsed):
    receipt = json.loads(json.dumps(file(uri, [1], day="ä"), sort_keys=True))
    parsed.clear()

    commit(uri, receipt)

    assert (parsed, ids(uri)) == ([], [1])


def unsealed(uri, patch):
    receipt = file(uri, [1])
    del receipt["seal"]
    return receipt


def of_another_program(uri, patch):
    with patch.context() as then:
        then.setattr(seal, "_PROGRAM", "dlflow-1/pyarrow-1.0.0")
        return file(uri, [1])


def of_nullable_columns(uri, patch):
    schema = SCHEMA.set(0, SCHEMA.field("id").with_nullable(True))
    return write_file(uri, rows([1]).cast(pa.schema([schema.field(i) for i in range(3)])), partition={"day": "d1"}, schema=schema)  # fmt: skip


def of_no_kind(uri, patch):
    return {**file(uri, [1]), "seal": 7}


@pytest.mark.parametrize("make", [unsealed, of_another_program, of_nullable_columns, of_no_kind])
def test_without_a_seal_for_this_the_driver_takes_the_footer_apart(uri, parsed, monkeypatch, make):
    receipt = make(uri, monkeypatch)
    parsed.clear()

    commit(uri, receipt)

    assert (parsed, ids(uri)) == ([str(Path(uri, receipt["path"]))], [1])


@pytest.mark.parametrize("make", [unsealed, of_another_program, of_nullable_columns, of_no_kind])
def test_without_a_seal_for_this_a_wrong_receipt_is_refused(uri, monkeypatch, make):
    receipt = make(uri, monkeypatch)

    with pytest.raises(SchemaMismatch, match="says rows 2, the file 1"):
        commit(uri, {**receipt, "rows": 2})


def test_a_null_that_the_worker_was_allowed_is_found(uri):
    schema = SCHEMA.set(0, SCHEMA.field("id").with_nullable(True))
    table = pa.table([pa.array([None], pa.int64()), pa.array([None], pa.binary(8)), [1.0]], schema=pa.schema([schema.field(i) for i in range(3)]))  # fmt: skip
    receipt = write_file(uri, table, partition={"day": "d1"}, schema=schema)

    with pytest.raises(SchemaMismatch, match="'id' has nulls, expected NOT NULL"):
        commit(uri, receipt)


def cut(path, content):
    os.truncate(path, len(content) - 1)


def cut_in_half(path, content):
    os.truncate(path, len(content) // 2)


def emptied(path, content):
    os.truncate(path, 0)


def grown(path, content):
    path.write_bytes(content + b"\0")


def gone(path, content):
    path.unlink()


def zeroed(path, content):
    path.write_bytes(bytes(len(content)))


def linked(path, content):
    path.rename(path.with_suffix(".other"))
    path.symlink_to(path.with_suffix(".other"))


def a_folder(path, content):
    path.unlink()
    path.mkdir()


AFTER = [cut, cut_in_half, emptied, grown, gone, zeroed, linked, a_folder]


@pytest.mark.parametrize("harm", AFTER)
def test_what_happens_to_a_file_after_the_check_of_its_worker_is_found(uri, harm):
    put(uri, [0], "before")
    good, receipt = file(uri, [1]), file(uri, [2])
    path = Path(uri, receipt["path"])
    harm(path, path.read_bytes())

    with pytest.raises(PartFailed, match="run the part again") as told:
        commit(uri, good, receipt)

    assert str(path) in str(told.value)
    assert (Snapshot.open(uri).version, ids(uri)) == (0, [0])


@pytest.mark.parametrize("by", ["renaming", "writing over it"])
def test_a_file_in_the_place_of_another_of_the_same_size_is_refused(uri, by):
    """As a lost worker would leave it that wrote to the same name; ours cannot, their names are random."""
    receipt, other = file(uri, [1]), file(uri, [2])
    assert receipt["bytes"] == other["bytes"]
    path, late = Path(uri, receipt["path"]), Path(uri, other["path"])
    late.rename(path) if by == "renaming" else path.write_bytes(late.read_bytes())

    with pytest.raises(PartFailed, match="the file was damaged or replaced; run the part again"):
        commit(uri, receipt)

    assert not log.exists(uri)


def test_a_file_with_the_same_bounds_and_another_footer_is_refused(uri):
    """Its own statements are all true: only the seal knows that it is not the file that was checked."""
    receipt = file(uri, [1])
    path = Path(uri, receipt["path"])
    content = path.read_bytes()
    assert content.count(b"parquet-cpp-arrow") == 1  # the name of the program that wrote it
    path.write_bytes(content.replace(b"parquet-cpp-arrow", b"parquet-cpp-ARROW"))

    with pytest.raises(PartFailed, match="the file was damaged or replaced; run the part again"):
        commit(uri, receipt)

    assert not log.exists(uri)


def test_every_flipped_byte_of_a_footer_is_refused(uri, parsed):
    """Without being taken apart, on which pyarrow itself can crash."""
    receipt = file(uri, [1, 2, 3])
    start, content = end_of(uri, receipt)
    parsed.clear()

    for place in range(start, len(content)):
        flipped = content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]
        Path(uri, receipt["path"]).write_bytes(flipped)
        with pytest.raises(PartFailed, match="run the part again"):
            receipts.check(uri, [receipt], **COLUMNS)

    assert parsed == []


FORGED = {
    "rows": ({"rows": 2}, "says rows 2"),
    "row groups": ({"row_groups": [1, 0]}, "says row groups"),
    "statistics": ({"stats": "{}"}, "says statistics"),
    "statistics of no kind": ({"stats": {1, 2}}, "says statistics"),
    "the partition": ({"partition": {"day": "d2"}}, "not the one that the worker has sealed"),
    "the seal of nothing": ({"seal": "changed"}, "not the one that the worker has sealed"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_receipt_that_was_changed_by_mistake_is_refused(uri, what):
    receipt = file(uri, [1])
    changes, message = FORGED[what]
    changes = {**changes, "seal": receipt["seal"][:-1]} if "seal" in changes else changes

    with pytest.raises(PipelineError, match=message):
        commit(uri, {**receipt, **changes})

    assert not log.exists(uri)


def test_the_seal_of_another_file_is_refused(uri):
    one, same_rows, other = file(uri, [1]), file(uri, [1]), file(uri, [2])

    with pytest.raises(PartFailed, match="not the one that the worker has sealed"):
        commit(uri, {**one, "seal": same_rows["seal"]})
    with pytest.raises(PartFailed, match="the footer is not the one that the worker has checked"):
        commit(uri, {**one, "seal": other["seal"]})


def test_a_late_file_of_a_lost_worker_has_another_name_and_is_not_in_the_table(uri):
    receipt = file(uri, [1], part=4)
    late = file(uri, [1], part=4)

    commit(uri, receipt)

    assert late["path"] != receipt["path"]
    assert late["path"] in stored(uri)
    assert [one.path for one in Snapshot.open(uri).files()] == [receipt["path"]]


def test_a_file_is_looked_at_again_after_a_lost_race(uri, monkeypatch):
    put(uri, [0], "before")
    receipt = file(uri, [1])
    write, raced = log.write, []

    def lose_once(*args):
        if not raced:
            raced.append(True)
            os.truncate(Path(uri, receipt["path"]), receipt["bytes"] - 1)
            raise log.LostRaceError
        write(*args)

    monkeypatch.setattr(log, "write", lose_once)

    with pytest.raises(PartFailed, match="run the part again"):
        commit(uri, receipt)

    assert ids(uri) == [0]


@pytest.mark.parametrize(
    ("harm", "message"), [(cut, "the file has"), (zeroed, "other bytes than were written"), (gone, "is gone")]
)
def test_a_storage_that_keeps_other_bytes_is_found_by_the_worker(uri, monkeypatch, harm, message):
    write = files.write_new

    def write_wrong(path, content):
        write(path, content)
        harm(Path(path), bytes(content))

    monkeypatch.setattr(files, "write_new", write_wrong)

    with pytest.raises(PartFailed, match=message):
        file(uri, [1])


def test_a_footer_longer_than_one_read_is_read_whole(uri, parsed):
    wide = pa.schema([pa.field(f"column_{i}", pa.int64()) for i in range(300)])
    receipt = write_file(uri, pa.table([[i] for i in range(300)], schema=wide), partition={}, schema=wide)
    start, content = end_of(uri, receipt)
    parsed.clear()

    commit(uri, receipt, schema=wide, partition_by=[])

    assert (len(content) - start > 4096, parsed) == (True, [])
