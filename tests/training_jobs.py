"""Small trainings, and clusters to run them on, for the tests of dlflow.training and dlflow.parallel."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlflow.data import Dataset, TableFile, sample_field
from dlflow.nn import Adam, BinaryCrossEntropy, Dense, Dropout
from dlflow.training import Job

WIDTH = 12


def aligned_vector(size: int) -> Any:
    """Float32 numbers 0, 1, 2 ..."""
    return np.arange(size, dtype=np.float32)


def dataset(
    path: Path, rows: int, *, seed: int = 0, poison: int | None = None, row_group: int = 100
) -> Dataset:
    """Rows of normal numbers with a label that two of them decide; row `poison` holds numbers at the edge of float32. A file that is there is kept."""
    if path.exists():
        return Dataset((TableFile.of(path),))
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    y = (X[:, 0] + X[:, 1] / 2 > 0).astype(np.int32)
    if poison is not None:
        X[poison] = 3e38
    field = sample_field((WIDTH,))
    values = pa.FixedSizeBinaryArray.from_buffers(field.type, rows, [None, pa.py_buffer(X.tobytes())])
    table = pa.table([values, pa.array(y)], schema=pa.schema([field, pa.field("y", pa.int32())]))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group)
    return Dataset((TableFile.of(path),))


def job(folder: Path, name: str = "run", **settings: Any) -> Job:
    """A binary classifier with dropout and weight decay: 1,000 rows in batches of 96, so the last batch is smaller."""
    if "train" not in settings:
        settings["train"] = dataset(folder / "train.parquet", 1000)
    if "validation" not in settings:
        settings["validation"] = dataset(folder / "validation.parquet", 300, seed=1)
    chosen: dict[str, Any] = {
        "layers": (Dense(16, activation="relu", l2=1e-4), Dropout(0.2), Dense(1, activation="sigmoid")),
        "loss": BinaryCrossEntropy(),
        "optimizer": Adam(0.01),
        "batch": 96,
        "epochs": 3,
        "seed": 3,
        "shards": 8,
        "folder": str(folder / name),
    }
    return Job(**{**chosen, **settings})


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """The client of so many worker processes of one thread each, over TLS; killed workers come back."""
    import dask
    from distributed import Client, LocalCluster, Security

    with (
        # the default forgets a worker for good that dies twice within 15 s
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=Security.temporary(),
            silence_logs=logging.CRITICAL,
        ) as local,
        Client(local) as client,
    ):
        client.wait_for_workers(workers, timeout=60)
        yield client


def shared_memories() -> int:
    """Mappings and descriptors of ranks' shared memory in this process."""
    gc.collect()
    found = Path("/proc/self/maps").read_text(encoding="utf-8").count("memfd:dlflow-rank")
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one of this loop, or of another thread
            found += "memfd:dlflow-rank" in str(each.readlink())
    return found
