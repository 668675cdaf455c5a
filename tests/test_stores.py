"""Object stores: sources read objects as they read files; what is wrong with a store is one sentence; a changed object fails the run."""

import gzip
import socket
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import sources, stores, warehouse
from pipelines.errors import InputError, NoInput, PartFailed, SourceChanged, SpecError
from pipelines.stores import Storage
from tests import projects
from tests.sources_reading import declared, values, write
from tests.stores import KEY, SECRET, store_server

COLUMNS = {"id": "int32", "name": "string"}


def text(first, last):
    return "id,name\n" + "".join(f'{i},"n\n{i}"\n' for i in range(first, last))


@pytest.fixture
def shop(store, bucket):
    """Puts objects into a bucket, and reads them."""
    return Shop(store, bucket)


class Shop:
    def __init__(self, store, bucket):
        self.store, self.bucket = store, bucket

    def put(self, key, content):
        return self.store.put(f"s3://{self.bucket}/{key}", content)

    def source(self, path, columns=COLUMNS, **more):
        more = {"kind": "csv", "storage": self.store.storage, **more}
        return declared(columns, path=path if "://" in path else f"s3://{self.bucket}/{path}", **more)

    def read(self, path, **more):
        source = self.source(path, **more)
        return [
            sources.read(source, part)
            for number, file in enumerate(sources.files(source))
            for part in sources.cut(source, file, number)
        ]


def together(made):
    return [row for one in made for row in values(one)]


def test_an_object_is_read_as_a_file_is_for_every_cut(shop, tmp_path):
    content = text(0, 500) + "x,y\n"
    url, path = shop.put("in/a.csv", content), write(tmp_path / "a.csv", content)

    for size in (300, 1 << 20):
        remote = shop.read(url, part_bytes=size)
        source = declared(COLUMNS, kind="csv", path=str(path), part_bytes=size)
        local = [sources.read(source, part) for part in sources.cut(source, sources.files(source)[0], 0)]

        assert [one.kept for one in remote] == [one.kept for one in local]
        assert [one.rejected for one in remote] == [one.rejected for one in local]
        assert len(remote) > 10 or size > 300


def test_prefixes_and_globs_give_the_objects_that_a_folder_would(shop):
    for key in (
        "in/b.csv",
        "in/a.csv",
        "in/_a.csv",
        "in/a.txt",
        "in/a.json",
        "in/deep/c.csv",
        "in/deep/er/d.csv",
    ):
        shop.put(key, text(0, 1))

    def found(path):
        return [file.path.removeprefix(f"s3://{shop.bucket}/") for file in sources.files(shop.source(path))]

    assert found("in") == found("in/") == ["in/a.csv", "in/a.txt", "in/b.csv"]
    assert found("in/a.csv") == ["in/a.csv"]
    assert found("in/?.csv") == found("in/[a-c].csv") == ["in/a.csv", "in/b.csv"]
    assert found("in/[!a].csv") == ["in/b.csv"]
    assert found("in/*/c.csv") == ["in/deep/c.csv"]
    assert found("**/[cd].csv") == ["in/deep/c.csv", "in/deep/er/d.csv"]


def test_packed_objects_and_json_lines_are_read(shop):
    url = shop.put("a.csv.gz", gzip.compress(text(0, 300).encode()))
    assert together(shop.read(url)) == [(i, f"n\n{i}") for i in range(300)]

    url = shop.put("a.jsonl", "".join(f'{{"id": {i}, "name": "x"}}\n' for i in range(300)) + "{\n")
    made = shop.read(url, kind="jsonl", part_bytes=100)
    assert together(made) == [(i, "x") for i in range(300)]
    [rejected] = [one.rejected for one in made if one.rejected is not None]
    assert rejected["_line"].to_pylist() == [301]


def test_a_quote_that_is_never_closed_is_found_in_an_object_too(shop):
    url = shop.put("a.csv", text(0, 3) + '3,"open\n')

    with pytest.raises(InputError, match=rf"^{url}:8: a quote is opened here and never closed"):
        shop.read(url)


def test_an_object_is_known_by_its_etag_and_not_read_for_it(shop):
    url = shop.put("a.csv", text(0, 3))
    [file] = sources.files(shop.source(url))
    shop.put("a.csv", text(0, 3))
    [again] = sources.files(shop.source(url))
    shop.put("a.csv", text(1, 4))
    [changed] = sources.files(shop.source(url))

    assert file.sha256 == f"etag:{file.state}:{file.size}" == again.sha256
    assert changed.size == file.size
    assert changed.sha256 != file.sha256


