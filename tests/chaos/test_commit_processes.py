"""Several processes write one table at once: every batch is there once, and nobody starves."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from pipelines.warehouse import Snapshot
from tests.warehouse_tables import ids

ROOT = str(Path(__file__).parents[2])
SHARED = """
import sys
from tests.warehouse_tables import put
for i in range(15):
    put(sys.argv[1], [i], f"shared/{i}", day="shared")
    put(sys.argv[1], [i], f"{sys.argv[2]}/{i}", day=sys.argv[2])
"""
OWN = """
import sys
from tests.warehouse_tables import put
for i in range(10):
    put(sys.argv[1], [100 * int(sys.argv[2]) + i], f"{sys.argv[2]}/{i}")
"""
REPLACE = """
import sys
from pipelines.warehouse import replace
from tests.warehouse_tables import SCHEMA, file, lineage
for i in range(5):
    made = [file(sys.argv[1], [100 * int(sys.argv[2]) + i], part=part) for part in range(2)]
    replace(sys.argv[1], made, key=f"{sys.argv[2]}/{i}", schema=SCHEMA, partition_by=["day"], lineage=lineage())
"""


def run_all(script, uri, names):
    command = [sys.executable, "-c", script, uri]
    environment = {"PYTHONPATH": ROOT}
    running = [subprocess.Popen([*command, name], cwd=ROOT, env=environment) for name in names]
    assert [process.wait() for process in running] == [0] * len(running)


def test_two_processes_that_submit_the_same_batches_commit_each_once(tmp_path):
    uri = str(tmp_path / "t")

    run_all(SHARED, uri, ["w1", "w2"])

    rows = Counter(Snapshot.open(uri).read(["day"])["day"].to_pylist())
    assert rows == {"shared": 15, "w1": 15, "w2": 15}
    assert Snapshot.open(uri).version == 44


def test_four_processes_that_append_lose_nothing(tmp_path):
    uri = str(tmp_path / "t")

    run_all(OWN, uri, ["1", "2", "3", "4"])

    assert ids(uri) == sorted(100 * writer + i for writer in (1, 2, 3, 4) for i in range(10))


def test_processes_that_replace_leave_exactly_one_content(tmp_path):
    uri = str(tmp_path / "t")

    run_all(REPLACE, uri, ["1", "2", "3"])

    assert Snapshot.open(uri).version == 14
    assert all(len(set(ids(uri, version))) == 1 and len(ids(uri, version)) == 2 for version in range(15))
