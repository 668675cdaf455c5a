"""Files come, change, move and go, with further columns, runs are killed anywhere, at any time, or meet; the table is compared with a dictionary.

    python load_machine.py FOLDER EXAMPLES

Every action that touches the warehouse is a process of its own, forked from this one, which has imported everything and
starts no thread. Ends with 0 if no example shows a row that is lost, doubled or left behind.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import deltalake  # noqa: F401 - imported once, before the forks
import pandas as pd  # noqa: F401 - pyarrow imports it when it sees a list
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from flows.project import open_project
from pipelines import ledger, warehouse
from pipelines.build import build
from pipelines.engine import InProcess
from pipelines.failpoints import NAMES
from pipelines.inspection import build_state
from pipelines.plan import make
from pipelines.storage import reference

FILE = """
[sources.orders]
kind = "csv"
path = "data/*.csv"
columns = { id = "int64", price = { type = "float64", range = [0, 100] } }
allow_empty = true
on_change = "reload"
contract = "evolve"

[tables.orders]
source = "orders"
load = "append"
steps = [{ do = "derive", columns = { double = "price * 2" } }, { do = "keep", where = "price < 90" }]
checks = [{ check = "unique", columns = ["id"] }]

[tables.latest]
table = "orders"
steps = [{ do = "deduplicate", by = ["id"] }]
"""
PLACES = [name for name in NAMES if name != "commit.before_link"]  # only where the partitioning changes
ROWS = st.lists(st.sampled_from(["5", "7", "95", "200", "x"]), max_size=4)


def run(folder, number):
    """What `dlflow run` does, without its terminal and its cluster."""
    project = open_project(Path(folder) / "pipeline.toml")
    root = str(project.pipeline.warehouse)
    warehouse.preflight(root)
    ledger.repair(root)
    made = make(project.pipeline, project.checked, state=build_state, digests=Path(folder) / "digests.json")
    for table in made.tables.values():
        if not table.current:
            build(
                table,
                InProcess(),
                reference=lambda other: reference(other, warehouse.Snapshot.open(f"{root}/{other}")),
                run=f"run{number}",
            )


def seen(folder):
    """What readers see of the table, of what depends on it, and of the books."""
    root = f"{folder}/warehouse"
    uri = f"{root}/orders"
    if not Path(uri, "_delta_log").exists() or not warehouse.log.exists(uri):
        return None
    rejects = warehouse.read_quarantine(uri, columns=["source", "line"]).to_pylist()
    _, manifest = warehouse.loaded(uri)
    snapshot = warehouse.Snapshot.open(uri)
    latest = f"{root}/latest"
    names = [name for name in ("id", "note") if name in snapshot.schema.names]
    return {
        "notes": {str(row["id"]): row["note"] for row in snapshot.read(names).to_pylist() if row.get("note")},
        "ids": sorted(snapshot.read(["id"], verify=True)["id"].to_pylist()),
        "rejects": sorted([Path(one["source"]).name, one["line"]] for one in rejects),
        "files": sorted(Path(one.path).name for one in manifest.files),
        "held": all(snapshot.has_loaded(one.noted, one.sha256) for one in manifest.files),
        "latest": sorted(warehouse.Snapshot.open(latest).read(["id"])["id"].to_pylist())
        if warehouse.log.exists(latest)
        else None,
    }


def books(folder):
    """Rows of the table by the ledger: the sum over all that came and went."""
    rows = warehouse.Snapshot.open(f"{folder}/warehouse/_dlflow/ledger").read().to_pylist()
    rows = [row for row in rows if row["table"] == "orders"]
    return {
        "read": sum(row["rows_in"] for row in rows if row["step"] in {"read", "unload"}),
        "gone": sum(row["quarantined"] + row["filtered"] for row in rows),
    }


def forked(work):
    """Start `work` in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - the child must not return into the parent's code
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pair(state):
    """Rows, and lines of rejects: the table and its quarantine are of one version."""
    return state["ids"], sorted(line for _, line in state["rejects"])