@pytest.mark.parametrize("moment", ["before the cut", "before the read", "during the read"])
def test_an_object_that_changes_fails_the_run_by_name(shop, moment, monkeypatch):
    url = shop.put("a.csv", text(0, 3))
    source = shop.source(url)
    [file] = sources.files(source)
    changed = pytest.raises(
        SourceChanged,
        match=rf"^{url}: changed since the run was planned \(\d+ bytes then, \d+ now\); run again",
    )

    if moment == "before the cut":
        shop.put("a.csv", text(1, 4))
        with changed:
            sources.cut(source, file, 0)
        return
    [part] = sources.cut(source, file, 0)
    if moment == "before the read":
        shop.put("a.csv", text(0, 2))
    else:
        opened = stores.opened

        def late(path):
            there = opened(path)
            shop.put("a.csv", text(0, 2))
            return there

        monkeypatch.setattr(stores, "opened", late)
    with changed:
        sources.read(source, part)


def test_an_object_that_is_gone_fails_the_run_by_name(shop):
    url = shop.put("a.csv", text(0, 3))
    source = shop.source(url)
    [file] = sources.files(source)
    shop.store.files().delete_file(url[5:])

    with pytest.raises(
        SourceChanged, match=rf"^{url}: is gone since the run was planned; bring it back or run again$"
    ):
        sources.cut(source, file, 0)


def test_a_store_that_has_nothing_of_the_kind_says_what_it_has(shop):
    shop.put("in/a.csv", "x")
    shop.put("in/deep/b.csv", "x")
    there = rf"s3://{shop.bucket}/in has a.csv, deep/$"

    with pytest.raises(NoInput, match=rf"in/b.csv: no input; expected an object of this name; {there}"):
        shop.read("in/b.csv")
    with pytest.raises(NoInput, match=rf"in/\*.json: no input; expected an object of this name; {there}"):
        shop.read("in/*.json")
    with pytest.raises(
        NoInput, match=rf"in: no input; expected an object that ends in .jsonl, .ndjson; {there}"
    ):
        shop.read("in", kind="jsonl")
    for path in ("s3://nowhere/a.csv", "s3://nowhere/*.csv", "s3://nowhere"):
        with pytest.raises(InputError) as caught:
            shop.read(path)
        assert str(caught.value) == (
            f"{path}: there is no bucket 'nowhere' at {shop.store.endpoint}; correct path, or endpoint in [storage]"
        )
    with pytest.raises(InputError, match=r"^s3://: there is no bucket in it; expected s3://bucket/key$"):
        shop.read("s3://")


def test_a_store_that_refuses_or_is_not_there_is_one_sentence(shop):
    url = shop.put("a.csv", "x")
    with store_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict, pytest.raises(InputError) as caught:
        shop.read(url, storage=strict.storage)
    assert str(caught.value) == (
        f"{url}: {strict.endpoint} refuses these credentials or their rights (ACCESS_DENIED); correct key and secret in "
        "[storage] or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or set anonymous = true for a public bucket"
    )
    with pytest.raises(PartFailed) as caught:
        shop.read(url, storage=strict.storage)
    assert str(caught.value) == (
        f"{url}: {strict.endpoint} cannot be reached: Could not connect to server; check endpoint in [storage], and that "
        "the store runs"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        storage = Storage(
            endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}",
            key="k",
            secret="s",
            region="r",
            request_s=1,
            attempts=1,
        )
        with pytest.raises(PartFailed, match="cannot be reached: Timeout was reached; check endpoint"):
            shop.read(url, storage=storage)


def test_settings_are_checked_and_secrets_not_shown():
    with pytest.raises(SpecError) as caught:
        Storage(key="a", anonymous=True, endpoint="me:pw@host", connect_s=0)
    assert str(caught.value).split("\n") == [
        "key and secret belong together; give both or none",
        "anonymous contradicts key and secret; leave out one of them",
        'endpoint is no address; expected "https://host:port" without user, password or path',
        "connect_s = 0: expected 0.1 to 600",
    ]
    storage = Storage(key=KEY, secret=SECRET, token="t0ken", endpoint="http://h:1")
    assert not any(one in repr(storage) for one in (KEY, SECRET, "t0ken"))
    with pytest.raises(
        SpecError,
        match=r"^path begins with gs://, which is not read; expected a local path or s3://bucket/key$",
    ):
        declared(COLUMNS, kind="csv", path="gs://b/a.csv")
    with pytest.raises(
        SpecError, match=r"^path is an object of a store, and a sqlite source reads files of this machine"
    ):
        declared(COLUMNS, kind="sqlite", path="s3://b/a.db", table="t")


