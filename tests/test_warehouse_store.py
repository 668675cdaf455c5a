"""A warehouse in an object store: the same operations, a compare-and-swap without locks, unknown outcomes, vacuum beside pins."""

import json
import sys
import time

import pyarrow as pa
import pytest

from pipelines import access, conditional, warehouse
from pipelines.engine import InProcess
from pipelines.errors import InputError, PartFailed, PipelineError, SpecError
from pipelines.places import StorePath, place, root_of, state_folder
from pipelines.warehouse import (
    Snapshot,
    append,
    compact,
    replace,
    restore,
    sweep,
    upsert,
    vacuum,
    write_file,
)
from tests.warehouse_tables import SCHEMA, file, ids, lineage, put, rows

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}
WORK = {"lineage": lineage(), "runner": InProcess(threads=1)}


@pytest.fixture
def root(store, bucket):
    """The root of a warehouse in a bucket of its own."""
    url = f"s3://{bucket}/tables"
    access.mount(url, store.storage)
    yield url
    access._mounted.pop(url)


@pytest.fixture
def uri(root):
    return f"{root}/t"


def objects(store, url):
    """The keys below a URL."""
    return {path.url.removeprefix(f"{url}/") for path in StorePath(url).glob("*/*") if "." in path.name}


def test_every_operation_does_in_a_store_what_it_does_in_a_folder(root, tmp_path):
    seen = []
    for home in (str(tmp_path), root):
        uri = f"{home}/t"
        day = pa.array(["d1", "d1", "d2"])
        put(uri, [1, 2, 3], "a")
        put(uri, [4], "b", day=None)
        made = upsert(
            uri, rows([3, 4, 5]).append_column("day", day), key="c", by=["id"], **COLUMNS, **WORK
        ).counts
        gone = warehouse.delete(uri, "id == 1", key="d", **WORK).counts
        packed = compact(uri, **WORK)
        restore(uri, 2, key="e", **WORK)
        again = restore(uri, 3, key="f", **WORK).version
        wider = SCHEMA.append(pa.field("note", pa.string()))
        table = rows([9]).append_column("note", pa.array(["new"]))
        new = write_file(uri, table, partition={"day": "d1"}, schema=wider)
        append(uri, [new], key="g", schema=wider, partition_by=["day"], lineage=lineage(), evolve=True)
        release = warehouse.make_release(home, "spring").tables
        pin = warehouse.pin(home, "t", 3, holder="model:m/1")
        flat = write_file(uri, rows([7]).append_column("day", pa.array(["d"])), partition={}, schema=SCHEMA)
        replace(uri, [flat], key="h", schema=SCHEMA, partition_by=[], lineage=lineage(), schema_change=True)
        with warehouse.changes(uri, 2, 3, by=["id"], runner=InProcess(threads=1)) as feed:
            changed = feed.counts
        kept = {version: sorted(holders) for version, holders in warehouse.retained(uri).items()}
        upkeep = warehouse.maintain(home, runner=InProcess(threads=1))
        seen.append(
            [
                *(made, gone, packed and packed.files_removed, again, release, pin.version, changed, kept),
                [(event.version, event.operation, event.rows) for event in warehouse.history(uri)],
                [ids(uri, version) for version in range(Snapshot.open(uri).version + 1)],
                warehouse.sql(home, "select count(*) as n, max(id) as m from t", at="spring").to_pylist(),
                warehouse.read(warehouse.open_at(home, "t", "spring"), ["id"], where="id > 3", verify=True),
                sorted(len(groups) for _, groups in warehouse.units(warehouse.open_at(home, "t", "spring"))),
                sorted((one.table, one.packed, one.removed) for one in upkeep),
                [(one.name, one.rows, one.files) for one in warehouse.tables(home)],
                warehouse.unpin(home, "model:m/1"),
            ]
        )
        warehouse.drop_release(home, "spring")
        assert warehouse.releases(home) == []

    assert seen[0] == seen[1]


