"""A pipeline from the command line with its sources, its tables and its training rows in an object store."""

import json
import re

import pytest

from pipelines import access
from pipelines.warehouse import Snapshot
from tests.projects import command, make


@pytest.fixture
def project(tmp_path, store, bucket):
    """The example project; its orders and its warehouse are in a bucket."""
    folder = make(tmp_path / "shop", rows=600)
    file = folder / "pipeline.toml"
    text = file.read_text("utf-8")
    for one in sorted((folder / "data").glob("orders-*.csv")):
        store.put(f"s3://{bucket}/in/{one.name}", one.read_bytes())
        one.unlink()
    text = re.sub(r'path = "\{data\}/orders-\*\.csv"', f'path = "s3://{bucket}/in/orders-*.csv"', text)
    text = re.sub(r'(?m)^warehouse = ".*"', f'warehouse = "s3://{bucket}/tables"', text)
    text += f'\n[storage]\nendpoint = "{store.endpoint}"\n'
    text += 'key = "${STORE_KEY}"\nsecret = "${STORE_SECRET}"\n'
    file.write_text(text, "utf-8")
    return folder


def weights(home):
    """The digest of the weights of the one model."""
    [file] = (home / "models").glob("*/1/model.json")
    return json.loads(file.read_text("utf-8"))["metadata"]["record"]["weights_sha256"]


def said(done):
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline_runs_with_its_warehouse_in_a_store(project, store, bucket, tmp_path):
    secrets = {"STORE_KEY": store.storage.key, "STORE_SECRET": store.storage.secret}

    def dlflow(*arguments):
        return said(command(project, *arguments, **secrets))

    dlflow("run", "--workers", "2")
    tables = json.loads(dlflow("tables", "--json"))
    counted = json.loads(dlflow("sql", "select count(*) as n from orders", "--format", "json"))
    models = json.loads(dlflow("models", "--json"))

    local = make(tmp_path / "local", rows=600)
    said(command(local, "run", "--workers", "0"))
    expected = json.loads(said(command(local, "tables", "--json")))
    there = {one["name"]: one["rows"] for one in tables}
    assert there == {one["name"]: one["rows"] for one in expected}
    assert counted == [{"n": there["orders"]}]
    home = project / ".dlflow" / bucket / "tables"
    assert [one["version"] for one in models] == [1]
    assert weights(home) == weights(local / "warehouse" / "_dlflow")
    assert "nothing to do" in dlflow("run").lower() or "up to date" in dlflow("run").lower()

    dlflow("release", "first")
    assert [one["name"] for one in json.loads(dlflow("releases", "--json"))] == ["first"]
    assert json.loads(dlflow("history", "orders", "--json"))[0]["version"] == 0
    dlflow("restore", "orders", "0")
    dlflow("maintain")
    dlflow("export", "orders", "--to", "orders.parquet", "--at", "first")
    access.mount(f"s3://{bucket}/tables", store.storage)
    assert Snapshot.open(f"s3://{bucket}/tables/orders").rows == there["orders"]
    assert not (project / "warehouse").exists()
    text = "".join(path.read_text("utf-8", "replace") for path in project.rglob("*") if path.is_file())
    assert store.storage.secret not in text
