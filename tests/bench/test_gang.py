"""Data-parallel training against PyTorch: all-reduce against gloo, samples per second on two cores against DDP and threads.

    DLFLOW_PEER_TORCH=/path/to/python .venv/bin/python -m pytest -m bench -s tests/bench/test_gang.py

Wall time, because waiting for each other is what is compared: run it on a quiet machine. The peer lives in an environment of its own.
Besides: the sum over Dask's own connections and by the cost model; what fixed shards cost; starting, recovering, feeding.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Batches, Dataset, TableFile, sample_field
from dlflow.nn import (
    LSTM,
    Adam,
    BinaryCrossEntropy,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    MaxPooling2D,
    MeanSquaredError,
    SparseCategoricalCrossEntropy,
)
from dlflow.parallel.cost import LINKS, best_shape, price
from dlflow.parallel.gang import fit_on
from dlflow.training import Job
from dlflow.training.job import default_shards
from tests.bench import relayed
from tests.bench.test_training import FOLDER, environment
from tests.bench.training.workloads import TOKENS, VOCABULARY, WORKLOADS, data
from tests.training_jobs import cluster

pytestmark = pytest.mark.bench
ROUNDS = int(os.environ.get("DLFLOW_BENCH_ROUNDS", "3"))
SMALL = "1000,100000,1000000"
LINK_SIZES = f"{SMALL},10000000"
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
    "lstm": (
        (Embedding(VOCABULARY, 64), LSTM(128, dropout=0.2), Dropout(0.2), Dense(1, activation="sigmoid")),
        BinaryCrossEntropy(),
        (TOKENS,),
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
        env=environment(avx2=False),
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
        print(
            f"\nall-reduce between {size} processes, ms (median of {ROUNDS} medians; best; least of a rank's processor)"
        )
        for nbytes in SIZES.split(","):
            ours = told([one[nbytes] for one, _ in rounds], size)
            line = f"  {int(nbytes) / 1e6:7.1f} MB   dlflow" + "".join(f" {each:8.2f}" for each in ours)
            if rounds[0][1]:
                gloo = told([one[nbytes] for _, one in rounds], 1)
                line += "   gloo" + "".join(f" {each:8.2f}" for each in gloo)
                line += "   ratio" + "".join(f" {b / a:5.2f}" for a, b in zip(ours, gloo, strict=True))
            print(line)


def told(rounds, ranks):
    """Of some rounds' best, median and processor time of so many ranks: the median of medians, the best, the least processor time of a rank."""
    best, usual, worked = zip(*rounds, strict=True)
    return statistics.median(usual), min(best), min(worked) / ranks


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
    worked: dict[str, list[float]] = {}  # processor's microseconds of all ranks per sample
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
            before = sum(two.run(time.process_time).values())
            outcome = fit_on(two, job, workers=workers)
            spent = 1e6 * (sum(two.run(time.process_time).values()) - before) / (epochs * len(y))
            rates = [line["samples_per_s"] for line in outcome.history[1:]]
            if turn:
                found.setdefault(title, []).append(statistics.median(rates))
                worked.setdefault(title, []).append(spent)
        if turn == 0:  # long enough epochs for a figure, from the first turn
            epochs = max(4, min(400, int(SECONDS * statistics.median(rates) / len(y))))
            continue
        for title, way in [("torch DDP over gloo, 2 x 1", "ddp"), ("torch, 1 x 2 threads", "threads")]:
            rate = peer("gang_torch.py", name, way)
            if rate:
                found.setdefault(title, []).append(rate["median"])
                worked.setdefault(title, []).append(rate["worked"])
    with capsys.disabled():
        print(
            f"\n{name}: samples per second of wall time, median of {ROUNDS}; processor's us of all ranks per sample, least (start included)"
        )
        for title, rates in found.items():
            print(
                f"  {title:<28} {statistics.median(rates):12,.0f}   {min(rates):12,.0f} to {max(rates):<12,.0f}{min(worked[title]):10.2f}"
            )
        usual = {title: statistics.median(rates) for title, rates in found.items()}
        peers = {title: rate for title, rate in usual.items() if title.startswith("torch")}
        for mode in ("exact", "fast"):
            ratios = [f"2 workers to 1: {usual[f'{mode}, 2 workers'] / usual[f'{mode}, 1 worker']:.2f}"]
            best = max(usual[f"{mode}, {workers}"] for workers in ("1 worker", "2 workers"))
            ratios += [f"to {title}: {best / rate:.2f}" for title, rate in peers.items()]
            print(f"  {mode}: {'; '.join(ratios)}")


