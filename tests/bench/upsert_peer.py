"""One upsert of scattered keys in a process of its own, for its time and its memory.

python upsert_peer.py make|merge|here|workers ROOT ROWS FILES KEYS
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.engine import InProcess, OnDask
from pipelines.warehouse import Lineage, append, log, upsert, write_file

FEATURES = [f"f{i}" for i in range(8)]
SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.int64(), nullable=False),
        ("user_id", pa.int64()),
        ("category", pa.string()),
        ("amount", pa.float64()),
        ("label", pa.int8()),
        *[(name, pa.float32()) for name in FEATURES],
    ]
)


def events(ids: np.ndarray) -> pa.Table:
    chance = np.random.default_rng(int(ids[0]))
    columns = [
        ids,
        chance.integers(0, 1_000_000, len(ids)),
        pa.array(np.char.add("cat_", chance.integers(0, 30, len(ids)).astype(str))),
        np.round(chance.gamma(2.0, 20.0, len(ids)), 2),
        chance.integers(0, 2, len(ids)).astype(np.int8),
        *[chance.standard_normal(len(ids), dtype=np.float32) for _ in FEATURES],
    ]
    return pa.table(columns, schema=SCHEMA)


def make(root: str, rows: int, files: int) -> None:
    step = rows // files
    receipts = [
        write_file(
            root, events(np.arange(part * step, (part + 1) * step)), partition={}, schema=SCHEMA, part=part
        )
        for part in range(files)
    ]
    append(root, receipts, key="load", schema=SCHEMA, lineage=Lineage(run="bench"))


def run(how: str, root: str, source: pa.Table) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    said = {"key": "u", "by": ["event_id"], "schema": SCHEMA, "lineage": Lineage(run="bench")}
    started, busy = time.perf_counter(), time.process_time()
    if how == "merge":
        merged = log.handle(root).merge(source, "t.event_id = s.event_id", source_alias="s", target_alias="t")
        merged.when_matched_update_all().when_not_matched_insert_all().execute()
        return time.perf_counter() - started, time.process_time() - busy
    if how == "here":
        upsert(root, source, runner=InProcess(), **said)
        return time.perf_counter() - started, time.process_time() - busy
    from flows.cluster import cluster

    with cluster(workers=2) as client:
        before = sum(client.run(time.process_time).values())
        started, busy = time.perf_counter(), time.process_time()
        upsert(root, source, runner=OnDask(client), **said)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        busy += sum(client.run(time.process_time).values()) - before
        print(json.dumps({"worker_mb": max(client.run(memory_mb, "VmHWM").values())}))
        return seconds, busy


def memory_mb(name: str) -> float:
    """Of this process: `VmRSS` is what it holds now, `VmHWM` the most. Not `ru_maxrss`, which begins with what its parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


if __name__ == "__main__":
    how, root, rows, files, keys = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    if how == "make":
        make(root, rows, files)
        sys.exit()
    copy = f"{root}-{how}-{os.getpid()}"
    shutil.copytree(root, copy)
    source = events(np.sort(np.random.default_rng(7).choice(rows + rows // 100, keys, replace=False)))
    log.handle(copy)
    before = memory_mb("VmRSS")
    seconds, busy = run(how, copy, source)
    shutil.rmtree(copy)
    print(json.dumps({"seconds": seconds, "cpu": busy, "mb": memory_mb("VmHWM"), "before_mb": before}))
