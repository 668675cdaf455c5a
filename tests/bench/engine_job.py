"""One measured run of the engine in a process of its own: one JSON line.

    python tests/bench/engine_job.py files N OUT [--workers W]            400,000 rows in N files: what a file costs
    python tests/bench/engine_job.py tasks N OUT [--workers W] [--ms M]   N parts of M ms (5): what a part costs beside its work
    python tests/bench/engine_job.py large GB OUT --workers W --memory M  more data than memory: read, deduplicate, join,
                                                                          write by month

Times are of the work without the start of the cluster; CPU seconds are those of this process, the scheduler and the workers.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from flows.cluster import cluster, worker_pids
from flows.project import open_project
from flows.session import plan_of
from pipelines import warehouse
from pipelines.build import build
from pipelines.engine import InProcess, OnDask
from pipelines.storage import reference

ROWS = 400_000
PIPELINE = """
name = "job"
warehouse = "warehouse"
[sources.events]
kind = "csv"
path = "data/*.csv"
[sources.events.columns]
id = "int64"
entity = "int32"
at = "timestamp"
value = "float64"
note = "string"
[sources.entities]
kind = "csv"
path = "entities.csv"
columns = { entity = "int32", region = "string" }
[tables.entities]
source = "entities"
[tables.events]
source = "events"
steps = [
  { do = "deduplicate", by = ["id"], keep = "latest", order_by = ["at"] },
  { do = "fill", columns = ["value"], with = "median" },
  { do = "join", with = "entities", on = ["entity"], cardinality = "m:1" },
  { do = "derive", columns = { month = "month(at)" } },
]
partition_by = ["month"]
"""


def make(folder, *, rows, files, note):
    """CSV files with rows that repeat an id now and then; `note` is the length of a text in each."""
    (folder / "data").mkdir(parents=True)
    rng = np.random.default_rng(5)
    words = pa.array([rng.bytes(max(note, 4) // 2 + 1).hex()[:note] for _ in range(5000)])
    start = 0
    for number in range(files):
        many = rows * (number + 1) // files - start
        table = pa.table(
            {
                "id": np.where(
                    rng.random(many) < 0.01, rng.integers(0, rows, many), np.arange(start, start + many)
                ),
                "entity": rng.integers(0, 1000, many),
                "at": pa.array(rng.integers(1_704_067_200, 1_735_000_000, many)).cast(pa.timestamp("s")),
                "value": pc.if_else(
                    pa.array(rng.random(many) < 0.05), None, pa.array(rng.normal(size=many).round(4))
                ),
                "note": words.take(pa.array(rng.integers(0, 5000, many))),
            }
        )
        path = folder / "data" / f"part-{number:06d}.csv"
        arrow_csv.write_csv(table, path, arrow_csv.WriteOptions(quoting_style="none"))
        start += many
    entities = pa.table({"entity": np.arange(1000), "region": [f"region {one % 7}" for one in range(1000)]})
    arrow_csv.write_csv(entities, folder / "entities.csv", arrow_csv.WriteOptions(quoting_style="none"))
    (folder / "pipeline.toml").write_text(PIPELINE, "utf-8")


def busy(seconds):
    """So much work."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return 0


def quiet(*_):
    """Nobody is told."""


def used():
    """CPU seconds of this process, and the most memory that it has held in KiB."""
    now = resource.getrusage(resource.RUSAGE_SELF)
    return now.ru_utime + now.ru_stime, now.ru_maxrss


class Clock:
    """Wall and CPU seconds from lap to lap, those of scheduler and workers included."""

    def __init__(self, client):
        self.client, self.laps = client, {}
        self.at, self.cpu = time.perf_counter(), self._cpu()

    def _cpu(self):
        there = []
        if self.client is not None:
            there = [*self.client.run(used).values(), self.client.run_on_scheduler(used)]
        return sum(one[0] for one in [used(), *there])

    def lap(self, name):
        at, cpu = time.perf_counter(), self._cpu()
        self.laps[name] = {"wall_s": round(at - self.at, 3), "cpu_s": round(cpu - self.cpu, 3)}
        self.at, self.cpu = at, cpu


def pipeline(folder, runner, clock):
    """The tables of the file, built; rows of the events."""
    plan = plan_of(open_project(folder / "pipeline.toml"))
    clock.lap("plan")
    made = {}

    def newest(name):
        return reference(name, warehouse.Snapshot.open(str(folder / "warehouse" / name)))

    for name, table in plan.tables.items():
        made[name] = build(table, runner, reference=newest, run="bench")
        clock.lap(name)
    return made["events"].steps[-1]["rows_out"]


def main():
    """Run once."""
    given = argparse.ArgumentParser(description="one run of the engine")
    given.add_argument("what", choices=["files", "tasks", "large"])
    given.add_argument("size", type=float)
    given.add_argument("out", type=Path)
    given.add_argument("--workers", type=int, default=0)
    given.add_argument("--memory", type=int, default=2048, help="MiB of each worker")
    given.add_argument("--ms", type=float, default=5.0, help="of each part")
    options = given.parse_args()
    folder = options.out.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if options.what == "files":
        make(folder, rows=ROWS, files=int(options.size), note=8)
    if options.what == "large":
        make(folder, rows=int(options.size * 2e6), files=max(1, int(options.size * 8)), note=450)
    said = {"what": options.what, "size": options.size, "workers": options.workers}
    with contextlib.ExitStack() as stack:
        client, runner, log = None, InProcess(), folder / "cluster.log"
        if options.workers:
            client = stack.enter_context(
                cluster(workers=options.workers, memory_limit=options.memory << 20, log=log)
            )
            runner, pids = OnDask(client), worker_pids(client)
        clock = Clock(client)
        if options.what == "tasks":
            runner.run(busy, [options.ms / 1e3] * int(options.size), name="busy", progress=quiet)
            clock.lap("tasks")
        else:
            said["rows"] = pipeline(folder, runner, clock)
            said["mb"] = round(sum(one.stat().st_size for one in (folder / "data").iterdir()) / 1e6)
        said["laps"] = clock.laps
        said["peak_mb"] = round(used()[1] / 1024)
        if client is not None:
            said["killed"] = worker_pids(client) != pids
            said["paused"] = log.read_text("utf-8", "replace").count("Pausing worker")
            said["workers_mb"] = sorted(round(one[1] / 1024) for one in client.run(used).values())
    shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
