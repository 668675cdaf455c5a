"""Where a training begins: at the newest checkpoint that a rank has, or with first weights, the same on all ranks."""

from collections.abc import Callable, Mapping

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn import Model
from dlflow.parallel.comm import Comm, all_gather, broadcast
from dlflow.training.checkpoint import HEADER_BYTES, Checkpoint, Checkpoints, encode, load_weights
from dlflow.training.job import Job

__all__ = ["begin", "newest"]


def newest(
    comm: Comm,
    kept: Checkpoint | None,
    checkpoints: Checkpoints,
    sizes: Mapping[str, int],
    warn: Callable[[str], None],
) -> tuple[bytes, str]:
    """The newest checkpoint that any rank has in memory or rank 0 finds on disk, on every rank, and which of both; empty if there is none.

    `sizes` are `parameters` and `state` of the model.

    Raises: ModelFileError on rank 0 if all on disk are damaged; PeerLost, Stopped.
    """
    found = np.full((comm.size, 2), -1, np.int64)
    found[comm.rank, 0] = kept.progress.updates if kept else -1
    found[comm.rank, 1] = checkpoints.updates() if comm.rank == 0 else -1
    all_gather(comm, found, list(range(comm.size + 1)), 0)
    root = int(found[:, 0].argmax())
    if found[root, 0] < max(found[0, 1], 0):
        root, kept = 0, None

    def made() -> bytes:
        return encode(kept) if kept else checkpoints.newest(**sizes, warn=warn)

    limit = 4 * (2 * sizes["parameters"] + sizes["state"]) + HEADER_BYTES
    data = broadcast(comm, made, 0, limit=limit, root=root) if found.max() >= 0 else b""
    return data, "memory" if found[root, 0] >= max(found[0, 1], 0) else "disk"


def begin(job: Job, model: Model, comm: Comm) -> None:
    """Give the model its first weights: by the seed, or those that rank 0 reads from the file of the job.

    Raises: ModelError on all ranks if the file is of another model; ModelFileError on rank 0 if it is not that of the digest; PeerLost, Stopped.
    """
    given, size = job.begin, model.parameters
    if given is None:
        model.init(job.seed)
    else:
        path, sha256 = given.path, given.sha256
        data = broadcast(comm, lambda: load_weights(path, sha256=sha256).tobytes(), 0, limit=1 << 40)
        if len(data) != 4 * size:
            raise ModelError(
                f"job: {path} has {len(data) // 4} weights to begin with, expected {size}; give those of the same layers"
            )
        model.w[...] = np.frombuffer(data, np.float32)
    model.constrain()
