"""Rows come back from the quarantine when the rule or the schema that they broke was mended."""

import json
import re
import signal
import sqlite3
from contextlib import closing

import pytest

from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import SpecError
from pipelines.replay import replay
from tests import projects
from tests.test_loads import Shop

WHOLE = """
[sources.orders]
kind = "csv"
path = "data/*.csv"
columns = {{ id = "int64", price = {{ type = "float64", range = [0, 100] }} }}

[tables.orders]
source = "orders"
{more}
"""


@pytest.fixture(params=["append", "replace"])
def shop(request, tmp_path):
    text = WHOLE if request.param == "replace" else WHOLE.replace("{more}", 'load = "append"\n{more}')
    made = Shop(tmp_path / "shop", text=text)
    made.file("a.csv", "1,5", "2,x", '3,"20\n0"', "4,150", "5,7")
    made.file("b.csv", "6,150", "7,1000")
    made.run()
    return made


def again(shop):
    return replay(shop.plan().tables["orders"], InProcess(), run="again")


def ledger(shop):
    """Sums of the ledger over the history of the table: read, in the table by the last step, set aside."""
    total = {"read": 0, "quarantined": 0}
    for event in warehouse.history(shop.uri):
        for entry in event.record["ledger"]:
            total["read"] += entry["rows_in"] * (entry["step"] in {"read", "replay", "unload"})
            total["quarantined"] += entry["quarantined"]
    return total


def test_rows_that_fit_now_come_in_and_the_others_stay_with_the_reason_of_now(shop):
    shop.declare(**{"[0, 100]": "[0, 200]"})

    done = again(shop)

    assert (done.read, done.moved, done.stay, done.version) == (5, 2, 3, 1)
    assert shop.ids == [1, 4, 5, 6]
    assert [row[:2] for row in shop.rejects] == [("a.csv", 3), ("a.csv", 4), ("b.csv", 3)]
    assert ledger(shop) == {"read": 7, "quarantined": 3}
    assert shop.plan().nothing_to_do


def test_the_ledger_closes_to_zero_when_all_rows_fit(shop):
    shop.declare(**{'"float64", range = [0, 100]': '"float64", null = ["x", "20\\n0"], range = [0, 9999]'})

    done = again(shop)

    assert (done.moved, done.stay, shop.rejects) == (5, 0, [])
    assert shop.ids == [1, 2, 3, 4, 5, 6, 7]
    assert ledger(shop) == {"read": 7, "quarantined": 0}


def test_replaying_once_more_moves_nothing_twice(shop):
    shop.declare(**{"[0, 100]": "[0, 200]"})
    again(shop)

    done = again(shop)

    assert (done.read, done.moved, done.version) == (3, 0, None)
    assert shop.ids == [1, 4, 5, 6]


def test_a_replay_in_steps_ends_where_one_replay_ends(shop):
    for most in (200, 2000):
        shop.declare(**{"[0, 100]": f"[0, {most}]"})
        again(shop)

    assert shop.ids == [1, 4, 5, 6, 7]
    assert ledger(shop) == {"read": 7, "quarantined": 2}


def test_rows_of_a_file_that_changed_stay_and_are_named(shop):
    shop.declare(**{"[0, 100]": "[0, 200]"})
    path = shop.folder / "data" / "b.csv"
    path.write_text(path.read_text().replace("150", "151"))

    done = again(shop)

    assert (done.read, done.moved) == (3, 1)
    assert done.skipped == {f"{path}: changed since, or is gone": 2}
    assert [row[:2] for row in shop.rejects] == [("a.csv", 3), ("a.csv", 4), ("b.csv", 2), ("b.csv", 3)]


def test_rows_of_a_file_that_is_restored_come_in_later(shop):
    path = shop.folder / "data" / "b.csv"
    text = path.read_text()
    path.write_text(text.replace("150", "151"))
    shop.declare(**{"[0, 100]": "[0, 200]"})
    again(shop)
    path.write_text(text)

    done = again(shop)

    assert (done.moved, shop.ids) == (1, [1, 4, 5, 6])
    assert [row[:2] for row in shop.rejects] == [("a.csv", 3), ("a.csv", 4), ("b.csv", 3)]
    assert ledger(shop) == {"read": 7, "quarantined": 3}


def test_a_rule_of_a_step_is_replayed_too(shop):
    shop.declare(more='steps = [{ do = "quarantine", where = "id < 6", rule = "old" }]')
    shop.run()
    assert shop.ids == []
    shop.declare(more='steps = [{ do = "quarantine", where = "id < 2", rule = "old" }]')

    done = again(shop)

    assert (done.moved, shop.ids) == (1, [5])
    assert [row[1] for row in shop.rejects] == [2, 3, 4, 6, 2, 3]


def test_a_file_that_is_reloaded_after_a_replay_is_replaced_as_a_whole(tmp_path):
    shop = Shop(tmp_path / "shop", "reload")
    shop.file("a.csv", "1,5", "2,150", "3,x")
    shop.file("b.csv", "4,150", "5,7")
    shop.run()
    shop.declare("reload", **{"[0, 100]": "[0, 200]"})
    again(shop)
    assert shop.ids == [1, 2, 4, 5]
    shop.file("a.csv", "8,8")

    shop.run()

    assert (shop.ids, shop.rejects) == ([4, 5, 8], [])


