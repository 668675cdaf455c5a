"""Timings against a peer in the same run, medians of several, printed as a table: `make bench`.

The peers do the same work on the same cores: pandas the `orders` table of the example shop (1,000,000 rows: read,
set bad rows aside, deduplicate, fill, clip, write by month), scikit-learn the training of one small network.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from flows.demo import new_project
from flows.project import open_project
from flows.session import plan_of
from pipelines.build import build
from pipelines.engine import InProcess, OnDask
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.bench
ROWS = 1_000_000
REPEATS = int(os.environ.get("DLFLOW_BENCH_ROUNDS", "3"))


def median_s(work, repeats=REPEATS):
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def show(capsys, title, rows):
    with capsys.disabled():
        print(f"\n{title}")
        for name, seconds, ratio in rows:
            print(f"  {name:<44} {seconds:8.3f} s   {ratio:5.2f} x the peer's time")


def with_pandas(folder, out):
    frames, rejected = [], 0
    for path in sorted((folder / "data").glob("orders-*.csv")):
        bad = []
        frame = pd.read_csv(
            path,
            dtype=str,
            keep_default_na=False,
            na_values=["", "NA"],
            engine="python",
            on_bad_lines=lambda row, bad=bad: bad.append(row),
        )
        rejected += len(bad)
        frames.append(frame)
    orders = pd.concat(frames, ignore_index=True)
    for column in ("order_id", "customer_id", "quantity", "returned", "unit_price", "discount"):
        orders[column] = pd.to_numeric(orders[column], errors="coerce")
    for column in ("ordered_at", "updated_at"):
        orders[column] = pd.to_datetime(orders[column], format="%Y-%m-%d %H:%M:%S", errors="coerce")
    good = orders[["order_id", "customer_id", "ordered_at", "quantity", "returned"]].notna().all(
        axis=1
    ) & orders["quantity"].between(1, 1000)
    orders = orders[good]
    for column in ("channel", "sku"):
        orders[column] = orders[column].str.strip().str.lower()
    orders = orders.sort_values("updated_at").drop_duplicates("order_id", keep="last")
    orders["unit_price"] = orders["unit_price"].fillna(orders["unit_price"].median())
    orders["discount"] = orders["discount"].fillna(0.0)
    low, high = orders["unit_price"].quantile([0.25, 0.75])
    orders["unit_price"] = orders["unit_price"].clip(low - 3 * (high - low), high + 3 * (high - low))
    orders["month"] = orders["ordered_at"].dt.month
    orders.to_parquet(out, partition_cols=["month"], compression="zstd")
    return len(orders)


def test_a_cleaned_table_against_pandas(tmp_path, local_cluster, capsys):
    new_project(tmp_path / "shop", rows=ROWS, seed=1)
    plan = plan_of(open_project(tmp_path / "shop" / "pipeline.toml")).tables["orders"]
    rows = []

    def with_dlflow(runner):
        shutil.rmtree(tmp_path / "shop" / "warehouse", ignore_errors=True)
        build(plan, runner, reference=lambda name: None, run="bench")

    peer = median_s(lambda: rows.append(with_pandas(tmp_path / "shop", tmp_path / "pandas")), 1)
    here = median_s(lambda: with_dlflow(InProcess()))
    there = median_s(lambda: with_dlflow(OnDask(local_cluster)))

    assert rows[0] > 0.98 * ROWS * 0.98
    show(
        capsys,
        f"orders, {ROWS:,} rows: read, check, deduplicate, fill, clip, write",
        [
            ("pandas, one process", peer, 1.0),
            ("dlflow in this process", here, here / peer),
            ("dlflow on 2 workers", there, there / peer),
        ],
    )


SLOW = "dask.dataframe, 2 workers, their start included"  # it runs once
PEERS = Path(os.environ.get("DLFLOW_PEERS") or Path(__file__).parents[3] / "shared" / "peers" / "data")


def test_the_whole_data_job_against_its_peers(tmp_path, capsys):
    """Ingest to feature matrix, from disk to disk; every program in a process of its own, interleaved, medians."""
    if not PEERS.is_dir():
        pytest.skip(f"no peers at {PEERS}; set DLFLOW_PEERS to the folder")
    rows = int(os.environ.get("DLFLOW_BENCH_ROWS", ROWS))
    job = Path(__file__).with_name("data_job.py")
    environment = {
        **os.environ,
        "PEERS": str(PEERS),
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    programs = {
        "DuckDB, 2 threads": [PEERS / "p_duckdb.py"],
        "Polars, 2 threads": [PEERS / "p_polars.py"],
        "pandas": [PEERS / "p_pandas.py"],
        SLOW: [PEERS / "p_dask.py"],
        "dlflow in this process": [job],
        "dlflow on 2 workers, their start included": [job, "--workers", "2"],
    }

    def run(program, *rest):
        command = [sys.executable, program, *rest]
        done = subprocess.run(
            command, env=environment, cwd=PEERS, capture_output=True, text=True, check=True, timeout=1200
        )
        return done.stdout.splitlines()[-1]

    run(PEERS / "gen.py", tmp_path / "data", str(rows))
    found = {name: [] for name in programs}
    for number in range(REPEATS):
        for name, (program, *options) in programs.items():
            if number and name == SLOW:
                continue
            found[name].append(json.loads(run(program, tmp_path / "data", tmp_path / "out", *options)))

    ours, theirs = (found[name][0] for name in ("dlflow in this process", "pandas"))
    assert (ours["rejects"], ours["raw"], ours["entities"]) == (
        theirs["rejects"],
        theirs["raw"],
        theirs["entities"],
    )
    assert (ours["agg"], ours["x"]) == (theirs["agg"], theirs["x"])
    medians = {
        name: {
            key: statistics.median(one[key] for one in runs)
            for key in ("total", "cpu_s", "other_cpu_s", "peak_rss_mb")
        }
        for name, runs in found.items()
    }
    best = min(medians[name]["total"] for name in programs if not name.startswith("dlflow"))
    least = min(medians[name]["cpu_s"] for name in programs if not name.startswith("dlflow"))
    with capsys.disabled():
        print(f"\nthe data job, {rows:,} rows, medians of {REPEATS}; other CPU-s: what else the machine did")
        for name, one in medians.items():
            print(
                f"  {name:<44} {one['total']:7.1f} s ({one['total'] / best:4.2f} x)  {one['cpu_s']:6.1f} CPU-s "
                f"({one['cpu_s'] / least:4.2f} x)  {one['peak_rss_mb']:6.0f} MB  other {one['other_cpu_s']:.1f}"
            )


def test_training_against_scikit_learn(capsys):
    from sklearn.neural_network import MLPClassifier

    from dlflow.nn import Adam, Dense, Sequential

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60_000, 784), np.float32), rng.integers(0, 10, 60_000)

    def with_dlflow():
        model = Sequential([Dense(512, activation="relu"), Dense(10, activation="softmax")])
        model.compile(optimizer=Adam(), loss="sparse_categorical_cross_entropy")
        model.fit(X, y, batch_size=128, epochs=1)

    def with_sklearn():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            MLPClassifier((512,), batch_size=128, max_iter=1, alpha=0.0).fit(X, y)

    peer, ours = median_s(with_sklearn), median_s(with_dlflow)

    kernels = {
        f"{one['architecture']}, {one['num_threads']} thread"
        for one in threadpool_info()
        if one["user_api"] == "blas"
    }
    show(
        capsys,
        f"MLP 784-512-10, batch 128, one epoch of 60,000 rows, BLAS {sorted(kernels)}",
        [("scikit-learn MLPClassifier", peer, 1.0), ("dlflow.nn", ours, ours / peer)],
    )
