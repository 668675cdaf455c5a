"""What the engine costs beside the work: by file, by task, with more data than memory, by the number of rows and workers.

Every run is a process of its own (engine_job.py, data_job.py). CPU-seconds are read first: walls only on a quiet machine.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.test_bench import PEERS
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.bench
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PEERS": str(PEERS)}
MOST_FILES = int(os.environ.get("DLFLOW_BENCH_FILES", "10000"))
GB = float(os.environ.get("DLFLOW_BENCH_GB", "10.8"))
MEMORY = int(os.environ.get("DLFLOW_BENCH_MEMORY", "512"))  # MiB of each of two workers
SIZES = [int(rows) for rows in os.environ.get("DLFLOW_BENCH_ROWS", "1000000,3000000,10000000").split(",")]


def run(program, *rest):
    done = subprocess.run(
        [sys.executable, HERE / program, *map(str, rest)],
        env=ENVIRONMENT,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=3000,
    )
    return json.loads(done.stdout.splitlines()[-1])


def up_to(most):
    return [number for number in (10, 100, 1_000, 10_000, 100_000) if number <= most]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_file_costs(tmp_path, capsys, workers):
    """The same 400,000 rows in more and more files."""
    found = {
        files: run("engine_job.py", "files", files, tmp_path / "out", "--workers", workers)["laps"]
        for files in up_to(MOST_FILES)
    }

    with capsys.disabled():
        print(f"\n400,000 rows in N files, {workers} workers (0: this process); CPU-seconds")
        usual = sum(lap["cpu_s"] for lap in found[10].values())
        for files, laps in found.items():
            total = sum(lap["cpu_s"] for lap in laps.values())
            print(
                f"  {files:>7,} files: plan {laps['plan']['cpu_s']:7.2f}  build {laps['events']['cpu_s']:7.2f}  "
                f"{(total - usual) / files * 1e3:6.2f} ms a file beyond 10"
            )


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("ms", "most"), [(5, MOST_FILES), (0, 100_000)])
def test_what_a_part_costs(tmp_path, capsys, workers, ms, most):
    """Parts of five milliseconds, which is less than the smallest that an input is cut into, and parts that do nothing."""
    found = {
        parts: run("engine_job.py", "tasks", parts, tmp_path / "out", "--workers", workers, "--ms", ms)
        for parts in up_to(most)
    }

    with capsys.disabled():
        print(f"\nN parts of {ms} ms of processor time, {workers} workers (0: this process)")
        for parts, said in found.items():
            lap = said["laps"]["tasks"]
            over = lap["cpu_s"] / parts * 1e3 - ms
            shares = "".join(f"; of parts of {one} ms {over / one:.1%}" for one in (5, 50))
            print(
                f"  {parts:>7,} parts: {lap['wall_s']:7.2f} s  {lap['cpu_s']:7.2f} CPU-s  {over:6.3f} ms a part beside the work{shares}; "
                f"{said['peak_mb']} MB"
            )


def test_ten_times_more_data_than_all_workers_have_memory(tmp_path, capsys):
    said = run("engine_job.py", "large", GB, tmp_path / "out", "--workers", 2, "--memory", MEMORY)

    with capsys.disabled():
        print(
            f"\n{said['mb']:,} MB of CSV on 2 workers of {MEMORY} MiB ({said['mb'] / MEMORY / 2.097:.1f} times their memory): "
            f"{said['rows']:,} rows, {said['laps']['events']}, most memory of a worker {said['workers_mb']} MB, "
            f"paused {said['paused']} times"
        )
    assert said["rows"] > 0
    assert not said["killed"]


def test_the_time_of_a_row_stays_the_same_from_a_million_on(tmp_path, capsys):
    if not PEERS.is_dir():
        pytest.skip(f"no peers at {PEERS}; set DLFLOW_PEERS to the folder")
    found = {}
    for rows in SIZES:
        subprocess.run(
            [sys.executable, PEERS / "gen.py", tmp_path / "data", str(rows)], check=True, timeout=1200
        )
        found[rows] = run("data_job.py", tmp_path / "data", tmp_path / "out")
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()

    with capsys.disabled():
        print("\nthe data job in this process by number of rows")
        for rows, one in found.items():
            print(
                f"  {rows:>11,} rows: {one['total']:7.1f} s  {one['cpu_s']:7.1f} CPU-s  {one['cpu_s'] / rows * 1e6:5.2f} CPU-s a million  "
                f"{one['peak_rss_mb']:,} MB  other {one['other_cpu_s']:.1f}"
            )


def test_the_gain_of_a_second_worker(tmp_path, capsys):
    if not PEERS.is_dir():
        pytest.skip(f"no peers at {PEERS}; set DLFLOW_PEERS to the folder")
    subprocess.run(
        [sys.executable, PEERS / "gen.py", tmp_path / "data", str(SIZES[0])], check=True, timeout=1200
    )
    one, two = (run("data_job.py", tmp_path / "data", tmp_path / "out", "--workers", n) for n in (1, 2))

    assert (one["agg"], one["x"]) == (two["agg"], two["x"])
    with capsys.disabled():
        print(f"\nthe data job, {SIZES[0]:,} rows, without the start of the cluster")
        walls = [said["total"] - said["steps"]["cluster start"] for said in (one, two)]
        for workers, wall, said in zip((1, 2), walls, (one, two), strict=True):
            print(
                f"  {workers} workers: {wall:7.1f} s  {said['cpu_s']:6.1f} CPU-s  {said['workers']}  other {said['other_cpu_s']:.1f}"
            )
        print(f"  {walls[0] / walls[1]:.2f} times as fast")
