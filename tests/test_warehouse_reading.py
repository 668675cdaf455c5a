"""Reading a version: every way gives the same rows, no file is opened in vain, no damage goes unseen."""

import datetime as dt
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess
from pipelines.errors import InputError, PipelineError, SpecError
from pipelines.expression import expression
from pipelines.warehouse import (
    Snapshot,
    append,
    dask_frame,
    log,
    prune,
    read,
    read_matrix,
    read_unit,
    units,
    upsert,
    write_rows,
)
from pipelines.warehouse.columns import UTC
from tests.warehouse_tables import lineage

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("v", pa.float32()),
        ("at", UTC),
        ("day", pa.date32()),
        ("shop", pa.string()),
    ]
)


def table(rows):
    """Rows given as (id, name, value, hour, shop)."""
    hours = [None if row[3] is None else START + dt.timedelta(hours=row[3], microseconds=1) for row in rows]
    days = [None if hour is None else hour.date() for hour in hours]
    columns = [[row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows], hours, days]
    return pa.table([*columns, [row[4] for row in rows]], schema=SCHEMA)


def load(uri, batches):
    for part, rows in enumerate(batches):
        receipts = write_rows(uri, table(rows), schema=SCHEMA, partition_by=["day", "shop"], part=part)
        append(uri, receipts, key=f"k{part}", schema=SCHEMA, partition_by=["day", "shop"], lineage=lineage())
    return Snapshot.open(uri)


CELL = st.tuples(
    st.one_of(st.none(), st.integers(-5, 5)),
    st.one_of(st.none(), st.sampled_from(["", "a", "b", "z" * 40, "z" * 39 + "é"])),
    st.one_of(st.none(), st.floats(-2, 2, width=32)),
    st.one_of(st.none(), st.integers(0, 60)),
    st.sampled_from(["x", "y", None]),
)
LITERALS = {
    "id": ["0", "-3", "2.5"],
    "name": ["'a'", "''", "'" + "z" * 40 + "'"],
    "v": ["0.5", "1", "-0.0"],
    "at": ['cast("2026-01-01 12:00:00", "timestamp")'],
    "day": ['cast("2026-01-02", "date")'],
    "shop": ["'x'", "'y'"],
}
COMPARED = st.sampled_from(sorted(LITERALS)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.sampled_from(["<", "<=", "==", ">=", ">", "!=", "in"]),
        st.sampled_from(LITERALS[name]),
        st.booleans(),
    )
)


def clause(compared):
    name, op, literal, turned = compared
    if op == "in":
        return (
            f"{name} in ({literal}, {LITERALS[name][0]})"
            if name not in {"at", "day"}
            else f"{name} == {literal}"
        )
    return f"{literal} {op} {name}" if turned else f"{name} {op} {literal}"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    batches=st.lists(st.lists(CELL, min_size=1, max_size=6), min_size=1, max_size=4),
    parts=st.lists(COMPARED, min_size=1, max_size=3),
    joined=st.sampled_from([" and ", " or "]),
)
def test_a_condition_gives_the_rows_that_a_full_read_and_a_filter_give(
    tmp_path_factory, batches, parts, joined
):
    snapshot = load(str(tmp_path_factory.mktemp("law") / "t"), batches)
    where = joined.join(clause(part) for part in parts)
    everything = snapshot.read()

    found = read(snapshot, where=where)

    expected = everything.filter(pc.fill_null(expression(where).evaluate(everything), fill_value=False))
    assert found.to_pylist() == expected.to_pylist()


def test_files_are_pruned_by_partition_and_by_bounds(tmp_path):
    rows = [[(number * 10 + i, "a", 0.0, 24 * number, "x") for i in range(3)] for number in range(10)]
    snapshot = load(str(tmp_path / "t"), rows)

    def near(where):
        return len(prune.files(snapshot, where))

    assert near(None) == 10
    assert near("id == 42") == 1
    assert near("42 == id") == 1
    assert near("id in (1, 95)") == 1  # no file holds 95
    assert near("20 <= id < 40") == 2
    assert near("id > 50 and shop == 'x'") == 5
    assert near("shop == 'y'") == 0
    assert near('day >= cast("2026-01-09", "date")') == 2
    assert near('at >= cast("2026-01-09 00:00:00", "timestamp")') == 2
    assert near("id == 42 or id == 52") == 10  # what is not understood prunes nothing
    assert near("name is None") == 10


def test_listing_and_pruning_open_no_data_file(tmp_path):
    uri = str(tmp_path / "t")
    load(uri, [[(number * 10 + i, "a", 0.0, 24 * number, "x") for i in range(3)] for number in range(4)])
    shutil.rmtree(Path(uri, "data"))

    snapshot = Snapshot.open(uri)

    assert (snapshot.rows, [file.rows for file in snapshot.files()]) == (12, [3] * 4)
    [near] = prune.files(snapshot, "id > 15 and id < 25")
    assert (near.stats["min.id"], near.stats["max.id"], near.partition["shop"]) == (20, 22, "x")