def test_a_damaged_or_lost_object_is_no_commit_and_no_answer(uri, store):
    put(uri, [1], "a")
    receipt = file(uri, [2])
    whole = place(uri, receipt["path"]).read_bytes()

    store.put(f"{uri}/{receipt['path']}", whole[:-1])
    with pytest.raises(PartFailed, match="bytes, expected"):
        append(uri, [receipt], key="b", lineage=lineage(), **COLUMNS)
    store.put(f"{uri}/{receipt['path']}", whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(PartFailed, match="not the one that the worker has checked and sealed"):
        append(uri, [receipt], key="b", lineage=lineage(), **COLUMNS)
    place(uri, receipt["path"]).unlink()
    with pytest.raises(PartFailed, match="is gone"):
        append(uri, [receipt], key="b", lineage=lineage(), **COLUMNS)

    [live] = Snapshot.open(uri).files()
    content = place(live.absolute).read_bytes()
    store.put(live.absolute, content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(InputError, match="digest is"):
        Snapshot.open(uri).read(verify=True)


def vacuum_later(uri, **how):
    """Vacuum in eight days."""
    return vacuum(uri, now_s=time.time() + 8 * 24 * 3600, **how)


def test_vacuum_removes_what_nobody_needs_and_keeps_what_is_pinned(root, uri):
    put(uri, [1], "a")
    replace(uri, [file(uri, [2])], key="b", lineage=lineage(), **COLUMNS)
    left = file(uri, [3])
    warehouse.pin(root, "t", 0, holder="model:m/1")

    assert vacuum_later(uri, dry_run=True) == [left["path"]] == vacuum_later(uri)
    assert (ids(uri), ids(uri, 0)) == ([2], [1])
    warehouse.unpin(root, "model:m/1")
    assert len(vacuum_later(uri)) == 1
    assert vacuum_later(uri) == []
    with pytest.raises(PipelineError, match="1 of its files are gone"):
        warehouse.pin(root, "t", 0, holder="model:m/2")
    assert warehouse.pins(root) == []
    assert not list(place(root, "_dlflow", "vacuums", "t").glob("*.json"))


def test_who_pins_while_a_vacuum_removes_on_another_machine_is_seen_or_waits(root, uri, monkeypatch):
    put(uri, [1], "a")
    replace(uri, [file(uri, [2])], key="b", lineage=lineage(), **COLUMNS)
    [old] = [one.path for one in Snapshot.open(uri, 0).files()]
    path = place(root, "_dlflow", "pins", "t", "x-0.json")

    def pinned_meanwhile(name):  # after the notice, before anything is removed
        said = {"table": "t", "version": 0, "holder": "h", "why": "", "who": "w"}
        now = "2026-01-01T00:00:00+00:00"
        if name == "vacuum.after_notice":
            path.parent.mkdir(parents=True, exist_ok=True)
            conditional.put_if_absent(str(path), json.dumps({**said, "since": now, "until": None}).encode())

    monkeypatch.setattr(sys.modules["pipelines.warehouse.vacuum"], "failpoint", pinned_meanwhile)
    assert vacuum_later(uri) == []
    assert ids(uri, 0) == [1]
    path.unlink()

    monkeypatch.setattr(sys.modules["pipelines.warehouse.pins"], "_WAIT_S", 0.3)
    with sweep.noticed(uri, [old]):
        with pytest.raises(PipelineError, match=r"a vacuum removes 1 files of this version, waited 0\.3 s"):
            warehouse.pin(root, "t", 0, holder="h")
        assert warehouse.pin(root, "t", 1, holder="h").version == 1
    assert warehouse.pin(root, "t", 0, holder="h").version == 0


def test_an_old_file_is_made_young_by_its_commit_unless_a_vacuum_has_named_it(uri, monkeypatch):
    put(uri, [1], "a")
    old = file(uri, [2])
    before = place(uri, old["path"]).stat().st_mtime
    time.sleep(1.1)  # the store knows whole seconds
    monkeypatch.setattr(sys.modules["pipelines.warehouse.disk"], "YOUNG_S", 1.0)

    with (
        sweep.noticed(uri, [old["path"]]),
        pytest.raises(PartFailed, match="a vacuum removes this file just now"),
    ):
        append(uri, [old], key="b", lineage=lineage(), **COLUMNS)
    append(uri, [old], key="b", lineage=lineage(), **COLUMNS)

    assert place(uri, old["path"]).stat().st_mtime > before
    assert ids(uri) == [1, 2]


def test_where_a_warehouse_may_be_is_one_rule(tmp_path):
    assert str(root_of("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert root_of("tables", tmp_path) == tmp_path / "tables"
    for url in ("s3://bucket/../x", "s3://B/x", "s3://bucket/a//b", "s3://bucket/a b", "s3://bucket/a?b"):
        with pytest.raises(SpecError, match="expected s3://bucket"):
            root_of(url)
    with pytest.raises(SpecError, match="gs://"):
        root_of("gs://bucket/x")
    assert state_folder(tmp_path, "_dlflow") == tmp_path / "_dlflow"
    assert state_folder(root_of("s3://bucket/a"), "_dlflow", tmp_path) == tmp_path / ".dlflow/bucket/a"


def test_the_settings_of_the_nearest_prefix_count(store):
    other = access.Storage(endpoint="http://other:1", key="a", secret="b")
    access.mount("s3://b/x", store.storage)
    access.mount("s3://b/x/y", other)
    try:
        assert access.storage_of("s3://b/x/z/1") == store.storage
        assert access.storage_of("s3://b/x/y/1") == other
        with access.using(other):
            assert access.storage_of("s3://c/1") == other
            assert access.storage_of("s3://b/x") == store.storage
        assert "s3cr3t" not in repr(access.carried(len))
    finally:
        access._mounted.pop("s3://b/x")
        access._mounted.pop("s3://b/x/y")
