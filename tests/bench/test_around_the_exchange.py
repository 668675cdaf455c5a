"""What surrounds the exchange of gradients costs: decoding by every rank, padding, and the whole state of the optimizer on every rank.

    .venv/bin/python -m pytest -m bench -s tests/bench/test_around_the_exchange.py

Processor time, so that other programs disturb little; the least of three, interleaved.
"""

import os
import time
from collections import defaultdict
from itertools import accumulate

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Batches, Dataset, TableFile, bucket, sample_field
from dlflow.nn import LSTM, Adam, BinaryCrossEntropy, Dense, Dropout, Embedding, SparseCategoricalCrossEntropy
from dlflow.parallel.gang import fit_on
from dlflow.training import Job, fit
from tests import projects
from tests.training_jobs import cluster

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

ROUNDS = 3


def written(path, X, y, *, compression="snappy"):
    """A training set of these rows."""
    field = sample_field(X.shape[1:])
    values = pa.FixedSizeBinaryArray.from_buffers(field.type, len(X), [None, pa.py_buffer(X.tobytes())])
    table = pa.table([values, pa.array(y)], schema=pa.schema([field, pa.field("y", pa.int32())]))
    pq.write_table(table, path, row_group_size=1 << 16, compression=compression)
    return Dataset((TableFile.of(path),))


def spent(work):
    """CPU-seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def test_what_decoding_by_every_rank_costs(tmp_path):
    """Rows as those of the flights: 17 numbers and five columns as one-hot, zstd; the model of that example."""
    rows, widths = 270_000, (17, 16, 3, 100, 7, 7)
    rng = np.random.default_rng(0)
    X = np.zeros((rows, sum(widths)), np.float32)
    X[:, :17] = rng.standard_normal((rows, 17))
    for start, width in zip(accumulate(widths), widths[1:], strict=False):
        X[np.arange(rows), start + rng.integers(0, width, rows)] = 1
    data = written(tmp_path / "rows.parquet", X, (X[:, 0] > 1).astype(np.int32), compression="zstd")
    layers = (
        Dense(128, activation="relu", l2=2e-4),
        Dropout(0.5),
        Dense(32, activation="relu"),
        Dropout(0.3),
        Dense(1),
    )
    found = []
    for number in range(ROUNDS):
        batches = Batches(data, batch=4096, seed=0)
        decode = spent(lambda: batches.take(0, 0, 0, 10))  # noqa: B023  (called at once)
        folder = str(tmp_path / f"{number}")
        job = Job(
            layers=layers,
            loss=BinaryCrossEntropy(),
            optimizer=Adam(),
            train=data,
            folder=folder,
            batch=4096,
            epochs=3,
        )
        found.append((decode, (spent(lambda: fit(job)) - decode) / 3))  # noqa: B023
    decode, epoch = (min(each) for each in zip(*found, strict=True))
    print(
        f"\ndecode {decode:.2f} CPU-s, an epoch {epoch:.2f}; the second rank's decoding, of all that two ranks do:"
    )
    print(
        f"  read once for 12 epochs {decode / (12 * epoch + 2 * decode):.1%}, read in every epoch {decode / (epoch + 2 * decode):.1%}"
    )


def test_what_buckets_save(tmp_path, data_dir, monkeypatch):
    """The messages of the gallery, of which the tables alone are made by the pipeline."""
    if not (data_dir / "sms_spam").is_dir():
        pytest.skip("no real data; set DLFLOW_DATA to the folder of data sets")
    text = (projects.REPOSITORY / "flows" / "gallery" / "messages" / "pipeline.toml").read_text("utf-8")
    (tmp_path / "pipeline.toml").write_text(text.replace("epochs = 6", "epochs = 1"), "utf-8")
    values = {"data": str(data_dir / "sms_spam")}
    projects.run(tmp_path, values=values)
    train = max(
        (Dataset((TableFile.of(path),)) for path in (tmp_path / "warehouse" / "words" / "data").iterdir()),
        key=lambda each: each.rows,
    )
    layers = (Embedding(4002, 32, mask_zero=True), LSTM(128, dropout=0.2, recurrent_dropout=0.2), Dense(1))
    for pool in (0, 8, 50):
        monkeypatch.setattr(bucket, "POOL", pool or 8)
        job = Job(layers=layers, loss=BinaryCrossEntropy(), optimizer=Adam(0.002), train=train, folder=str(tmp_path / f"{pool}"),
                  batch=64, epochs=6, bucket=bool(pool))  # fmt: skip
        outcomes = []
        seconds = spent(lambda: outcomes.append(fit(job))) / 6  # noqa: B023
        history = outcomes[0].history
        losses = " ".join(f"{line['loss']:.3f}" for line in history)
        print(
            f"\npools of {pool} batches: {seconds:.2f} CPU-s an epoch, padding {history[-1]['padding']:.1%}, losses {losses}"
        )


def test_what_the_whole_state_on_every_rank_would_cost(tmp_path):
    """407,000 parameters on 2 ranks: each a segment, with and without a checkpoint in memory each second, or each the whole."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((12_800, 784), dtype=np.float32), rng.integers(0, 10, 12_800).astype(np.int32)
    data = written(tmp_path / "rows.parquet", X, y)
    layers = (Dense(512, activation="relu"), Dense(10))
    kinds = {
        "segments": (1 << 18, 1e9),
        "segments, kept each second": (1 << 18, 1.0),
        "whole": (1 << 40, 1e9),
    }
    found = defaultdict(list)
    with cluster(2) as client:
        for number in range(ROUNDS):
            for name, settings in kinds.items():
                client.run(arrange, *settings)
                job = Job(layers=layers, loss=SparseCategoricalCrossEntropy(), optimizer=Adam(), train=data, checkpoint_s=1e9,
                          folder=str(tmp_path / f"{name}{number}"), batch=128, epochs=4)  # fmt: skip
                before = busy(client)
                steps = fit_on(client, job).steps
                found[name].append((busy(client) - before) / steps)
    for name, each in found.items():
        print(f"\n{name}: {1000 * min(each):.1f} CPU-ms a step of both ranks")


def arrange(all_bytes, memory_s):
    from dlflow.training import trainer, update

    update.ALL_BYTES, trainer.MEMORY_S = all_bytes, memory_s


def busy(client):
    """CPU-seconds of all workers so far."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in client.run(os.getpid).values())