def test_every_reader_sees_the_same_rows(tmp_path):
    """Spark is not tried: the protocol is kept to what it reads."""
    import duckdb

    uri = str(tmp_path / "t")
    snapshot = load(
        uri, [[(i, "a" if i % 3 else None, i / 2, i, "x") for i in range(40)], [(99, "b", None, 1, None)]]
    )
    source = table([(5, "new", 1.0, 5, "y"), (100, "c", 1.0, 5, "y")])
    upsert(
        uri,
        source,
        key="u",
        by=["id"],
        schema=SCHEMA,
        partition_by=["day", "shop"],
        lineage=lineage(),
        runner=InProcess(),
    )
    snapshot = Snapshot.open(uri)
    expected = sorted(row["id"] for row in snapshot.read().to_pylist())
    ids = ["id"]

    handle = log.handle(uri)
    files = [file.absolute for file in snapshot.files()]
    assert sorted(duckdb.read_parquet(files).project("id").fetchnumpy()["id"].tolist()) == expected
    script = f"import polars; print(sorted(polars.read_delta({uri!r})['id'].to_list()))"  # it leaves a thread behind
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said == f"{expected}\n"
    assert sorted(read(snapshot, ids).to_pandas()["id"]) == expected
    assert sorted(dask_frame(snapshot, ids).compute(scheduler="sync")["id"]) == expected
    found = [read_unit(unit, snapshot.schema, ids)["id"].to_pylist() for unit in units(snapshot)]
    assert sorted(number for part in found for number in part) == expected
    protocol = handle.protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    frame = dask_frame(snapshot, ["id", "v"], where="id >= 99").compute(scheduler="sync")
    assert sorted(frame["id"]) == [99, 100]
    assert dask_frame(snapshot, ids, where="id > 1000").compute(scheduler="sync").empty


def test_units_hold_row_groups_up_to_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.warehouse.file.ROW_GROUP", 10)
    snapshot = load(str(tmp_path / "t"), [[(i, "a", 0.0, 1, "x") for i in range(35)]])

    found = units(snapshot, rows=20)

    assert [groups for _, groups in found] == [(0, 1), (2, 3)]
    assert [read_unit(unit, snapshot.schema, ["id"])["id"][0].as_py() for unit in found] == [0, 20]


def test_what_cannot_be_asked_is_said(tmp_path):
    snapshot = load(str(tmp_path / "t"), [[(1, "a", 0.0, 1, "x")]])

    with pytest.raises(SpecError, match="gives int64"):
        read(snapshot, where="id + 1")
    with pytest.raises(PipelineError, match="no column 'idd'; did you mean 'id'"):
        read(snapshot, ["idd"])


def test_a_flip_of_any_byte_of_a_data_file_is_detected(tmp_path):
    snapshot = load(str(tmp_path / "t"), [[(i, f"name{i}", i / 3, 1, "x") for i in range(20)]])
    path, found = Path(snapshot.files()[0].absolute), units(snapshot, verify=True)
    content = path.read_bytes()

    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        for reading in (
            lambda: read(snapshot, verify=True),
            lambda: units(snapshot, verify=True),
            lambda: read_matrix(found, snapshot.schema, ["id"], verify=True),
        ):
            with pytest.raises(InputError, match=r"digest is .*the file is damaged"):
                reading()

    path.write_bytes(content)
    assert read_matrix(found, snapshot.schema, ["id"], verify=True).shape == (20, 1)
    assert read(snapshot, verify=True).num_rows == 20


def test_units_become_one_matrix_in_the_order_of_their_rows(tmp_path):
    snapshot = load(
        str(tmp_path / "t"),
        [[(i, "a", None if i == 3 else i / 2, 1, "x") for i in range(5)], [(9, "b", 1.5, 2, "x")]],
    )

    matrix = read_matrix(units(snapshot), snapshot.schema, ["id", "v"])

    assert (matrix.shape, matrix.dtype) == ((6, 2), np.float32)
    assert sorted(matrix[:, 0]) == [0, 1, 2, 3, 4, 9]
    assert [row[1] for row in matrix if row[0] in {4, 9}] == [2.0, 1.5]
    assert np.isnan(matrix[matrix[:, 0] == 3, 1]).all()
    assert read_matrix([], snapshot.schema, ["id"]).shape == (0, 1)
    with pytest.raises(SpecError, match="is string, expected numbers"):
        read_matrix(units(snapshot), snapshot.schema, ["name"])
