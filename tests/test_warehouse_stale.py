"""Every operation beside those that change columns, keep history or remove files: planned on an old version, it is planned again.

The law: what another has committed between the reading and the writing of an operation counts as if it had been there
before, so both tables, raced and one after another, hold the same; or the operation says why it cannot be done any more.
"""

import datetime as dt
import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.engine import InProcess
from pipelines.errors import PipelineError, SchemaMismatch
from pipelines.warehouse import (
    Lineage,
    Snapshot,
    append,
    compact,
    delete,
    delete_keys,
    log,
    record_changes,
    replace,
    restore,
    upsert,
    vacuum,
    write_rows,
)
from pipelines.warehouse.columns import UTC
from pipelines.warehouse.dimension import history_schema

CHANGES = pa.schema([pa.field("id", pa.int64(), nullable=False), ("city", pa.string()), ("at", UTC)])
HISTORY = history_schema(CHANGES, at="at")
WIDER = HISTORY.insert(1, pa.field("note", pa.string()))
WORK = {"lineage": Lineage(run="r"), "runner": InProcess(threads=1)}


def changes(*said):
    """Changes of (id, city, day)."""
    rows = [
        {"id": key, "city": city, "at": dt.datetime(2026, 1, day, tzinfo=dt.UTC)} for key, city, day in said
    ]
    return pa.Table.from_pylist(rows, CHANGES)


def history(uri, *said):
    return record_changes(uri, changes(*said), columns=CHANGES, key=f"h{said}", by=["id"], at="at", **WORK)


def version_rows(schema, key, city):
    """One open version of one key, as rows of the table."""
    row = {"id": key, "city": city, "valid_from": dt.datetime(2026, 3, 1, tzinfo=dt.UTC), "is_current": True}
    return pa.Table.from_pylist([row], schema)


def added(uri, schema, **how):
    files = write_rows(uri, version_rows(schema, 7, "Ulm"), schema=schema, partition_by=[])
    return append(uri, files, key="more", schema=schema, lineage=WORK["lineage"], **how)


def replaced(uri):
    files = write_rows(uri, version_rows(HISTORY, 8, "Bonn"), schema=HISTORY, partition_by=[])
    said = {"schema": HISTORY, "lineage": WORK["lineage"], "schema_change": True}
    return replace(uri, files, key="all", **said)


OPERATIONS = {
    "scd2": lambda uri: history(uri, (1, "Rome", 20), (2, "Oslo", 3), (5, "Lima", 5)),
    "scd2 late": lambda uri: history(uri, (1, "Wien", 5)),
    "evolve": lambda uri: added(uri, WIDER, evolve=True),
    "append": lambda uri: added(uri, HISTORY),
    "replace": replaced,
    "upsert": lambda uri: upsert(
        uri, version_rows(HISTORY, 3, "Genf"), key="u", by=["id"], schema=HISTORY, **WORK
    ),
    "delete": lambda uri: delete(uri, "id == 2", key="d", **WORK),
    "delete_keys": lambda uri: delete_keys(uri, pa.table({"id": [3, 4]}), key="x", **WORK),
    "compact": lambda uri: compact(uri, **WORK),
    "restore": lambda uri: restore(uri, 0, key="b", **WORK),
    "vacuum": lambda uri: vacuum(uri),
}


def content(uri):
    """All rows, those that are younger columns too."""
    table = Snapshot.open(uri).read(verify=True)
    return table.schema.names, sorted(map(repr, table.to_pylist()))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A history of two versions, with dead files that are eight days old."""
    uri = str(tmp_path_factory.mktemp("start") / "t")
    history(uri, (1, "Bern", 10), (2, "Rome", 10))
    history(uri, (3, "Bern", 1), (4, "Paris", 2))
    delete(uri, "id == 4", key="start", **WORK)
    then = time.time() - 8 * 24 * 3600
    for path in Path(uri, "data").iterdir():
        os.utime(path, (then, then))
    return uri


def attempted(uri, name):
    """What an operation did: None, or why it could not."""
    try:
        OPERATIONS[name](uri)
    except (SchemaMismatch, PipelineError) as error:
        return type(error).__name__
    return None


OURS = {"scd2", "scd2 late", "evolve", "vacuum"}  # pairs of the others are in test_warehouse_commit
PAIRS = [
    (first, second)
    for first in OPERATIONS
    for second in OPERATIONS
    if second != "vacuum" and OURS & {first, second}
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_an_operation_on_a_stale_version_does_what_it_would_have_done_later(
    start, tmp_path, monkeypatch, first, second
):
    serial, raced = (str(tmp_path / name / "t") for name in ("serial", "raced"))
    for uri in (serial, raced):
        shutil.copytree(start, uri)
    attempted(serial, first)
    later = attempted(serial, second)
    write, between = log.write, []

    def write_after_another(*args):
        if not between:
            between.append(True)
            attempted(raced, first)
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)
    said = attempted(raced, second)

    assert between
    if said is not None and later is None:  # columns changed under it: refused, and nothing was done
        assert "evolve" in {first, second}
        assert second != "restore"  # which has the columns of its version, whatever the table had meanwhile
        monkeypatch.setattr(log, "write", write)
        undone = str(tmp_path / "undone" / "t")
        shutil.copytree(start, undone)
        attempted(undone, first)
        assert content(raced) == content(undone)
        assert attempted(raced, second) is None
    assert content(raced) == content(serial)