def test_other_columns_need_a_build(shop):
    shop.declare(**{'"float64", range = [0, 100]': '"string"'})

    with pytest.raises(SpecError, match="column 'price' is string, expected double as in the table"):
        again(shop)


def test_a_step_that_looks_at_several_rows_needs_a_build(tmp_path):
    shop = Shop(tmp_path / "shop", text=WHOLE, more='steps = [{ do = "deduplicate", by = ["id"] }]')
    shop.file("a.csv", "1,x")
    shop.run()

    with pytest.raises(SpecError, match="step 'deduplicate id' looks at more than one row"):
        again(shop)


@pytest.mark.parametrize("place", ["quarantine.after_commit", "commit.before_log", "ledger.before_commit"])
def test_a_replay_that_dies_is_done_once_by_the_next(shop, place):
    shop.declare(**{"[0, 100]": "[0, 200]"})

    died = projects.command(shop.folder, "replay", "orders", DLFLOW_FAILPOINTS=f"{place}=kill")
    between = warehouse.Snapshot.open(shop.uri).version, len(shop.rejects)
    done = projects.command(shop.folder, "replay", "orders")

    assert died.returncode in {0, -signal.SIGKILL}
    assert between in {(0, 5), (1, 3)}
    assert done.returncode == 0
    assert (shop.ids, len(shop.rejects)) == ([1, 4, 5, 6], 3)
    assert ledger(shop) == {"read": 7, "quarantined": 3}


@pytest.mark.parametrize("kind", ["jsonl", "packed", "sqlite", "latin", "carriage"])
def test_rows_of_every_kind_are_found_again(tmp_path, kind):
    folder = tmp_path / "shop"
    (folder / "data").mkdir(parents=True)
    rows = [(number, "x" * (number % 50) if number % 7 else "bad") for number in range(3_000)]
    settings, path = "", folder / "data" / "rows.csv"
    text = "id,note\n" + "".join(f"{n},{note}\n" for n, note in rows)
    match kind:
        case "jsonl":
            path = path.with_suffix(".jsonl")
            path.write_text("".join(json.dumps({"id": n, "note": note}) + "\n" for n, note in rows))
        case "packed":
            import gzip

            path = path.with_suffix(".csv.gz")
            path.write_bytes(gzip.compress(text.encode()))
        case "sqlite":
            path, settings = path.with_suffix(".db"), 'table = "rows"'
            with closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, note TEXT)")
                database.executemany("INSERT INTO rows VALUES (?, ?)", rows)
                database.commit()
        case "latin":
            settings = 'encoding = "latin-1"'
            path.write_bytes(text.replace("bad", "bäd").encode("latin-1"))
        case "carriage":
            path.write_bytes(text.replace("\n", "\r\n").encode())
    name = "jsonl" if kind == "jsonl" else "sqlite" if kind == "sqlite" else "csv"
    shop = Shop.__new__(Shop)
    shop.folder = folder
    shop.text = (
        f'[sources.orders]\nkind = "{name}"\npath = "{path}"\n{settings}\nmax_field_bytes = 4096\n'
        'columns = {{ id = "int64", note = {{ type = "string", pattern = "x*" }} }}\n[tables.orders]\nsource = "orders"'
    )
    shop.declare()
    shop.run()
    assert len(shop.rejects) == 429
    shop.declare(**{'"x*"': '"x*|b.d"'})

    done = again(shop)

    assert (done.moved, done.stay, shop.rejects) == (429, 0, [])
    assert shop.ids == list(range(3_000))


@pytest.mark.parametrize("shop", ["replace"], indirect=True)
def test_the_commands_say_what_is_set_aside_and_what_came_of_it(shop):
    said = projects.command(shop.folder, "quarantine", "orders")
    counted = json.loads(projects.command(shop.folder, "quarantine", "orders", "--json").stdout)
    shop.declare(**{"[0, 100]": "[0, 200]"})
    done = projects.command(shop.folder, "replay", "orders")

    data = shop.folder / "data"
    assert said.stdout.splitlines()[:4] == [
        "orders: 5 rows set aside",
        "  3 x range, column price",
        f"    {data}/a.csv:6: column 'price': '150' is outside [0, 100]",
        "        4,150",
    ]
    assert (counted["rows"], [one["count"] for one in counted["rules"]]) == (5, [3, 2])
    assert done.stdout.splitlines() == [
        "orders: 5 rows read again: 2 moved into the table, 3 stay (version 1)",
        "  2 x type, column price: column 'price': cannot read 'x' as float64",
        "  1 x range, column price: column 'price': '1000' is outside [0, 200]",
        "tables that read this one: dlflow run",
    ]
    assert re.search("did you mean 'orders'", projects.command(shop.folder, "replay", "order").stderr)
