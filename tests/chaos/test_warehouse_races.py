"""Processes that change one table at the same time, some of them killed: no row is lost, none is there twice."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.warehouse import Lineage, Snapshot, append, history
from tests.chaos.warehouse_operations import SCHEMA

pytestmark = pytest.mark.chaos
SECONDS, PROCESSES = 60, 8


def start(uri, number, seconds):
    script = Path(__file__).with_name("warehouse_operations.py")
    root = str(script.parents[2])
    return subprocess.Popen(
        [sys.executable, str(script), uri, str(number), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env={"PYTHONPATH": root},
    )


def content(uri):
    table = Snapshot.open(uri).read(["id", "value"], verify=True)
    found = dict(zip(table["id"].to_pylist(), table["value"].to_pylist(), strict=True))
    assert len(found) == table.num_rows
    return found


def test_processes_that_race_lose_and_double_nothing(tmp_path):
    uri = str(tmp_path / "t")
    append(uri, [], key="begin", schema=SCHEMA, partition_by=["day"], lineage=Lineage(run="t"))

    processes = [start(uri, number, SECONDS) for number in range(PROCESSES)]
    said = [process.communicate(timeout=SECONDS + 300)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * PROCESSES
    expected = {int(key): value for one in said for key, value in json.loads(one).items()}
    assert content(uri) == expected
    commits = [event.operation for event in history(uri)]
    assert {"append", "upsert", "delete", "compact"} <= set(commits)


def test_processes_that_are_killed_leave_nothing_half_done(tmp_path):
    uri = str(tmp_path / "t")
    append(uri, [], key="begin", schema=SCHEMA, partition_by=["day"], lineage=Lineage(run="t"))
    processes = [start(uri, number, 3600) for number in range(2)]

    for process in processes:
        before = len(history(uri))
        deadline = time.monotonic() + 120
        while len(history(uri)) < before + 20:
            assert time.monotonic() < deadline
        process.kill()
        process.communicate(timeout=60)

    survivor = start(uri, 7, 5)
    expected = {int(key): value for key, value in json.loads(survivor.communicate(timeout=300)[0]).items()}
    found = content(uri)
    assert {key: value for key, value in found.items() if key // 1000 == 7} == expected
    assert Snapshot.open(uri).version == len(history(uri)) - 1
