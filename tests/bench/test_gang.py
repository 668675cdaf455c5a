"""Data-parallel training against PyTorch: all-reduce against gloo, samples per second on two cores against DDP and threads.

    DLFLOW_PEER_TORCH=/path/to/python .venv/bin/python -m pytest -m bench -s tests/bench/test_gang.py

Wall time, because waiting for each other is what is compared: run it on a quiet machine. The peer lives in an environment of its own.
"""

import json
import os
import statistics
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Dataset, TableFile, sample_field
from dlflow.nn import (
    Adam,
    Conv2D,
    Dense,
    Flatten,
    MaxPooling2D,
    MeanSquaredError,
    SparseCategoricalCrossEntropy,
)
from dlflow.parallel.gang import fit_on
from dlflow.training import Job
from tests.bench.test_training import FOLDER, environment
from tests.bench.training.workloads import WORKLOADS, data
from tests.training_jobs import cluster

pytestmark = pytest.mark.bench
ROUNDS = int(os.environ.get("DLFLOW_BENCH_ROUNDS", "3"))
SIZES = "100000,1000000,10000000,100000000"
CLASSES = SparseCategoricalCrossEntropy()
MODELS = {
    "mlp128": ((Flatten(), Dense(512, activation="relu"), Dense(10, activation="softmax")), CLASSES, (784,)),
    "mlp1024": ((Flatten(), Dense(512, activation="relu"), Dense(10, activation="softmax")), CLASSES, (784,)),
    "cnn": (
        (
            Conv2D(32, 3, activation="relu"),
            MaxPooling2D(2),
            Flatten(),
            Dense(128, activation="relu"),
            Dense(10, activation="softmax"),
        ),
        CLASSES,
        (28, 28, 1),
    ),
    "tabular": (
        (Dense(64, activation="relu"), Dense(64, activation="relu"), Dense(1)),
        MeanSquaredError(),
        (32,),
    ),
}
SECONDS = 3.0


def peer(program, *arguments):
    python = os.environ.get("DLFLOW_PEER_TORCH")
    if not python:
        return None
    return program_of(python, program, *arguments)


def program_of(python, program, *arguments):
    done = subprocess.run(
        [python, program, *arguments],
        env=environment(),
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("size", [2, 4])
def test_the_sum_against_gloo(capsys, size):
    rounds = [
        (program_of(sys.executable, "sum_ours.py", str(size), SIZES), peer("sum_gloo.py", str(size), SIZES))
        for _ in range(ROUNDS)
    ]
    with capsys.disabled():
        print(f"\nall-reduce between {size} processes, ms (median of {ROUNDS} medians; best)")
        for nbytes in SIZES.split(","):
            ours = (
                statistics.median(one[nbytes][1] for one, _ in rounds),
                min(one[nbytes][0] for one, _ in rounds),
            )
            line = f"  {int(nbytes) / 1e6:7.1f} MB   dlflow {ours[0]:8.2f} {ours[1]:8.2f}"
            if rounds[0][1]:
                gloo = (
                    statistics.median(one[nbytes][1] for _, one in rounds),
                    min(one[nbytes][0] for _, one in rounds),
                )
                line += f"   gloo {gloo[0]:8.2f} {gloo[1]:8.2f}   ratio {gloo[0] / ours[0]:5.2f} {gloo[1] / ours[1]:5.2f}"
            print(line)


@pytest.fixture(scope="module")
def two():
    with cluster(2) as client:
        yield client


@pytest.mark.parametrize("name", MODELS)
def test_samples_per_second_on_two_cores_against_pytorch(capsys, two, tmp_path, name):
    layers, loss, shape = MODELS[name]
    X, y = data(name)
    kind = np.float32 if name == "tabular" else np.int32
    dataset = written(tmp_path / "train.parquet", X, y.astype(kind), shape)
    found: dict[str, list[float]] = {}
    epochs = 4
    for turn in range(ROUNDS + 1):
        for title, exact, workers in [
            ("exact, 2 workers", True, 2),
            ("fast, 2 workers", False, 2),
            ("exact, 1 worker", True, 1),
            ("fast, 1 worker", False, 1),
        ]:
            job = Job(
                layers=layers, loss=loss, optimizer=Adam(), train=dataset, batch=WORKLOADS[name][0], epochs=epochs,
                exact=exact, folder=str(tmp_path / f"{turn}{title}"), checkpoint_s=1e9,
            )  # fmt: skip
            outcome = fit_on(two, job, workers=workers)
            rates = [line["samples_per_s"] for line in outcome.history[1:]]
            if turn:
                found.setdefault(title, []).append(statistics.median(rates))
        if turn == 0:  # long enough epochs for a figure, from the first turn
            epochs = max(4, min(400, int(SECONDS * statistics.median(rates) / len(y))))
            continue
        for title, way in [("torch DDP over gloo, 2 x 1", "ddp"), ("torch, 1 x 2 threads", "threads")]:
            rate = peer("gang_torch.py", name, way)
            if rate:
                found.setdefault(title, []).append(rate["median"])
    with capsys.disabled():
        print(f"\n{name}: samples per second of wall time, median of {ROUNDS}")
        for title, rates in found.items():
            print(
                f"  {title:<28} {statistics.median(rates):12,.0f}   {min(rates):12,.0f} to {max(rates):,.0f}"
            )


def written(path, X, y, shape):
    """Rows as a training table: 16 row groups, so that the order of an epoch is a real one."""
    field = sample_field(shape)
    rows = np.ascontiguousarray(X.reshape(len(X), -1), np.float32)
    values = pa.FixedSizeBinaryArray.from_buffers(field.type, len(X), [None, pa.py_buffer(rows.tobytes())])
    table = pa.table(
        [values, pa.array(y)], schema=pa.schema([field, pa.field("y", pa.from_numpy_dtype(y.dtype))])
    )
    pq.write_table(table, path, row_group_size=len(X) // 16)
    return Dataset((TableFile.of(path),))