def test_what_is_not_said_is_asked_of_the_environment(monkeypatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ENDPOINT_URL": "http://e:1", "ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)

    assert Storage().complete() == Storage(endpoint="http://e:1", region="us-east-1", key="k", secret="s")
    assert Storage(endpoint="https://f", key="a", secret="b").complete().key == "a"
    assert Storage(anonymous=True).complete().key is None
    assert Storage().complete().options() == {
        "AWS_ENDPOINT_URL": "http://e:1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ALLOW_HTTP": "true",
        "connect_timeout": "5s",
        "timeout": "30s",
    }


def test_deltalake_takes_the_same_settings(store, bucket):
    from deltalake import DeltaTable, write_deltalake

    options = store.storage.complete().options()
    write_deltalake(f"s3://{bucket}/t", pa.table({"a": [1]}), storage_options=options)

    assert DeltaTable(f"s3://{bucket}/t", storage_options=options).version() == 0


PIPELINE = """
name = "shop"
[storage]
endpoint = "${STORE}"
key = "${STORE_KEY}"
secret = "${STORE_SECRET}"
[params]
bucket = "none"
[sources.people]
kind = "csv"
path = "s3://{bucket}/in/*.csv"
part_bytes = 2000
[sources.people.columns]
id = "int32"
name = "string"
[tables.people]
source = "people"
"""


def test_a_pipeline_reads_a_store_on_workers_and_its_secret_is_nowhere(shop, tmp_path):
    for number in range(3):
        shop.put(f"in/{number}.csv", text(number * 1000, number * 1000 + 1000) + "bad,row\n")
    (tmp_path / "pipeline.toml").write_text(PIPELINE.replace("none", shop.bucket))
    secrets = {"STORE": shop.store.endpoint, "STORE_KEY": KEY, "STORE_SECRET": SECRET}

    first = projects.command(tmp_path, "run", "--workers", "2", **secrets)
    again = projects.command(tmp_path, "run", "--workers", "0", **secrets)
    shop.put("in/1.csv", text(0, 1))
    plan = projects.command(tmp_path, "plan", **secrets)

    assert first.returncode == 0, first.stderr
    answer = warehouse.sql(str(tmp_path / "warehouse"), "select count(*) as n, sum(id) as s from people")
    assert answer.to_pylist() == [{"n": 3000, "s": 2999 * 3000 // 2}]
    rejected = warehouse.read_quarantine(str(tmp_path / "warehouse" / "people")).to_pylist()
    assert sorted((one["source"], one["line"]) for one in rejected) == [
        (f"s3://{shop.bucket}/in/{number}.csv", 2002) for number in range(3)
    ]
    assert "nothing to do" in again.stderr + again.stdout
    assert "why: source people: changed: 1.csv" in plan.stdout
    said = "".join(one.stdout + one.stderr for one in (first, again, plan))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (KEY, SECRET, urllib.parse.quote(SECRET, safe="")):
        assert secret not in said
        assert secret.encode() not in kept


def test_every_kind_of_file_is_read_from_a_store(shop, tmp_path):
    table = pa.table({"id": pa.array(range(1000), pa.int32()), "name": [f"n{i}" for i in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table, 100)
    (tmp_path / "a.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
    for kind, name, columns in (
        ("parquet", "a.parquet", COLUMNS),
        ("arrow", "a.arrow", COLUMNS),
        ("text", "a.txt", {"text": "string"}),
    ):
        url = shop.put(f"all/{name}", (tmp_path / name).read_bytes())
        local = declared(columns, kind=kind, path=str(tmp_path / name), part_bytes=2000)
        [file] = sources.files(local)
        wanted = [sources.read(local, part).kept for part in sources.cut(local, file, 0)]

        made = shop.read(url, columns=columns, kind=kind, part_bytes=2000)

        assert [one.kept for one in made] == wanted
        assert len(wanted) > 1


def test_rows_of_a_store_that_were_set_aside_are_read_again(shop, tmp_path):
    """And a table that takes in new objects alone takes each once; one of them is packed."""
    text_ = PIPELINE.replace("none", shop.bucket).replace("*.csv", "*") + 'load = "append"\n'
    limited = text_.replace('id = "int32"', 'id = { type = "int32", range = [0, 10] }')
    secrets = {"STORE": shop.store.endpoint, "STORE_KEY": KEY, "STORE_SECRET": SECRET}
    shop.put("in/a.csv", "id,name\n1,x\n100,y\nbad,z\n")
    (tmp_path / "pipeline.toml").write_text(limited)
    assert projects.command(tmp_path, "run", "--workers", "0", **secrets).returncode == 0
    shop.put("in/b.csv.gz", gzip.compress(b"id,name\n2,x\n200,y\n"))
    loaded = projects.command(tmp_path, "run", "--workers", "0", **secrets)
    assert loaded.returncode == 0, loaded.stderr

    (tmp_path / "pipeline.toml").write_text(text_)
    replayed = projects.command(tmp_path, "replay", "people", **secrets)

    assert "people: 3 rows read again: 2 moved into the table, 1 stay" in replayed.stdout, replayed.stderr
    answer = warehouse.sql(str(tmp_path / "warehouse"), "select id from people order by id")
    assert answer["id"].to_pylist() == [1, 2, 100, 200]