class Loads(RuleBasedStateMachine):
    """The model: file name -> prices; ids are never used twice."""

    folder: Path

    @initialize()
    def start(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "data").mkdir(parents=True)
        (self.folder / "pipeline.toml").write_text(FILE)
        self.files = {}
        self.next = 0
        self.runs = 0
        self.before = None
        self.noted = set()
        self.write("first", ["5", "x"])

    def write(self, name, prices, *, note=False):
        rows = [(self.next + number, price) for number, price in enumerate(prices)]
        self.next += len(rows)
        self.files[name] = rows
        self.noted |= {number for number, _ in rows} if note else set()
        text = "id,price,note\n" if note else "id,price\n"
        text += "".join(f"{number},{price}{f',n{number}' * note}\n" for number, price in rows)
        (self.folder / "data" / f"{name}.csv").write_text(text)

    @rule(name=st.sampled_from("abc"), prices=ROWS, note=st.booleans())
    def new_file(self, name, prices, note):
        """A new file, or a rewrite of one; some have a column that is not declared."""
        self.write(name, prices, note=note)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(self.files)))
        del self.files[name]
        (self.folder / "data" / f"{name}.csv").unlink()

    @precondition(lambda self: self.files)
    @rule(data=st.data(), to=st.sampled_from("abcd"))
    def move(self, data, to):
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.files[to] = self.files.pop(name)
        (self.folder / "data" / f"{name}.csv").rename(self.folder / "data" / f"{to}.csv")

    def in_child(self, setting=None):
        self.runs += 1
        number = self.runs

        def work():
            if setting:
                os.environ["DLFLOW_FAILPOINTS"] = setting
            run(self.folder, number)

        return forked(work)

    @rule()
    def run_once(self):
        assert ended(self.in_child()) == 0
        self.check()

    @rule()
    def two_runs(self):
        children = [self.in_child(), self.in_child()]
        assert [ended(child) for child in children] == [0, 0]
        self.check()

    @rule(place=st.sampled_from(PLACES), hit=st.integers(1, 3))
    def crash_and_rerun(self, place, hit):
        code = ended(self.in_child(f"{place}=kill@{hit}"))
        assert code in {0, -signal.SIGKILL}
        self.rerun()

    @rule(delays=st.tuples(*[st.floats(0, 0.6)] * 2))
    def kill_at_any_time(self, delays):
        """Two runs at once, each killed after some time, wherever it is."""
        children = [self.in_child(), self.in_child()]
        started = time.monotonic()
        for delay, child in sorted(zip(delays, children, strict=True)):
            time.sleep(max(0.0, started + delay - time.monotonic()))
            os.kill(child, signal.SIGKILL)  # a child that has ended is a zombie until it is waited for
        assert {ended(child) for child in children} <= {0, -signal.SIGKILL}
        self.rerun()

    def rerun(self):
        """What readers see is the state before or after, and one more run ends in that after."""
        between = self.look()
        states = [state for state in (self.before, self.expected()) if state]
        assert between is None or pair(between) in map(pair, states), between
        assert ended(self.in_child()) == 0
        self.check()

    def look(self, what=seen):
        answer = self.folder / "answer.json"
        assert ended(forked(lambda: answer.write_text(json.dumps(what(self.folder))))) == 0
        return json.loads(answer.read_text())

    def expected(self):
        good = sorted(n for rows in self.files.values() for n, price in rows if price in {"5", "7"})
        return {
            "ids": good,
            "rejects": sorted(
                [f"{name}.csv", line + 2]
                for name, rows in self.files.items()
                for line, (_, price) in enumerate(rows)
                if price in {"x", "200"}
            ),
            "files": sorted(f"{name}.csv" for name in self.files),
            "held": True,
            "latest": good,
            "notes": {str(number): f"n{number}" for number in good if number in self.noted},
        }

    def check(self):
        found, wanted = self.look(), self.expected()
        # rejects have the name that the file had when it was read, and so has the manifest of a file that only moved
        assert (found["ids"], found["latest"], found["held"]) == (wanted["ids"], wanted["latest"], True), (
            found,
            wanted,
        )
        assert pair(found) == pair(wanted)
        assert found["notes"] == wanted["notes"]
        assert len(found["files"]) == len(wanted["files"])
        said = self.look(books)
        assert said["read"] == sum(map(len, self.files.values()))
        assert said["read"] - said["gone"] == len(wanted["ids"])
        self.before = found


def main(folder, examples):
    Loads.folder = Path(folder) / "work"
    run_state_machine_as_test(
        Loads,
        settings=settings(
            max_examples=int(examples),
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
            print_blob=True,
        ),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
