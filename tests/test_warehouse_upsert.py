"""Upsert and delete by key: the rows are those that a dict would hold, wherever they lie and whoever does the work."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.engine import InProcess, OnDask
from pipelines.errors import SchemaMismatch, SpecError
from pipelines.warehouse import (
    Snapshot,
    append,
    delete,
    delete_keys,
    history,
    keys,
    log,
    ranges,
    upsert,
    write_file,
    write_rows,
)
from tests.warehouse_tables import lineage, stored

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("shop", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("day", pa.date32()),
    ]
)
DAY = dt.date(2026, 1, 1)
HERE = InProcess()


def table(rows):
    """Rows given as (id, shop, value, day of the year)."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    days = [None if day is None else DAY + dt.timedelta(day) for day in columns[3]]
    return pa.table([*columns[:3], days], schema=SCHEMA)


def load(uri, rows, *, partition_by=("day",), part=0, key=None):
    receipts = write_rows(uri, table(rows), schema=SCHEMA, partition_by=partition_by, part=part)
    return append(
        uri, receipts, key=key or f"load/{part}", schema=SCHEMA, partition_by=partition_by, lineage=lineage()
    )


def put(uri, rows, *, key="u", by=("id",), partition_by=("day",), runner=HERE):
    return upsert(
        uri,
        rows if isinstance(rows, pa.Table) or (rows and isinstance(rows[0], dict)) else table(rows),
        key=key,
        by=by,
        schema=SCHEMA,
        partition_by=partition_by,
        lineage=lineage(),
        runner=runner,
    )


def content(uri, version=None):
    found = Snapshot.open(uri, version).read(verify=True).to_pylist()
    return sorted(
        (row["id"], row["shop"], row["value"], None if row["day"] is None else (row["day"] - DAY).days)
        for row in found
    )


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def test_rows_are_updated_and_inserted_in_one_commit_and_counted(uri):
    load(uri, [(1, "a", 1.0, 0), (2, "b", 2.0, 0), (3, "c", 3.0, 1)])

    made = put(uri, [(2, "B", 20.0, 0), (9, "z", 9.0, 1)])

    assert content(uri) == [(1, "a", 1.0, 0), (2, "B", 20.0, 0), (3, "c", 3.0, 1), (9, "z", 9.0, 1)]
    assert (made.version, made.already, made.counts) == (1, False, {"inserted": 1, "updated": 1})
    newest = history(uri)[0]
    assert (newest.operation, newest.record["changed"]) == ("upsert", {"inserted": 1, "updated": 1})


@given(st.lists(st.integers(-9, 9), unique=True), st.lists(st.none() | st.integers(-9, 9)), st.booleans())
@settings(max_examples=50, deadline=None)
def test_only_the_keys_between_those_of_a_file_are_looked_at(known, there, text):
    kind = pa.string() if text else pa.int64()
    known, there = (pa.table({"id": pa.array(values).cast(kind)}) for values in (known, there))
    known = known.sort_by("id")

    first, near = keys.near(known, "id", there)

    found = keys.positions(there, near, ["id"])
    assert np.where(found < 0, -1, found + first).tolist() == keys.positions(there, known, ["id"]).tolist()
    values = there["id"].drop_null().to_pylist()
    assert all(min(values) <= value <= max(values) for value in near["id"].to_pylist())


def test_only_files_that_hold_a_key_are_rewritten(uri):
    for part in range(10):
        load(uri, [(part * 10 + i, "a", 0.0, 0) for i in range(10)], part=part)
    before = {file.path for file in Snapshot.open(uri).files()}

    made = put(uri, [(55, "b", 1.0, 0)])

    assert (made.files_removed, made.files_added) == (1, 2)
    assert len(before & {file.path for file in Snapshot.open(uri).files()}) == 9


def test_an_updated_row_may_change_its_partition(uri):
    load(uri, [(1, "a", 1.0, 0)])

    put(uri, [(1, "a", 1.0, 5)])

    assert content(uri) == [(1, "a", 1.0, 5)]


