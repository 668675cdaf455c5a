"""The data job of the peers in ../shared/peers/data, done by a pipeline file: one JSON line with times, CPU seconds and answers.

    python tests/bench/data_job.py IN OUT [--workers N] [--memory MiB]      0: in this process (default)

Steps are as the peers count them: what is a table here is one step there. Aggregate and matrix are computed from the
committed table, a task for each file. `PEERS` names the folder of the peers' `common.py`. Of a cluster it also says
whether a worker was killed or paused, and the most memory that each has held.
"""

import argparse
import contextlib
import os
import resource
import sys
from pathlib import Path

import numpy as np
import pandas as pd  # noqa: F401  imported before the clock starts, as in the peers
import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster import cluster, worker_pids
from flows.project import open_project
from flows.session import plan_of
from pipelines import warehouse
from pipelines.build import build
from pipelines.engine import InProcess, OnDask, Runner
from pipelines.storage import reference
from pipelines.warehouse.file import read_file

sys.path.insert(0, os.environ.get("PEERS", str(Path(__file__).parents[3] / "shared" / "peers" / "data")))
import common

PIPELINE = """
name = "job"
warehouse = "warehouse"
[sources.events]
kind = "csv"
path = "{data}/events/*.csv"
null = ["", "NA"]
[sources.events.columns]
id = {{ type = "int64", nullable = false }}
entity_id = {{ type = "int32", nullable = false }}
ts = {{ type = "timestamp", format = "%Y-%m-%d %H:%M:%S", nullable = false, zone = "UTC" }}
category = {{ type = "string", trim = true }}
{numbers}
[sources.entities]
kind = "jsonl"
path = "{data}/entities.jsonl"
extra = "ignore"
flatten = {{ tier = "attributes.tier", score = "attributes.score" }}
columns = {{ id = "int32", region = {{ type = "string", trim = true }}, tier = "string", score = "float64" }}
[sources.calendar]
kind = "sqlite"
path = "{data}/calendar.sqlite"
table = "calendar"
columns = {{ date = "date", weekday = "int64", holiday = "int64", season = "string", rate = "float64" }}

[tables.entities]
source = "entities"
steps = [
  {{ do = "text", columns = ["region"], case = "lower" }},
  {{ do = "resolve", by = ["id"], columns = ["region"], policy = "quarantine" }},
  {{ do = "rename", columns = {{ id = "entity_id" }} }},
]
[tables.calendar]
source = "calendar"

# mean, median and quartiles are those of the values as they came: the copies w are filled, v is clipped, then both meet
[tables.events]
source = "events"
steps = [
  {{ do = "text", columns = ["category"], case = "lower" }},
  {{ do = "deduplicate", by = ["id"], keep = "latest", order_by = ["ts"] }},
  {{ do = "derive", columns = {{ {copies} }} }},
  {{ do = "fill", columns = ["w1", "w2", "w3"], with = "mean" }},
  {{ do = "fill", columns = ["w4", "w5", "w6"], with = "median" }},
  {{ do = "clip", columns = ["v1", "v2", "v3", "v4", "v5", "v6"], method = "iqr", factor = 1.5 }},
  {{ do = "derive", columns = {{ {together} }} }},
  {{ do = "drop", columns = ["w1", "w2", "w3", "w4", "w5", "w6"] }},
  {{ do = "derive", columns = {{ date = "cast(ts, \\"date\\")", month = "month(ts)" }} }},
  {{ do = "join", with = "entities", on = ["entity_id"], cardinality = "m:1" }},
  {{ do = "join", with = "calendar", on = ["date"], cardinality = "m:1" }},
  {{ do = "fill", columns = ["region"], value = "unknown" }},
]
partition_by = ["month", "region"]
"""
SUMS = [([], "count_all"), ("v1", "sum"), ("v2", "sum"), ("v3", "max")]


