"""Ingest of dirty CSV into Parquet by one program: `python tests/bench/ingest.py PROGRAM IN OUT`, one JSON line.

PROGRAM: duckdb, polars, dask, dlflow (in this process) or workers (dlflow on a cluster of its own, two processes of 2 GiB).

Every program reads the events of ../shared/peers/data/gen.py with declared types on two threads and writes the good rows as
Parquet (zstd 1). dlflow also keeps every bad row with file, line, rule and text, balances its ledger, syncs and digests its
files and commits. DuckDB keeps rejects (store_rejects); Polars turns bad values into nulls and pads short rows
(ignore_errors, truncate_ragged_lines); dask.dataframe leaves long rows out and turns bad values into nulls.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

VALUES = [f"v{at}" for at in range(1, 7)]
NAMES = ["id", "entity_id", "ts", "category", *VALUES]
PIPELINE = """
name = "ingest"
[sources.events]
kind = "csv"
path = "{data}/events/*.csv"
null = ["", "NA"]
[sources.events.columns]
id = {{ type = "int64", nullable = false }}
entity_id = {{ type = "int32", nullable = false }}
ts = {{ type = "timestamp", format = "%Y-%m-%d %H:%M:%S", nullable = false }}
category = "string"
{values}
[tables.events]
source = "events"
"""


def with_dlflow(data, out):
    from pipelines.engine import InProcess

    ingest = _ingest(data, out)
    return lambda: ingest(InProcess())


def with_workers(data, out):
    """The start of the cluster is in the times; of its processes those of scheduler and workers are counted, not their loader."""
    from flows.cluster import cluster
    from pipelines.engine import OnDask

    ingest = _ingest(data, out)

    def work():
        with cluster(workers=2, memory_limit=2 << 30, log=out / "cluster.log") as client:
            rows = ingest(OnDask(client))
            usage = client.run(_usage)
            WORKERS.extend(usage.values())
            WORKERS.append(client.run_on_scheduler(_usage) | {"is": "scheduler"})
        return rows

    return work


WORKERS = []


def _usage():
    return {
        "cpu_s": round(time.process_time(), 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _ingest(data, out):
    import pydantic.dataclasses  # noqa: F401 - is imported by the first pipeline file that is read

    from flows.project import open_project
    from flows.session import plan_of
    from pipelines import warehouse
    from pipelines.build import build

    out.mkdir()
    values = "\n".join(f'{name} = "float64"' for name in VALUES)
    (out / "pipeline.toml").write_text(PIPELINE.format(data=data, values=values), "utf-8")

    def ingest(runner):
        plan = plan_of(open_project(out / "pipeline.toml")).tables["events"]
        build(plan, runner, reference=lambda name: None, run="bench")
        return sum(file.rows for file in warehouse.Snapshot.open(plan.uri).files())

    return ingest


def with_duckdb(data, out):
    import duckdb

    types = ", ".join(
        f"'{name}': '{kind}'"
        for name, kind in zip(
            NAMES, ["BIGINT", "INTEGER", "TIMESTAMP", "VARCHAR", *["DOUBLE"] * 6], strict=True
        )
    )

    def work():
        connection = duckdb.connect(config={"threads": 2})
        connection.execute(
            f"COPY (SELECT * FROM read_csv('{data}/events/*.csv', header=true, columns={{{types}}}, nullstr=['', 'NA'], "
            f"store_rejects=true)) TO '{out}.parquet' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )
        return connection.execute(f"SELECT count(*) FROM '{out}.parquet'").fetchone()[0]

    return work


def with_polars(data, out):
    import polars as pl

    schema = dict(zip(NAMES, [pl.Int64, pl.Int32, pl.String, pl.String, *[pl.Float64] * 6], strict=True))

    def work():
        frame = pl.scan_csv(
            f"{data}/events/*.csv",
            schema=schema,
            null_values=["", "NA"],
            ignore_errors=True,
            truncate_ragged_lines=True,
        ).with_columns(pl.col("ts").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False))
        frame.filter(pl.all_horizontal(pl.col("id", "entity_id", "ts").is_not_null())).sink_parquet(
            f"{out}.parquet", compression="zstd", compression_level=1
        )
        return pl.scan_parquet(f"{out}.parquet").select(pl.len()).collect().item()

    return work


def with_dask(data, out):
    import dask
    import dask.dataframe as dd
    import pandas as pd

    def clean(frame):
        for name in ("id", "entity_id", *VALUES):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        frame["ts"] = pd.to_datetime(frame["ts"], format="%Y-%m-%d %H:%M:%S", errors="coerce")
        return frame.dropna(subset=["id", "entity_id", "ts"])

    def work():
        with dask.config.set(scheduler="threads", num_workers=2):
            frame = dd.read_csv(
                f"{data}/events/*.csv",
                dtype=str,
                keep_default_na=False,
                na_values=["", "NA"],
                on_bad_lines="skip",
            )
            frame.map_partitions(clean).to_parquet(str(out), compression="zstd", compression_level=1)
            return int(dd.read_parquet(str(out)).shape[0].compute())

    return work


def main():
    program, data, out = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3])
    os.environ["POLARS_MAX_THREADS"] = "2"
    work = globals()[f"with_{program}"](data, out)  # imports come before the clock
    cpu, wall = time.process_time(), time.perf_counter()
    rows = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    told = {
        "rows": rows,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu + sum(one["cpu_s"] for one in WORKERS), 2),
        "peak_mb": max(one["peak_mb"] for one in [_usage(), *WORKERS]),
        "workers": [one for one in WORKERS if "is" not in one],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
