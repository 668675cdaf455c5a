"""contract = "evolve": a table grows with the columns of its files, whatever the kind, and however it is loaded."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import CommitConflict
from pipelines.replay import replay
from tests import projects
from tests.test_loads import Shop

FILE = """
[sources.orders]
kind = "{policy}"
path = "data/*"
contract = "evolve"
columns = {{ id = "int64", price = {{ type = "float64", range = [0, 100] }} }}
[tables.orders]
source = "orders"
{more}
"""
KINDS = ("csv", "jsonl", "parquet", "arrow")
OLD = [{"id": 1, "price": 5.0}, {"id": 2, "price": 500.0}]
NEW = [{"id": 3, "price": 7.0, "note": "007"}, {"id": 4, "price": None, "note": None}]


def written(shop, kind, name, rows):
    """A file of this kind."""
    path = shop.folder / "data" / f"{name}.{kind}"
    names = list(dict.fromkeys(name for row in rows for name in row))
    match kind:
        case "csv":
            lines = [",".join("" if row.get(one) is None else str(row[one]) for one in names) for row in rows]
            path.write_text("\n".join([",".join(names), *lines]) + "\n")
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "arrow":
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)


def made(tmp_path, kind="csv", more='load = "append"'):
    shop = Shop(tmp_path / "shop", kind, more, text=FILE)
    written(shop, kind, "a", OLD)
    shop.run()
    return shop


def rows(shop, version=None):
    found = warehouse.Snapshot.open(shop.uri, version).read().to_pylist()
    return sorted(found, key=lambda row: row["id"])


def run_in_a_process(shop, **environment):
    """The exit code of a run in a process of its own."""
    program = "import sys; from tests.chaos.load_machine import run; run(sys.argv[1], 1)"
    command = [sys.executable, "-c", program, str(shop.folder)]
    environment = {**os.environ, "PYTHONPATH": str(projects.REPOSITORY), **environment}
    return subprocess.run(command, env=environment, timeout=120, check=False).returncode


def again(shop):
    return replay(shop.plan().tables["orders"], InProcess(), run="again")


GROWN = [
    {"id": 1, "price": 5.0, "note": None},
    {"id": 3, "price": 7.0, "note": "007"},
    {"id": 4, "price": None, "note": None},
]


@pytest.mark.parametrize(
    ("kind", "load"), [*((kind, "append") for kind in KINDS), ("csv", "replace"), ("jsonl", "replace")]
)
def test_a_new_column_of_a_new_file_is_in_the_table_and_null_in_the_rows_of_the_old(tmp_path, kind, load):
    shop = made(tmp_path, kind, f'load = "{load}"')
    before = {file.path for file in warehouse.Snapshot.open(shop.uri).files()}
    written(shop, kind, "b", NEW)

    assert any("+ note string" in why for why in shop.why)
    built = shop.run()

    assert rows(shop) == GROWN
    assert built.version == 1
    assert rows(shop, 0) == [{"id": 1, "price": 5.0}]
    after = {file.path for file in warehouse.Snapshot.open(shop.uri).files()}
    assert (before <= after) == (load == "append")  # no old file is written again for it
    assert shop.plan().nothing_to_do


def test_a_table_that_is_changed_by_key_grows_too(tmp_path):
    shop = made(tmp_path, more='load = "upsert"\nkey = ["id"]')
    written(shop, "csv", "b", [{"id": 1, "price": 6.0, "note": "x"}, {"id": 3, "price": 7.0, "note": "007"}])
    (shop.folder / "data" / "a.csv").unlink()

    shop.run()

    assert rows(shop) == [{"id": 1, "price": 6.0, "note": "x"}, {"id": 3, "price": 7.0, "note": "007"}]
    assert rows(shop, 0) == [{"id": 1, "price": 5.0}]


def test_the_log_of_a_table_that_has_grown_is_read_by_other_programs_as_ever(tmp_path):
    shop = made(
        tmp_path, more='load = "append"\nsteps = [{ do = "derive", columns = { double = "price * 2" } }]'
    )
    written(shop, "csv", "b", NEW)
    shop.run()
    root = str(shop.folder / "warehouse")

    found = warehouse.sql(root, "select id, note, double from orders order by id").to_pylist()

    assert found == [
        {"id": 1, "note": None, "double": 10.0},
        {"id": 3, "note": "007", "double": 14.0},
        {"id": 4, "note": None, "double": None},
    ]
    assert warehouse.Snapshot.open(shop.uri).schema.names == ["id", "price", "double", "note"]
    event = warehouse.history(shop.uri)[0]
    assert (event.operation, event.record["why"][1]) == (
        "load",
        "source orders: new columns:\n  + note string",
    )
    actions = {kind for kind, _ in warehouse.log.actions(shop.uri, 1)}
    assert {"metaData", "add", "txn", "commitInfo"} == actions


def test_a_column_that_came_stays_when_later_files_lack_it_and_old_ones_are_gone(tmp_path):
    shop = made(tmp_path)
    shop.declare(
        "csv", 'load = "append"', **{'contract = "evolve"': 'contract = "evolve"\non_change = "ignore"'}
    )
    written(shop, "csv", "b", NEW)
    shop.run()
    (shop.folder / "data" / "b.csv").unlink()
    written(shop, "csv", "c", [{"id": 9, "price": 9.0}])

    shop.run()

    assert rows(shop) == [*GROWN, {"id": 9, "price": 9.0, "note": None}]
    assert shop.plan().nothing_to_do


@pytest.mark.parametrize("kind", ["csv", *(pytest.param(one, marks=pytest.mark.slow) for one in KINDS[1:])])
def test_quarantine_replay_and_reload_go_on_across_it(tmp_path, kind):
    shop = made(tmp_path, kind)
    written(shop, kind, "b", [*NEW, {"id": 5, "price": 200.0, "note": "x"}])
    shop.run()
    assert [one[:2] for one in shop.rejects] == [
        (f"a.{kind}", 2 + (kind == "csv")),
        (f"b.{kind}", 3 + (kind == "csv")),
    ]
    limits = {"[0, 100]": "[0, 900]", 'contract = "evolve"': 'contract = "evolve"\non_change = "reload"'}
    shop.declare(kind, 'load = "append"', **limits)

    done = again(shop)

    assert (done.moved, done.stay, shop.rejects) == (2, 0, [])
    assert {row["id"]: row["note"] for row in rows(shop)} == {1: None, 2: None, 3: "007", 4: None, 5: "x"}
    assert shop.plan().nothing_to_do
    written(shop, kind, "b", [{"id": 6, "price": 6.0, "more": "y"}])
    shop.run()
    assert rows(shop) == [
        {"id": 1, "price": 5.0, "note": None, "more": None},
        {"id": 2, "price": 500.0, "note": None, "more": None},
        {"id": 6, "price": 6.0, "note": None, "more": "y"},
    ]


def test_a_release_made_before_shows_the_columns_of_then(tmp_path):
    shop = made(tmp_path)
    root = str(shop.folder / "warehouse")
    warehouse.make_release(root, "spring")
    written(shop, "csv", "b", NEW)
    shop.run()

    old = warehouse.open_release(root, "spring")["orders"]

    assert old.read().to_pylist() == [{"id": 1, "price": 5.0}]
    warehouse.compact(shop.uri, lineage=warehouse.Lineage(run="x"), runner=InProcess(), by=["id"])
    assert rows(shop) == GROWN


def test_json_of_any_type_comes_in_as_text_as_it_stands_and_keys_of_flattened_objects_too(tmp_path):
    shop = Shop(tmp_path / "shop", "jsonl", 'load = "append"', text=FILE)
    shop.declare(
        "jsonl",
        'load = "append"',
        **{
            "price = { type": 'city = "string", price = { type',
            "[tables": 'flatten = { city = "at.city" }\n[tables',
        },
    )
    lines = [
        '{"id": 1, "n": 1.50, "at": {"city": "x"}}',
        '{"id": 2, "n": "a", "at": {"city": "y", "zip": 12345678901234567890}}',
        "no json",
        '{"id": 3, "n": true, "o": {"a": [1.0, null, "é"]}}',
    ]
    (shop.folder / "data" / "a.jsonl").write_text("\n".join(lines))

    shop.run()

    assert [(row["n"], row["at_zip"], row["o"]) for row in rows(shop)] == [
        ("1.50", None, None),
        ("a", "12345678901234567890", None),
        ("true", None, '{"a": [1.0, null, "é"]}'),
    ]
    assert [one[1] for one in shop.rejects] == [3]


@pytest.mark.parametrize("load", ["append", "replace"])
def test_a_column_that_comes_to_a_database_is_in_the_table(tmp_path, load):
    cursor = 'cursor = "id"\nkey = "id"' if load == "append" else ""
    text = FILE.replace('path = "data/*"', f'path = "shop.db"\ntable = "orders"\n{cursor}')
    text = text.replace('id = "int64"', 'id = {{ type = "int64", nullable = false }}')
    shop = Shop(tmp_path / "shop", "sqlite", f'load = "{load}"', text=text)
    with closing(sqlite3.connect(shop.folder / "shop.db")) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price REAL)")
        database.execute("INSERT INTO orders VALUES (1, 5.0)")
        database.commit()
        shop.run()
        database.execute("ALTER TABLE orders ADD COLUMN note VARCHAR(9)")
        database.execute("ALTER TABLE orders ADD COLUMN size")
        database.execute("INSERT INTO orders VALUES (2, 7.0, 'x', 3)")
        database.commit()

        shop.run()

        assert rows(shop) == [
            {"id": 1, "price": 5.0, "note": None, "size": None},
            {"id": 2, "price": 7.0, "note": "x", "size": 3},
        ]
        database.execute("ALTER TABLE orders DROP COLUMN size")
        database.execute("INSERT INTO orders VALUES (3, 8.0, 'y')")
        database.commit()
    if load == "append":
        shop.run()
        assert rows(shop)[-1] == {"id": 3, "price": 8.0, "note": "y", "size": None}


def test_a_plan_that_a_run_with_other_columns_has_overtaken_is_refused_and_one_with_the_same_goes_on(
    tmp_path,
):
    shop = made(tmp_path)
    written(shop, "csv", "b", NEW)
    stale = shop.plan()
    shop.run()
    assert shop.run(stale).already
    written(shop, "csv", "c", [{"id": 9, "price": 9.0, "other": "x"}])
    stale = shop.plan()
    (shop.folder / "data" / "c.csv").rename(shop.folder / "c.csv")
    written(shop, "csv", "d", [{"id": 8, "price": 8.0, "third": "x"}])
    shop.run()
    (shop.folder / "c.csv").rename(shop.folder / "data" / "c.csv")

    with pytest.raises(
        CommitConflict, match="another run has loaded files with other columns meanwhile; run again"
    ):
        shop.run(stale)

    shop.run()
    assert {row["id"]: (row["other"], row["third"]) for row in rows(shop)} == {
        1: (None, None), 3: (None, None), 4: (None, None), 8: (None, "x"), 9: ("x", None),
    }  # fmt: skip


@pytest.mark.parametrize(
    "place",
    [
        "commit.before_log",
        pytest.param("commit.before_sync", marks=pytest.mark.chaos),
        pytest.param("load.after_manifest", marks=pytest.mark.chaos),
    ],
)
def test_a_load_that_dies_while_the_table_grows_is_done_once_by_the_next(tmp_path, place):
    shop = made(tmp_path)
    written(shop, "csv", "b", NEW)

    killed = run_in_a_process(shop, DLFLOW_FAILPOINTS=f"{place}=kill")
    between = rows(shop)
    shop.run()

    assert killed == -signal.SIGKILL
    assert between in ([{"id": 1, "price": 5.0}], rows(shop))
    assert rows(shop) == GROWN


def test_a_step_may_make_its_own_column_of_the_name(tmp_path):
    shop = made(tmp_path, more='load = "append"\nsteps = [{ do = "derive", columns = { note = "price" } }]')
    written(shop, "csv", "b", NEW)

    assert shop.run().version == 1  # the step makes its own column of this name
    assert [row["note"] for row in rows(shop)] == [5.0, 7.0, None]
