"""The tree's sum between Dask workers over their own connections: what each worker prepares, and the task that measures."""

import time

from dlflow.parallel.handshake import Ticket
from dlflow.parallel.relay import HANDLER, Relay, deliver
from dlflow.parallel.tree import TreeSum
from tests.bench.training.sum_ours import Vector

STEPS = 40
links = {}  # of this process, by rank


def prepare(run, workers, dask_worker):
    """Be reachable as a rank: all are, before any begins."""
    rank, size = workers.index(dask_worker.address), len(workers)
    dask_worker.handlers[HANDLER] = deliver
    links[rank] = Relay(
        dask_worker, run, Ticket(0, size, b"0" * 32), rank, workers, shape=(size,), deadline_s=60
    )


def measure(rank, sizes):
    """Median milliseconds of a sum, by its bytes."""
    comm, found = links.pop(rank), {}
    for nbytes in sizes.split(","):
        tree, times = TreeSum(comm, comm.size, lambda length=int(nbytes) // 4: Vector(comm, length)), []
        for step in range(STEPS):
            vector = tree.buffer()
            vector.g.fill(1)
            tree.add(tree.own[0], vector)
            began = time.perf_counter()
            tree.reduce(step)
            times.append(1000 * (time.perf_counter() - began))
        found[nbytes] = sorted(times)[STEPS // 2]
    comm.close()
    return found