def main() -> None:
    """Run the job once."""
    given = argparse.ArgumentParser(description="the data job")
    given.add_argument("src")
    given.add_argument("out")
    given.add_argument("--workers", type=int, default=0)
    given.add_argument("--memory", type=int, default=2048)
    options = given.parse_args()
    bench = common.Bench(f"dlflow-{options.workers or 'here'}", options.src, options.out)
    numbers = range(1, 7)
    text = PIPELINE.format(
        data=bench.src,
        numbers="\n".join(f'v{i} = "float64"' for i in numbers),
        copies=", ".join(f'w{i} = "v{i}"' for i in numbers),
        together=", ".join(f'v{i} = "coalesce(v{i}, w{i})"' for i in numbers),
    )
    folder = Path(bench.out)
    (folder / "pipeline.toml").write_text(text, "utf-8")
    plan = plan_of(open_project(folder / "pipeline.toml"))
    made = {}
    with contextlib.ExitStack() as stack:
        runner: Runner = InProcess()
        client, pids, log = None, {}, folder / "cluster.log"
        if options.workers:
            client = stack.enter_context(
                cluster(workers=options.workers, memory_limit=options.memory << 20, log=log)
            )
            runner, pids = OnDask(client), worker_pids(client)
            bench.step("cluster start")
        for name, table in plan.tables.items():
            made[name] = build(table, runner, reference=lambda one: newest(folder, one), run="bench")
            bench.step(name)
        steps = {step["name"]: step for step in made["events"].steps}
        bench.info["rejects"] = steps["read"]["quarantined"]
        bench.info["raw"] = steps["read"]["rows_out"]
        bench.info["entities"] = made["entities"].steps[-1]["rows_out"]
        ref = newest(folder, "events")
        parts = [(one.file, ref.schema) for one in ref.files]
        bench.info["agg"] = aggregate(parts, runner)
        bench.step("aggregate")
        bench.info["x"] = matrix(parts, folder / "X.npy", runner)
        bench.step("features")
        if client is not None:
            text = log.read_text("utf-8", "replace")
            bench.info["workers"] = {
                "killed": worker_pids(client) != pids,
                "paused": text.count("Pausing worker"),
                "peak_mb": sorted(round(one / 1024) for one in client.run(peak_kib).values()),
            }
        bench.done()


def peak_kib():
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def quiet(*_):
    """Nobody is told."""


def newest(folder, name):
    """The committed version of a table."""
    return reference(name, warehouse.Snapshot.open(str(folder / "warehouse" / name)))


def aggregated(part):
    """Groups of one file."""
    names = ["month", "region", "category", "v1", "v2", "v3"]
    return read_file(*part, names=names).group_by(names[:3], use_threads=False).aggregate(SUMS).to_pylist()


def aggregate(parts, runner):
    """Groups, rows, sum of v1, sum of the means of v2: by month, region and category."""
    names = ["month", "region", "category"]
    found = runner.run(aggregated, parts, name="aggregate", progress=quiet)
    total = (
        pa.Table.from_pylist([group for groups in found for group in groups])
        .group_by(names, use_threads=False)
        .aggregate([("count_all", "sum"), ("v1_sum", "sum"), ("v2_sum", "sum"), ("v3_max", "max")])
    )
    means = pc.divide(total["v2_sum_sum"], pc.cast(total["count_all_sum"], pa.float64()))
    return [
        total.num_rows,
        pc.sum(total["count_all_sum"]).as_py(),
        round(pc.sum(total["v1_sum_sum"]).as_py(), 2),
        round(pc.sum(means).as_py(), 4),
    ]


def moments_of(part):
    """Count, mean and sum of squared distances of each column of one file."""
    table = read_file(*part, names=common.V)
    columns = [table[name].to_numpy() for name in common.V]
    return [(len(one), one.mean(), one.var() * len(one)) for one in columns]


def matrix(parts, path, runner):
    """The float32 matrix of the peers, by their writer."""
    sizes = [file.rows for file, _ in parts]
    rows = sum(sizes)
    found = np.array(runner.run(moments_of, parts, name="moments", progress=quiet))
    count, mean, squares = (found[:, :, place] for place in range(3))
    means = (count * mean).sum(axis=0) / rows
    spread = np.sqrt((squares + count * (mean - means) ** 2).sum(axis=0) / rows)
    moments = list(zip(means.tolist(), spread.tolist(), strict=True))
    offset, starts = common.npy(str(path), rows), np.cumsum([0, *sizes[:-1]]).tolist()
    items = [(part, str(path), offset, start, moments) for part, start in zip(parts, starts, strict=True)]
    return [[rows, common.NF], sum(runner.run(filled, items, name="matrix", progress=quiet))]


def filled(item):
    """The rows of one file in the matrix; the sum of their one-hot columns."""
    part, path, offset, start, moments = item
    table = read_file(*part, names=[*common.V, "category", "region", "season", "holiday"])
    return common.fill(
        path,
        offset,
        start,
        [table[name].to_numpy() for name in common.V],
        codes(table["category"], common.CATS, len(common.CATS)),
        codes(table["region"], common.REGIONS, 0),
        codes(table["season"], common.SEASONS, 0),
        table["holiday"].to_numpy(),
        moments,
    )


def codes(column, vocabulary, missing):
    """Places in the vocabulary."""
    return pc.fill_null(pc.index_in(column, value_set=pa.array(vocabulary)), missing).to_numpy()


if __name__ == "__main__":
    main()