def test_a_batch_is_done_once(uri):
    load(uri, [(1, "a", 1.0, 0)])
    put(uri, [(1, "b", 2.0, 0)])
    put(uri, [(1, "c", 3.0, 0)], key="later")

    again = put(uri, [(1, "b", 2.0, 0)])

    assert again.already
    assert content(uri) == [(1, "c", 3.0, 0)]


def test_the_first_upsert_makes_the_table(uri):
    made = put(uri, [(1, "a", 1.0, 0)])

    assert (made.version, made.counts, content(uri)) == (0, {"inserted": 1, "updated": 0}, [(1, "a", 1.0, 0)])


@pytest.mark.parametrize(
    ("rows", "by", "said"),
    [
        ([(1, "a", 1.0, 0), (1, "b", 2.0, 0)], ["id"], r"source: key \{'id': 1\} is there twice"),
        ([(1, None, 1.0, 0)], ["shop"], "source: key column 'shop' has a null"),
        ([(1, "a", 1.0, 0)], ["value"], "key column 'value' is double"),
        ([(1, "a", 1.0, 0)], ["shopp"], "did you mean 'shop'"),
        ([(1, "a", 1.0, 0)], [], "no key columns"),
    ],
)
def test_a_source_without_a_good_key_is_refused(uri, rows, by, said):
    load(uri, [(1, "a", 1.0, 0)])

    with pytest.raises(SchemaMismatch, match=said):
        put(uri, rows, by=by)

    assert Snapshot.open(uri).version == 0


def test_a_table_that_has_a_key_twice_is_refused(uri):
    load(uri, [(1, "a", 1.0, 0)], part=0)
    load(uri, [(1, "b", 1.0, 1)], part=1)

    with pytest.raises(SchemaMismatch, match=r"key \{'id': 1\} is in the table twice"):
        put(uri, [(1, "c", 3.0, 0)])


@pytest.fixture
def small(monkeypatch):
    """Ranges of five rows, files of four: so that few rows go the way of many."""
    monkeypatch.setattr(ranges, "RANGE_ROWS", 5)
    monkeypatch.setattr("pipelines.warehouse.split.FILE_ROWS", 4)
    monkeypatch.setitem(ranges.split_files.__kwdefaults__, "range_rows", 5)


IDS = st.integers(0, 30)
ROWS = st.dictionaries(
    st.tuples(IDS, st.sampled_from("ab")), st.tuples(st.integers(0, 9), st.integers(0, 2)), max_size=25
)
BATCHES = st.lists(st.tuples(st.sampled_from(["upsert", "files", "delete", "where"]), ROWS), max_size=4)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=ROWS, batches=BATCHES, partition_by=st.sampled_from([(), ("day",), ("shop", "day")]))
def test_upserts_and_deletes_do_what_a_dict_does(tmp_path_factory, small, first, batches, partition_by):
    uri = str(tmp_path_factory.mktemp("law") / "t")
    model = dict(first)

    def listed(rows):
        return [(i, shop, float(value), day) for (i, shop), (value, day) in rows.items()]

    load(uri, listed(first), partition_by=partition_by)
    for number, (what, rows) in enumerate(batches):
        key = f"b{number}"
        if what == "delete":
            wanted = table(listed(rows)).select(["id", "shop"])
            made = delete_keys(uri, wanted, key=key, lineage=lineage(), runner=HERE)
            assert made.counts == ({"deleted": len(model.keys() & rows.keys())} if rows else {})
            model = {key: value for key, value in model.items() if key not in rows}
        elif what == "where":
            limit = len(rows)
            delete(uri, f"id < {limit} and shop == 'a'", key=key, lineage=lineage(), runner=HERE)
            model = {key: value for key, value in model.items() if not (key[0] < limit and key[1] == "a")}
        else:
            source = table(listed(rows))
            if what == "files":
                pieces = [source.slice(start, 7) for start in range(0, source.num_rows, 7)]
                source = [
                    receipt
                    for part, piece in enumerate(pieces)
                    for receipt in write_rows(uri, piece, schema=SCHEMA, partition_by=partition_by, part=part)
                ]
            made = put(uri, source, key=key, by=("id", "shop"), partition_by=partition_by)
            both = len(model.keys() & rows.keys())
            assert made.counts == ({"inserted": len(rows) - both, "updated": both} if rows else {})
            model |= rows
        assert content(uri) == sorted(listed(model))


