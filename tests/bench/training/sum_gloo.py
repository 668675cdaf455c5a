"""gloo's all-reduce between processes on this host: python sum_gloo.py PROCESSES SIZE,SIZE -> milliseconds, best and median.

The third number is the processor's milliseconds of rank 0.
"""

import json
import os
import socket
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing


def rank(number, size, sizes, port):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=number, world_size=size)
    found = {}
    for nbytes in sizes:
        vector, times, worked = torch.ones(nbytes // 4), [], 0.0
        dist.all_reduce(vector)
        for _ in range(max(5, min(200, int(3e7 / nbytes) + 3))):
            vector.fill_(1)
            started, before = time.perf_counter(), time.process_time()
            dist.all_reduce(vector)
            times.append(time.perf_counter() - started)
            worked += time.process_time() - before
        times.sort()
        found[nbytes] = [1000 * times[0], 1000 * times[len(times) // 2], 1000 * worked / len(times)]
    if number == 0:
        json.dump(found, sys.stdout)
        sys.stdout.flush()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    size = int(sys.argv[1])
    torch.multiprocessing.spawn(
        rank, args=(size, [int(each) for each in sys.argv[2].split(",")], port), nprocs=size
    )
