"""The warehouse against its peers: many files, upserts of scattered keys, reading into matrices; `make bench`.

DLFLOW_BENCH_ROWS=10000000 takes ten million rows in 128 files and 200,000 keys.
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
import pyarrow as pa
import pytest

from pipelines.engine import InProcess, OnDask
from pipelines.warehouse import Lineage, Snapshot, append, log, prune, read_matrix, units, write_file
from pipelines.warehouse import receipt as receipts
from pipelines.warehouse.reading import UNIT_ROWS
from tests.bench.test_bench import median_s, show
from tests.bench.upsert_peer import FEATURES, SCHEMA, make

pytestmark = pytest.mark.bench
FILES = 10_000
ROWS = int(os.environ.get("DLFLOW_BENCH_ROWS", "2000000"))
KEYS, PARTS = ROWS // 50, max(64, ROWS // 78_125)


def test_ten_thousand_files(tmp_path, capsys, monkeypatch):
    uri = str(tmp_path / "t")
    schema = pa.schema([("id", pa.int64()), ("v", pa.float64()), ("name", pa.string()), ("day", pa.string())])
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # the preparation, which is not timed
        made = [
            write_file(
                uri,
                pa.table([range(i * 10, i * 10 + 10), [0.5] * 10, ["x"] * 10], names=["id", "v", "name"]),
                partition={"day": f"d{i % 100}"},
                schema=schema,
                part=i,
            )
            for i in range(FILES)
        ]
    columns = {"schema": schema, "partition_by": ["day"]}
    unsealed = [{name: value for name, value in one.items() if name != "seal"} for one in made]
    rows = []

    def timed(name, work, before=lambda: None, repeats=1):
        """The median wall time, and the median time of the processor: others are busy on it, too."""
        walls, processors = [], []
        for _ in range(repeats):
            before()
            started, busy = time.perf_counter(), time.process_time()
            answer = work()
            processors.append(time.process_time() - busy)
            walls.append(time.perf_counter() - started)
        rows.append((name, statistics.median(walls), statistics.median(processors)))
        return answer

    def no_table():
        shutil.rmtree(f"{uri}/{log.LOG}", ignore_errors=True)

    def commit():
        append(uri, made, key="k", lineage=Lineage(run="b"), **columns)

    timed(
        "check without seals: every footer parsed",
        lambda: receipts.check(uri, unsealed, **columns),
        repeats=5,
    )
    timed("check by seals: every footer compared", lambda: receipts.check(uri, made, **columns), repeats=5)
    timed("commit, by seals", commit, no_table, repeats=5)
    snapshot = timed("open", lambda: Snapshot.open(uri))
    timed("list", snapshot.files)
    near = timed(
        "prune by bounds and partition", lambda: prune.files(snapshot, "id == 50120 and day == 'd12'")
    )
    peer = timed(
        "deltalake: prune by bounds and partition",
        lambda: log.handle(uri).file_uris(file_pruning_predicate="id = 50120 AND day = 'd12'"),
    )
    with capsys.disabled():
        print(f"\n{FILES:,} files, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for name, wall, processor in rows:
            print(f"  {name:<44} {wall:8.3f} s, of the processor {processor:8.3f} s")
    assert len(near) == len(peer) == 1


def upserted(how, root):
    script = str(Path(__file__).with_name("upsert_peer.py"))
    command = [sys.executable, script, how, root, str(ROWS), str(PARTS), str(KEYS)]
    folder = str(Path(__file__).parents[2])
    said = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": folder, "HOME": folder},
    ).stdout
    return {key: value for line in said.splitlines() for key, value in json.loads(line).items()}


def above(one):
    """What the work adds to libraries and source, in MB."""
    return one["mb"] - one["before_mb"]


def test_an_upsert_of_scattered_keys_against_merge(tmp_path, capsys):
    root = str(tmp_path / "events")
    make(root, ROWS, PARTS)

    found = {how: [upserted(how, root) for _ in range(3)] for how in ("merge", "here", "workers")}

    best = {how: sorted(times, key=lambda one: one["seconds"])[1] for how, times in found.items()}
    peer = best["merge"]
    show(
        capsys,
        f"upsert of {KEYS:,} scattered keys into {ROWS:,} rows in {PARTS} files",
        [(how, one["seconds"], one["seconds"] / peer["seconds"]) for how, one in best.items()],
    )
    with capsys.disabled():
        for how, one in best.items():
            worker = f", a worker {one['worker_mb']:,.0f} MB" if "worker_mb" in one else ""
            print(
                f"  {how:<12} {one['cpu']:.2f} s of the processor ({one['cpu'] / peer['cpu']:.2f} x), "
                f"peak memory {one['mb']:,.0f} MB ({one['mb'] / peer['mb']:.2f} x), {above(one):,.0f} MB above the "
                f"{one['before_mb']:,.0f} MB before it ({above(one) / above(peer):.2f} x){worker}"
            )


def _matrix(asked):
    """Features of some units as one float32 matrix; its sum, so that nothing large comes back."""
    found, schema = asked
    return float(read_matrix(found, schema, FEATURES).sum(dtype=np.float64))


def test_reading_into_matrices_against_dask_dataframe(tmp_path, local_cluster, capsys):
    import dask.dataframe as dd

    root = str(tmp_path / "events")
    make(root, ROWS, PARTS)
    snapshot = Snapshot.open(root)
    found = units(snapshot)
    tasks = max(2, ROWS // UNIT_ROWS)  # as large as a task that users cut
    groups = [(found[start::tasks], SCHEMA) for start in range(tasks)]
    runner = OnDask(local_cluster)
    files = [file.absolute for file in snapshot.files()]

    def ours(where):
        return sum(where.run(_matrix, groups, name="read", progress=lambda *_: None))

    def theirs():
        frame = dd.read_parquet(files, columns=FEATURES)
        parts = frame.map_partitions(lambda part: part.to_numpy().sum(dtype=np.float64), meta=(None, "f8"))
        return float(local_cluster.compute(parts).result().sum())

    assert ours(runner) == pytest.approx(theirs(), rel=1e-6)
    peer, here, there = median_s(theirs), median_s(lambda: ours(InProcess())), median_s(lambda: ours(runner))

    def busy(work):
        """Seconds of the processors of the workers, of three times."""
        before = sum(local_cluster.run(time.process_time).values())
        for _ in range(3):
            work()
        return sum(local_cluster.run(time.process_time).values()) - before

    workers = busy(theirs), busy(lambda: ours(runner))
    show(
        capsys,
        f"{ROWS:,} rows, {len(FEATURES)} columns into float32 matrices",
        [
            ("dd.read_parquet, 2 workers", peer, 1.0),
            ("units, this process", here, here / peer),
            ("units, 2 workers", there, there / peer),
        ],
    )
    with capsys.disabled():
        print(f"  of the workers' processors: {workers[0] / 3:.2f} s, units {workers[1] / 3:.2f} s each time")
