"""The commands that keep a warehouse, as a person types them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dlflow import registry
from dlflow.nn import Dense
from dlflow.nn.model import Model
from flows.cli import cli
from flows.upkeep import pin_models
from pipelines.warehouse import Snapshot, append, pins, write_file
from tests.warehouse_tables import lineage

SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


@pytest.fixture
def root(tmp_path):
    for number, name in enumerate("ab"):
        put(tmp_path, [(number, name)])
    return tmp_path


def put(root, rows):
    uri = f"{root}/trips"
    table = pa.table([[row[0] for row in rows], [row[1] for row in rows]], schema=SCHEMA)
    receipt = write_file(uri, table, partition={}, schema=SCHEMA)
    append(uri, [receipt], key=repr(rows), schema=SCHEMA, lineage=lineage())


def dlflow(root, *words, code=0):
    """What `dlflow WORDS --warehouse ROOT` prints."""
    done = CliRunner().invoke(cli, [*words, "--warehouse", str(root)])
    assert done.exit_code == code, done.output + done.stderr
    return done.stdout if code == 0 else " ".join(done.stderr.split())  # it is wrapped


def test_changes_are_shown_by_key(root):
    assert dlflow(root, "changes", "trips", "--by", "id", "--since", "0", "--format", "csv") == (
        "_change,id,name\nadded,1,b\n"
    )
    assert "did you mean 'id'" in dlflow(root, "changes", "trips", "--by", "idd", "--since", "0", code=2)


def test_a_version_is_restored_and_the_history_says_so(root):
    assert dlflow(root, "restore", "trips", "0") == "trips: version 2 has the content of version 0\n"

    newest = json.loads(dlflow(root, "history", "trips", "--json"))[0]
    assert (newest["operation"], newest["changed"], newest["why"]) == (
        "restore",
        {"restored": 0},
        ["restore 0"],
    )
    assert dlflow(root, "sql", "select count(*) as n from trips", "--format", "csv") == "n\n1\n"
    assert (
        dlflow(root, "sql", "select count(*) as n from trips", "--version", "trips=1", "--format", "csv")
        == "n\n2\n"
    )


def test_a_release_is_made_read_listed_and_dropped(root):
    assert dlflow(root, "release", "spring", "--note", "first") == "release spring: trips 1\n"
    put(root, [(2, "c")])

    assert json.loads(dlflow(root, "releases", "--json"))[0]["tables"] == {"trips": 1}
    assert dlflow(root, "sql", "select count(*) as n from trips", "--at", "spring", "--format", "json") == (
        '[\n {\n  "n": 2\n }\n]\n'
    )
    assert "release:spring" in dlflow(root, "pins")
    assert "is dropped" in dlflow(root, "release", "spring", "--drop")
    assert dlflow(root, "pins") == ""
    assert "no release 'spring'" in dlflow(root, "sql", "select 1 from trips", "--at", "spring", code=2)


def test_an_answer_goes_to_a_file_of_any_format(root, tmp_path):
    answer = "select id, name from trips order by id"

    for form in ("csv", "json", "table", "parquet"):
        dlflow(root, "sql", answer, "--format", form, "--output", str(tmp_path / f"answer.{form}"))

    assert (tmp_path / "answer.csv").read_text() == "id,name\n0,a\n1,b\n"
    assert json.loads((tmp_path / "answer.json").read_text())[1] == {"id": 1, "name": "b"}
    assert (tmp_path / "answer.table").read_text() == "id  name\n 0  a\n 1  b\n"
    assert pq.read_table(tmp_path / "answer.parquet").to_pylist()[0] == {"id": 0, "name": "a"}
    assert "add --output FILE" in dlflow(root, "sql", answer, "--format", "parquet", code=2)
    assert "expected a whole number" in dlflow(root, "sql", answer, "--version", "trips=x", code=2)


def test_maintenance_tells_what_it_did(root):
    done = json.loads(dlflow(root, "maintain", "trips", "--sort", "trips=name,id", "--json"))

    assert [(one["table"], one["before"]["files"], one["after"]["files"]) for one in done] == [
        ("trips", 2, 1)
    ]
    assert "2 -> 1" not in dlflow(root, "maintain")
    assert "did you mean 'trips'" in dlflow(root, "maintain", "trip", code=2)


def test_models_pin_what_they_were_trained_on_as_long_as_they_are_registered(root):
    import shutil

    layers, folder = [Dense(1)], root / "_dlflow" / "models"
    weights = Model(layers, (2,)).w
    registry.save_version(
        folder,
        "returns",
        weights=weights,
        layers=layers,
        in_shape=(2,),
        metadata={"lineage": {"table": "trips", "version": 0}},
    )
    pin_models(root)

    assert [(one.holder, one.table, one.version) for one in pins(str(root))] == [
        ("model:returns/1", "trips", 0)
    ]
    pin_models(root)
    assert "model:returns/1" in dlflow(root, "pins")
    shutil.rmtree(folder / "returns")
    assert dlflow(root, "pins") == ""
    assert Snapshot.open(f"{root}/trips").version == 1
