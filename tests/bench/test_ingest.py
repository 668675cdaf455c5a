"""Ingest with quarantine and bookkeeping against DuckDB, Polars and dask.dataframe, interleaved, each in its own process.

    DLFLOW_BENCH_ROWS=1000000,10000000     how many rows, one table for each
    DLFLOW_BENCH_ROUNDS=3                  how often each program runs
    DLFLOW_BENCH_FILE_GB=5                 of the one large file that two workers of 2 GiB read

Wall times of a machine that does other work say little: CPU-seconds are printed beside them.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench
ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("DLFLOW_PEERS", ROOT.parent / "shared" / "peers")) / "data"
ROWS = [int(rows) for rows in os.environ.get("DLFLOW_BENCH_ROWS", "1000000,10000000").split(",")]
FILE_GB = float(os.environ.get("DLFLOW_BENCH_FILE_GB", "5"))
REPEATS = int(os.environ.get("DLFLOW_BENCH_ROUNDS", "3"))
PROGRAMS = ("duckdb", "polars", "dask", "dlflow", "workers")
PAUSED = 0.8 * 2048  # MB: where Dask pauses a worker of 2 GiB


@pytest.mark.parametrize("rows", ROWS)
def test_ingest_against_duckdb_polars_and_dask(tmp_path, capsys, rows):
    good = generated(tmp_path / "data", rows)
    found = {name: [] for name in PROGRAMS}
    for repeat in range(REPEATS):
        for name in PROGRAMS:
            found[name].append(ingested(name, tmp_path / "data", tmp_path / f"{name}{repeat}"))

    assert {one["rows"] for name in ("dlflow", "workers") for one in found[name]} == {good}
    with capsys.disabled():
        print(f"\ningest of {rows:,} rows, medians of {REPEATS}")
        for name, runs in found.items():
            median = {key: statistics.median(one[key] for one in runs) for key in runs[0] if key != "workers"}
            print(
                f"  {name:<8} {median['wall_s']:8.2f} s   {median['cpu_s']:8.2f} CPU-s   {median['peak_mb']:6.0f} MB   {median['rows']:>12,.0f} rows"
            )


def test_one_large_file_is_cut_and_read_by_all_workers(tmp_path, capsys):
    good = generated(tmp_path / "pieces", 1_000_000)
    pieces = sorted((tmp_path / "pieces" / "events").glob("*.csv"))
    texts = [piece.read_bytes().partition(b"\n") for piece in pieces]
    size = sum(len(rows) for _, _, rows in texts)
    copies = max(1, round(FILE_GB * 1e9 / size))
    (tmp_path / "data" / "events").mkdir(parents=True)
    with (tmp_path / "data" / "events" / "all.csv").open("wb") as file:
        file.write(texts[0][0] + b"\n")
        for _ in range(copies):
            file.writelines(rows for _, _, rows in texts)

    found = ingested("workers", tmp_path / "data", tmp_path / "out")

    shutil.rmtree(tmp_path / "data")
    first, second = found["workers"]
    with capsys.disabled():
        print(
            f"\none file of {copies * size / 1e9:.2f} GB: {found['wall_s']:.0f} s, {found['cpu_s']:.0f} CPU-s; "
            f"workers: {first['cpu_s']:.0f} CPU-s, {first['peak_mb']} MB and {second['cpu_s']:.0f} CPU-s, {second['peak_mb']} MB"
        )
    assert found["rows"] == copies * good
    assert max(first["peak_mb"], second["peak_mb"]) < PAUSED
    assert min(first["cpu_s"], second["cpu_s"]) > found["cpu_s"] / 5


def generated(folder, rows):
    """Make the events; how many rows are good."""
    if not (PEERS / "gen.py").exists():
        pytest.skip(f"{PEERS}/gen.py is not there; set DLFLOW_PEERS to the folder of the peers")
    subprocess.run([sys.executable, PEERS / "gen.py", folder, str(rows)], check=True, timeout=1200)
    return json.loads((folder / "truth.json").read_text("utf-8"))["good"]


def ingested(program, data, out):
    """What `ingest.py` says of one run."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests/bench/ingest.py", program, data, out],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=3000,
    )
    return json.loads(done.stdout.splitlines()[-1])
