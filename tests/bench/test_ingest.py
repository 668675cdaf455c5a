"""Ingest with quarantine and bookkeeping against DuckDB, Polars and dask.dataframe, interleaved, each in its own process.

Wall times of a machine that does other work say little: CPU-seconds are printed beside them.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench
ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("DLFLOW_PEERS", ROOT.parent / "shared" / "peers")) / "data"
ROWS = int(os.environ.get("DLFLOW_BENCH_ROWS", "1000000"))
REPEATS = 3
PROGRAMS = ("duckdb", "polars", "dask", "dlflow")


def test_ingest_against_duckdb_polars_and_dask(tmp_path, capsys):
    if not (PEERS / "gen.py").exists():
        pytest.skip(f"{PEERS}/gen.py is not there; set DLFLOW_PEERS to the folder of the peers")
    subprocess.run([sys.executable, PEERS / "gen.py", tmp_path / "data", str(ROWS)], check=True, timeout=1200)
    found = {name: [] for name in PROGRAMS}
    for repeat in range(REPEATS):
        for name in PROGRAMS:
            command = [
                sys.executable,
                ROOT / "tests/bench/ingest.py",
                name,
                tmp_path / "data",
                tmp_path / f"{name}{repeat}",
            ]
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=True,
                timeout=1200,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))

    truth = json.loads((tmp_path / "data" / "truth.json").read_text("utf-8"))
    good = next(value for key, value in truth.items() if "good" in key)
    assert {one["rows"] for one in found["dlflow"]} == {good}
    with capsys.disabled():
        print(f"\ningest of {ROWS:,} rows, medians of {REPEATS}")
        for name, runs in found.items():
            median = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
            print(
                f"  {name:<8} {median['wall_s']:8.2f} s   {median['cpu_s']:8.2f} CPU-s   {median['peak_mb']:6.0f} MB   {median['rows']:>12,.0f} rows"
            )
