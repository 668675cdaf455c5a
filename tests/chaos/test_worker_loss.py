"""Workers that are killed anywhere cost their unfinished parts, and no byte: the grid of places, passes and arrivals.

The workers are processes of a real cluster with TLS. Each says itself, just before its end, at which place, in which
task and at which arrival it kills itself, so every cell proves that it was hit.
"""

import importlib
import os
import signal

import pytest

from pipelines import parts
from pipelines.engine import InProcess, OnDask
from tests import clusters, cutting, laying, projects

pytestmark = pytest.mark.chaos

# tests/test_cuts.py shows the passes of the plan; sketches of rows that were kept have no number, 3 moves the other table
# of the join
PLACES = {
    "map": "part.after_read:orders/0/",
    "rows that wait": "kept.half_written:orders/0/",
    "keys": "part.after_read:orders/1/",
    "keys that say which rows go": "kept.half_written:orders/1/",
    "a fit": "part.after_read:orders/2-look/",
    "rows that waited": "part.before_write:orders/2/",
    "exchange write of a join": "kept.half_written:orders/2/",
    "exchange read of a join": "part.after_read:orders/4/",
    "window": "part.before_write:orders/5/",
    "exchange write of partitions": "kept.half_written:orders/5/",
    "exchange read of partitions": "part.after_read:orders/6/",
    "write": "file.half_written",
    "after the write": "part.after_write:orders/6/",
    "receipt": "part.before_receipt:orders/6/",
}
# arrivals that one of two workers comes to for certain: four, unless the pass has four or six tasks, or five files
MOST = {
    "keys": 2,
    "keys that say which rows go": 2,
    "write": 3,
    "exchange read of partitions": 3,
    "after the write": 3,
    "receipt": 3,
}
CELLS = [(phase, nth) for phase in PLACES for nth in sorted({1, 2, MOST.get(phase, 4)})]

LAID = {
    "rows that wait by partition": "kept.half_written:orders/0/",
    "which of them go": "kept.half_written:orders/2-gone/",
    "a fit": "part.after_read:orders/2-look/",
    "rows of a partition": "part.before_write:orders/2/",
    "after the write": "part.after_write:orders/2/",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    with clusters.two_workers(tmp_path_factory.mktemp("outside")) as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return cutting.files(tmp_path_factory.mktemp("whole"), monkeypatch, InProcess())


@pytest.mark.parametrize(("phase", "nth"), CELLS)
def test_workers_lost_anywhere_change_no_byte(tmp_path, monkeypatch, outside, whole, phase, nth):
    place = PLACES[phase]

    with outside.armed(f"{place}=kill@{nth}") as kills:
        found = cutting.files(tmp_path, monkeypatch, OnDask(outside.client))

    assert found == whole
    name, _, beginning = place.partition(":")
    assert kills, "nobody was killed"
    assert all(kill[0] == name and kill[1].startswith(beginning) and kill[2] == nth for kill in kills), kills


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("phase", LAID)
def test_workers_lost_while_rows_wait_by_partition_change_no_byte(tmp_path, monkeypatch, outside, phase, nth):
    monkeypatch.setattr(parts, "BUCKET_BYTES", (1024, 2048))
    text = laying.PIPELINE.format(how="left", steps="")
    whole = laying.outcome(tmp_path / "whole", text)

    with outside.armed(f"{LAID[phase]}=kill@{nth}") as kills:
        found = laying.outcome(tmp_path / "lost", text, OnDask(outside.client))

    assert found == whole
    assert kills, "nobody was killed"


@pytest.mark.parametrize("moment", ["commit.before_log", "commit.after_log"])
def test_workers_lost_while_the_driver_commits_change_no_byte(tmp_path, monkeypatch, outside, whole, moment):
    killed = []

    def alive():
        try:
            return [pid for pid in clusters.worker_pids(outside.client).values() if pid not in killed]
        except OSError:  # one of them is just dying
            return []

    def kill_all(name):
        if name == moment and len(killed) < 4:
            victims = alive()
            killed.extend(victims)
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            clusters.wait_until(lambda: len(alive()) == 2, "two workers again", 60)

    monkeypatch.setattr(importlib.import_module("pipelines.warehouse.commit"), "failpoint", kill_all)

    assert cutting.files(tmp_path, monkeypatch, OnDask(outside.client)) == whole
    assert len(killed) == 4  # both workers, in two commits


@pytest.mark.parametrize("moment", ["commit.before_log=kill@2", "commit.after_log=kill@3"])
def test_a_driver_lost_in_a_commit_is_started_again_on_the_same_workers(tmp_path, outside, moment):
    here, there = (projects.make(tmp_path / name, rows=1500) for name in ("here", "there"))
    projects.run(here)
    command = ["run", "--no-prefect", "--scheduler", outside.address, "--tls", *outside.tls]

    lost = projects.command(there, *command, DLFLOW_FAILPOINTS=moment)
    again = projects.command(there, *command)

    assert lost.returncode == -signal.SIGKILL
    assert again.returncode == 0, again.stderr
    assert projects.everything(there) == projects.everything(here)
    assert projects.ledger(there) == projects.ledger(here)