def test_workers_write_the_same_rows_as_this_process(tmp_path, local_cluster):
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    rows = [(i, "a", float(i), i % 3) for i in range(300)]
    source = [(i, "b", -1.0, i % 3) for i in range(0, 600, 3)]

    for uri, runner in ((here, HERE), (there, OnDask(local_cluster))):
        load(uri, rows)
        made = put(uri, source, runner=runner)
        assert made.counts == {"inserted": 100, "updated": 100}

    assert content(here) == content(there)
    names = [[file.sha256 for file in Snapshot.open(uri).files()] for uri in (here, there)]
    assert names[0] == names[1]


def test_after_a_lost_race_only_what_is_new_is_rewritten(uri, monkeypatch):
    load(uri, [(i, "a", 0.0, 0) for i in range(10)], part=0)
    write, raced, before = log.write, [], set()

    def write_after_another(*args):
        if not raced:
            raced.append(True)
            before.update(stored(uri))
            load(uri, [(100, "x", 0.0, 0)], part=1)
        write(*args)

    monkeypatch.setattr(log, "write", write_after_another)

    put(uri, [(3, "b", 1.0, 0), (100, "y", 2.0, 0)])

    assert (3, "b", 1.0, 0) in content(uri)
    assert (100, "y", 2.0, 0) in content(uri)
    assert len(content(uri)) == 11
    live = {file.path for file in Snapshot.open(uri).files()}
    assert len(live & before) == 1  # the first file's rewrite was not done twice


def test_rows_are_deleted_where_a_condition_is_true_and_no_file_is_opened_in_vain(uri, monkeypatch):
    load(uri, [(1, "a", 1.0, 0), (2, None, 2.0, 0)], part=0)
    load(uri, [(3, "a", None, 1), (4, "a", 4.0, 1)], part=1)
    load(uri, [(50, "a", 9.0, 2)], part=2)
    opened = []
    read = write_file.__globals__["read_file"]
    monkeypatch.setattr(
        "pipelines.warehouse.deletion.read_file",
        lambda file, *args, **named: opened.append(file.path) or read(file, *args, **named),
    )

    made = delete(uri, "shop == 'a' and id < 10 and value >= 1", key="d", lineage=lineage(), runner=HERE)

    assert content(uri)[0] == (2, None, 2.0, 0)
    assert [row[0] for row in content(uri)] == [2, 3, 50]
    assert made.counts == {"deleted": 2}
    assert len(set(opened)) == 2


def test_a_condition_that_is_none_is_refused(uri):
    load(uri, [(1, "a", 1.0, 0)])

    with pytest.raises(SpecError, match="gives int64, expected true or false"):
        delete(uri, "id + 1", key="d", lineage=lineage(), runner=HERE)
    with pytest.raises(SpecError, match="no column 'idd'; did you mean 'id'"):
        delete(uri, "idd > 1", key="d", lineage=lineage(), runner=HERE)


def test_keys_of_another_type_are_refused(uri):
    load(uri, [(1, "a", 1.0, 0)])

    with pytest.raises(SpecError, match="cast or rename"):
        delete_keys(uri, pa.table({"id": ["1"]}), key="d", lineage=lineage(), runner=HERE)


def test_the_workspace_is_gone_and_unneeded_files_are_orphans_only(uri, tmp_path):
    load(uri, [(1, "a", 1.0, 0)])
    put(uri, [(1, "b", 2.0, 0)])

    assert list((tmp_path / "_dlflow" / "rewrites").iterdir()) == []
    assert pc.sum(Snapshot.open(uri).read(["value"])["value"]).as_py() == 2.0