def written(path, X, y, shape):
    """Rows as a training table: 16 row groups, so that the order of an epoch is a real one."""
    tokens = X.dtype.kind == "i"
    field = sample_field(shape)
    if tokens:
        field = field.with_metadata({**field.metadata, b"dtype": b"int32"})
    rows = np.ascontiguousarray(X.reshape(len(X), -1), np.int32 if tokens else np.float32)
    values = pa.FixedSizeBinaryArray.from_buffers(field.type, len(X), [None, pa.py_buffer(rows.tobytes())])
    table = pa.table(
        [values, pa.array(y)], schema=pa.schema([field, pa.field("y", pa.from_numpy_dtype(y.dtype))])
    )
    pq.write_table(table, path, row_group_size=len(X) // 16)
    return Dataset((TableFile.of(path),))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_sum_is_as_dear_as_the_cost_model_says(capsys, size):
    """Processor time of all ranks, so that fewer cores than ranks do not matter: rounds count as work, of waking up."""
    with capsys.disabled():
        print(
            f"\nsum of {size} processes, processor's ms per rank: measured (least of {ROUNDS}) and by the model"
        )
        for kind in ("shared", "unix", "tcp", "tls"):
            for shape in sorted({(size,), best_shape(size, size, kind)}):
                program = ("sum_ours.py", str(size), LINK_SIZES, kind, ",".join(map(str, shape)))
                rounds = [program_of(sys.executable, *program) for _ in range(ROUNDS)]
                cells = []
                for nbytes in LINK_SIZES.split(","):
                    measured = min(one[nbytes][2] for one in rounds) / size
                    by_model = 1000 * price(shape, size, int(nbytes)).seconds(LINKS[kind])
                    cells.append(f"{int(nbytes) / 1e6:.3f} MB {measured:7.3f} {by_model:7.3f}")
                print(f"  {kind:<5}{' x '.join(map(str, shape)):<10} {'   '.join(cells)}")


@pytest.mark.parametrize("size", [2, 4])
def test_the_sum_over_the_connections_of_dask(capsys, size):
    rounds = []
    with cluster(size) as client:
        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        for turn in range(ROUNDS):
            client.run(relayed.prepare, f"bench{turn}", workers)
            ranks = [
                client.submit(relayed.measure, rank, SMALL, workers=[worker], pure=False)
                for rank, worker in enumerate(workers)
            ]
            rounds.append(client.gather(ranks)[0])
    with capsys.disabled():
        print(
            f"\nall-reduce between {size} Dask workers over their TLS connections, ms (median of {ROUNDS} medians)"
        )
        for nbytes in SMALL.split(","):
            print(f"  {int(nbytes) / 1e6:7.3f} MB {statistics.median(one[nbytes] for one in rounds):8.2f}")


@pytest.mark.parametrize("name", MODELS)
def test_what_fixed_shards_cost(capsys, name):
    rounds = [program_of(sys.executable, "exact_ours.py", name) for _ in range(ROUNDS)]
    batch = WORKLOADS[name][0]
    usual = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
    with capsys.disabled():
        print(f"\n{name}: half a batch of {batch} as one shard {usual['1']:.2f} ms of processor time")
        for count in ("2", "4"):
            if count in usual:
                chosen = "   <- two ranks, by default" if default_shards(batch) == 2 * int(count) else ""
                print(
                    f"  as {count} shards {usual[count]:.2f}: {100 * (usual[count] / usual['1'] - 1):+.0f} %{chosen}"
                )


def test_starting_and_recovering(capsys, tmp_path):
    layers, loss, shape = MODELS["mlp128"]
    X, y = data("mlp128")
    dataset = written(tmp_path / "train.parquet", X, y.astype(np.int32), shape)
    starts, first, recovered = [], [], []
    for turn in range(ROUNDS):
        with cluster(2) as client:
            job = Job(
                layers=layers,
                loss=loss,
                optimizer=Adam(),
                train=dataset,
                epochs=60,
                folder=str(tmp_path / str(turn)),
            )
            fit_on(client, replace(job, epochs=1, folder=str(tmp_path / f"warm{turn}")))
            times: dict[str, list[float]] = {"start": [], "step": []}
            killed: list[float] = []

            def report(event, client=client, times=times, killed=killed):
                times.setdefault(event["event"], []).append(time.monotonic())
                if len(times["step"]) == 3 and event["event"] == "step" and not killed:
                    pids = client.run(os.getpid)
                    killed.append(time.monotonic())
                    os.kill(pids[max(pids)], signal.SIGKILL)

            began = time.monotonic()
            fit_on(client, job, report=report)
            starts.append(times["start"][0] - began)
            first.append(times["step"][0] - began)
            recovered.append(
                next(at for at in times["step"] if at > killed[0] and at > times["start"][1]) - killed[0]
            )
    with capsys.disabled():
        print(f"\nof two workers, seconds (median of {ROUNDS}; worst)")
        for title, found in (
            ("until ranks have met", starts),
            ("until the first step", first),
            ("from kill -9 to the next step", recovered),
        ):
            print(f"  {title:<32}{statistics.median(found):6.2f}{max(found):8.2f}")


def test_feeding_against_training(capsys, tmp_path):
    """Images as bytes, one thread, processor time: rows of an epoch without a model, and of the perceptron's steps."""
    images = np.random.default_rng(0).integers(0, 256, (60_000, 784), np.uint8)
    metadata = {"dtype": "uint8", "shape": "[784]", "scale": str(1 / 255)}
    field = pa.field("x", pa.binary(784), nullable=False, metadata=metadata)
    values = pa.FixedSizeBinaryArray.from_buffers(
        field.type, len(images), [None, pa.py_buffer(images.tobytes())]
    )
    labels = pa.array(np.arange(len(images), dtype=np.int32) % 10)
    path = tmp_path / "images.parquet"
    table = pa.table([values, labels], schema=pa.schema([field, pa.field("y", pa.int32())]))
    pq.write_table(table, path, row_group_size=4096, compression="none")
    fed = []
    for _ in range(ROUNDS):
        batches = Batches(Dataset((TableFile.of(path),)), batch=128, seed=0)
        began = time.process_time()
        for step in range(batches.steps):
            batches.take(0, step, 0, batches.size(step))
        fed.append(len(images) / (time.process_time() - began))
        batches.close()
    trained = [program_of(sys.executable, "ours.py", "mlp128")["median"] for _ in range(ROUNDS)]
    with capsys.disabled():
        print(
            f"\nfed {statistics.median(fed):,.0f} rows/s of processor time, trained {statistics.median(trained):,.0f}: {statistics.median(fed) / statistics.median(trained):.0f} times"
        )
