"""How long it takes to connect to a running cluster: a plain client of Dask beside ours, which checks code and versions."""

import json
import os
import statistics
import subprocess
import sys
import time

import pytest
from distributed import Client

from flows.cluster import cluster
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.bench
WORKERS, REPEATS = 4, 7


def test_a_connect_to_a_running_cluster_takes_less_than_a_second(tmp_path, capsys):
    place, environment = (
        tmp_path / "scheduler.json",
        {**os.environ, "DASK_CONFIG": str(REPOSITORY / "deploy" / "dask")},
    )
    common = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(place)]
    started = []

    def start(*command):
        with (tmp_path / "log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", *command, *common], stdout=log, stderr=log, env=environment
                )
            )

    try:
        start("scheduler", "--port", "0")
        deadline = time.monotonic() + 60
        while not place.exists() or not place.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(WORKERS):
            start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path))
        address = json.loads(place.read_text())["address"]
        with Client(address) as client:
            client.wait_for_workers(WORKERS, timeout=60)
        times = {"a plain client": [], "ours": []}
        for _ in range(REPEATS):
            for name, connect in (
                ("a plain client", lambda: Client(address)),
                ("ours", lambda: cluster(scheduler=address)),
            ):
                began = time.perf_counter()
                with connect():
                    times[name].append(time.perf_counter() - began)
    finally:
        for process in started:
            process.kill()
            process.wait()
    with capsys.disabled():
        print(f"\nconnect to a running cluster of {WORKERS} workers, median and worst of {REPEATS}")
        for name, seconds in times.items():
            print(f"  {name:<20} {statistics.median(seconds):7.3f} s  {max(seconds):7.3f} s")
    assert statistics.median(times["ours"]) < 1.0
