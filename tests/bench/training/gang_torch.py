"""PyTorch on two cores: python gang_torch.py WORKLOAD ddp | threads -> samples per second of wall time, median of windows, and the processor's microseconds of all ranks per sample."""

import json
import os
import socket
import statistics
import sys
import time

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel
from with_torch import network
from workloads import STEPS, WORKLOADS, data

WINDOWS, SECONDS = 5, 1.0


def rank(number, size, name, port):
    torch.set_num_threads(1 if size > 1 else 2)
    torch.manual_seed(0)
    X, y = (torch.from_numpy(each) for each in data(name))
    net, loss = network(name)
    if X.ndim == 4:
        X = X.permute(0, 3, 1, 2).contiguous()
    y = y.float() if name == "tabular" else y
    if size > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=number, world_size=size)
        net = DistributedDataParallel(net)
    adam = torch.optim.Adam(net.parameters(), fused=True)
    batch = WORKLOADS[name][0]
    own = batch // size

    def step(at):
        rows = slice(at % STEPS * batch + number * own, at % STEPS * batch + (number + 1) * own)
        adam.zero_grad(set_to_none=True)
        loss(net(X[rows]), y[rows]).backward()
        adam.step()

    for at in range(8):
        step(at)
    started = time.perf_counter()
    for at in range(8):
        step(at)
    steps = torch.tensor(max(4, int(8 * SECONDS / (time.perf_counter() - started))))
    if size > 1:
        dist.broadcast(steps, 0)
    rates, worked = [], time.process_time()
    for _ in range(WINDOWS):
        started = time.perf_counter()
        for at in range(int(steps)):
            step(at)
        rates.append(int(steps) * batch / (time.perf_counter() - started))
    worked = 1e6 * size * (time.process_time() - worked) / (WINDOWS * int(steps) * batch)
    if number == 0:
        json.dump({"median": statistics.median(rates), "best": max(rates), "worked": worked}, sys.stdout)
        sys.stdout.flush()
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    size = 2 if sys.argv[2] == "ddp" else 1
    torch.multiprocessing.spawn(rank, args=(size, sys.argv[1], port), nprocs=size)
