"""The tree's sum between processes on this host: python sum_ours.py PROCESSES SIZE,SIZE [shared|unix|tcp|tls] [FACTOR,FACTOR]

-> by size: milliseconds, best and median, and the processor's milliseconds of all ranks, per sum.
"""

import json
import multiprocessing
import sys
import time

import numpy as np
from distributed.security import Security

from dlflow.parallel.cost import best_shape
from dlflow.parallel.handshake import Ticket
from dlflow.parallel.transport import Listener, Tls, connect
from dlflow.parallel.tree import TreeSum

TOKEN = b"0" * 32


class Vector:
    def __init__(self, comm, length):
        self.g = comm.zeros(length, np.float32)


def contexts(security):
    return Tls(
        security.get_listen_args("worker")["ssl_context"],
        security.get_connection_args("worker")["ssl_context"],
    )


def rank(number, size, sizes, kind, shape, addresses, told, answers, certificates):
    listener = Listener(None if kind in {"shared", "unix"} else "127.0.0.1")
    tls = contexts(certificates) if kind == "tls" else None
    addresses.put((number, listener.address))
    everyone = {peer: told.get() for peer in range(size)}
    ticket = Ticket(0, size, TOKEN)
    comm = connect(
        listener,
        everyone,
        ticket,
        number,
        shape=shape,
        start_s=60,
        deadline_s=60,
        tls=tls,
        shared=kind == "shared",
    )
    found = {}
    for nbytes in sizes:
        tree = TreeSum(comm, size, lambda length=nbytes // 4: Vector(comm, length))
        times, worked = [], 0.0
        steps = max(5, min(200, int(3e7 / nbytes) + 3))
        for step in range(steps):
            vector = tree.buffer()
            vector.g.fill(1)
            tree.add(tree.own[0], vector)
            started, before = time.perf_counter(), time.process_time()
            tree.reduce(step)
            times.append(time.perf_counter() - started)
            worked += time.process_time() - before
        times.sort()
        found[nbytes] = [1000 * times[0], 1000 * times[len(times) // 2], 1000 * worked / steps]
    answers.put((number, found))
    comm.close()


def main():
    size, sizes = int(sys.argv[1]), [int(each) for each in sys.argv[2].split(",")]
    kind = sys.argv[3] if len(sys.argv) > 3 else "shared"
    shape = tuple(map(int, sys.argv[4].split(","))) if len(sys.argv) > 4 else best_shape(size, size, kind)
    certificates = Security.temporary() if kind == "tls" else None
    start = multiprocessing.get_context("spawn")
    addresses, answers = start.Queue(), start.Queue()
    told = [start.Queue() for _ in range(size)]
    ranks = [
        start.Process(
            target=rank, args=(n, size, sizes, kind, shape, addresses, told[n], answers, certificates)
        )
        for n in range(size)
    ]
    for process in ranks:
        process.start()
    found = dict(addresses.get(timeout=60) for _ in ranks)
    for queue in told:
        for number in range(size):
            queue.put(found[number])
    times = dict(answers.get(timeout=300) for _ in ranks)
    for nbytes, (_, _, worked) in times[0].items():
        times[0][nbytes][2] = worked + sum(times[other][nbytes][2] for other in range(1, size))
    json.dump(times[0], sys.stdout)
    for process in ranks:
        process.join(30)


if __name__ == "__main__":
    main()
