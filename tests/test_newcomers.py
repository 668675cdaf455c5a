"""A table that is loaded file by file and has a key has each key once, whatever comes, and in however many runs."""

import os
import signal
import subprocess
import sys

import pytest

from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import InputError, SpecError
from pipelines.replay import replay
from tests import projects
from tests.test_loads import Shop


def made(tmp_path, on_duplicate, more=""):
    shop = Shop(tmp_path / "shop", "reload", f'key = ["id"]\non_duplicate = "{on_duplicate}"\n{more}')
    shop.file("a.csv", "1,5", "2,6", "2,7", ",8", ",9")
    shop.file("b.csv", "1,50", "3,30")
    return shop


def prices(shop):
    table = warehouse.Snapshot.open(shop.uri).read()
    return sorted(zip(table["id"].to_pylist(), table["price"].to_pylist(), strict=True), key=str)


FIRST = [(1, 5.0), (2, 6.0), (3, 30.0), (None, 8.0), (None, 9.0)]


@pytest.mark.parametrize("on_duplicate", ["ignore", "quarantine"])
def test_the_first_row_of_a_key_is_kept_within_a_load_and_over_loads(tmp_path, on_duplicate):
    shop = made(tmp_path, on_duplicate)
    built = shop.run()
    assert prices(shop) == FIRST
    counted = [(one["name"], one["deduplicated"], one["quarantined"]) for one in built.steps]
    assert counted[-1] == ("new by id", 2, 0) if on_duplicate == "ignore" else ("new by id", 0, 2)
    shop.file("c.csv", "3,3", "4,4", "4,5", "1,1")

    shop.run()

    assert prices(shop) == sorted([*FIRST, (4, 4.0)], key=str)
    assert shop.plan().nothing_to_do
    if on_duplicate == "quarantine":
        rejects = warehouse.read_quarantine(shop.uri).to_pylist()
        told = sorted((one["source"].rpartition("/")[2], one["line"], one["message"]) for one in rejects)
        assert told == [
            ("a.csv", 4, "key id = 2 came before in this load"),
            ("b.csv", 2, "key id = 1 came before in this load"),
            ("c.csv", 2, "key id = 3 is in the table already"),
            ("c.csv", 4, "key id = 4 came before in this load"),
            ("c.csv", 5, "key id = 1 is in the table already"),
        ]


def test_by_default_the_run_stops_and_says_which_and_where(tmp_path):
    shop = made(tmp_path, "error")
    with pytest.raises(
        InputError,
        match=r"2 rows have a key that is there already, such as .*a\.csv:4: key id = 2 came before",
    ):
        shop.run()
    shop.file("a.csv", "1,5")
    shop.file("b.csv", "3,30")
    shop.run()
    shop.file("c.csv", "9,9", "3,1")

    with pytest.raises(
        InputError,
        match=r"1 rows have a key .*c\.csv:3: key id = 3 is in the table already; nothing was loaded",
    ):
        shop.run()

    assert shop.ids == [1, 3]


def test_a_key_is_free_again_when_its_file_is_reloaded_without_it(tmp_path):
    shop = made(tmp_path, "quarantine")
    shop.run()
    shop.file("a.csv", "7,7")
    shop.file("c.csv", "1,1", "2,2")

    shop.run()

    assert prices(shop) == [(1, 1.0), (2, 2.0), (3, 30.0), (7, 7.0)]


def test_a_replay_brings_no_key_a_second_time(tmp_path):
    shop = made(tmp_path, "quarantine")
    shop.file("d.csv", "3,500", "5,500", "5,501")
    shop.run()
    shop.declare("reload", 'key = ["id"]\non_duplicate = "quarantine"', **{"[0, 100]": "[0, 900]"})

    done = replay(shop.plan().tables["orders"], InProcess(), run="again")

    assert (done.moved, done.stay) == (1, 4)
    assert prices(shop) == sorted([*FIRST, (5, 500.0)], key=str)
    assert shop.plan().nothing_to_do


@pytest.mark.parametrize(
    "place",
    [
        "load.after_manifest",
        pytest.param("part.before_receipt", marks=pytest.mark.chaos),
        pytest.param("commit.after_log", marks=pytest.mark.chaos),
    ],
)
def test_a_load_that_is_killed_brings_each_key_once(tmp_path, place):
    shop = made(tmp_path, "ignore")
    program = "import sys; from tests.chaos.load_machine import run; run(sys.argv[1], 1)"
    command = [sys.executable, "-c", program, str(shop.folder)]
    environment = {**os.environ, "PYTHONPATH": str(projects.REPOSITORY), "DLFLOW_FAILPOINTS": f"{place}=kill"}
    killed = subprocess.run(command, env=environment, timeout=120, check=False).returncode

    shop.run()

    assert (killed, prices(shop)) == (-signal.SIGKILL, FIRST)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('on_duplicate = "ignore"', 'on_duplicate is for load = "append" with a key'),
        ('key = ["price"]', "key column 'price' is double"),
        ('key = ["idd"]', "did you mean 'id'"),
        ('key = ["id"]\non_duplicate = "drop"', "input should be 'error', 'ignore' or 'quarantine'"),
    ],
)
def test_what_cannot_be_a_key_is_refused(tmp_path, more, told):
    with pytest.raises(SpecError, match=told):
        Shop(tmp_path / "shop", more=more).plan()


def test_the_plan_says_that_rows_move_for_it(tmp_path):
    assert (
        "new by id: exchange, rows meet the keys that the table has" in made(tmp_path, "ignore").plan().text()
    )
