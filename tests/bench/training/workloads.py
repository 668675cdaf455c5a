"""The workloads that every program here trains: batch sizes and synthetic data of a fixed seed. NumPy only."""

import json
import sys
import time

import numpy as np

# name: (rows of a step, what it is)
WORKLOADS = {
    "mlp128": (128, "784-512-10, relu"),
    "mlp1024": (1024, "784-512-10, relu"),
    "cnn": (128, "28x28x1, conv 32 3x3, pool 2, dense 128, dense 10"),
    "lstm": (64, "100 tokens of 20,000, embedding 64, LSTM 128, dropout 0.2, dense 1"),
    "tabular": (512, "32-64-64-1, relu"),
    "conv3": (64, "32x32x3, conv 32, pool 2, conv 64, pool 2, conv 64, dense 64, dense 10"),
    "transformer": (32, "64 tokens of 1,000, 64 units, 4 heads, 256 hidden, gelu, one block"),
}
STEPS = 16  # batches of data
VOCABULARY, TOKENS = 20_000, 100


def data(name):
    rng, n = np.random.default_rng(0), WORKLOADS[name][0] * STEPS
    classes = rng.integers(0, 10, n)
    match name:
        case "mlp128" | "mlp1024":
            return rng.random((n, 784), np.float32), classes
        case "cnn":
            return rng.random((n, 28, 28, 1), np.float32), classes
        case "conv3":
            return rng.random((n, 32, 32, 3), np.float32), classes
        case "tabular":
            X = rng.standard_normal((n, 32)).astype(np.float32)
            return X, X[:, 0] * X[:, 1]
        case "lstm":
            share = 1 / np.arange(1, VOCABULARY)  # as words in texts; 0 is padding and not drawn
            words = rng.choice(np.arange(1, VOCABULARY), size=(n, TOKENS), p=share / share.sum())
            return words, (classes > 4).astype(np.float32)
    return rng.integers(1, 1000, (n, 64)), (classes > 4).astype(np.float32)


def measure(program, name, step, *, seconds=3.0, windows=5, warm=4, **facts):
    """Print samples per second of processor time as JSON: the median and the best of some windows.

    Processor time, because other work on the machine lengthens a wall clock's seconds for one program and not for the other.
    """
    for number in range(warm):
        step(number)
    started = time.process_time()
    step(0)
    each = max(time.process_time() - started, 1e-5)
    steps = max(1, int(seconds / windows / each))
    rates = []
    for _ in range(windows):
        started = time.process_time()
        for number in range(steps):
            step(number % STEPS)
        rates.append(steps * WORKLOADS[name][0] / (time.process_time() - started))
    rates.sort()
    json.dump(
        {"program": program, "workload": name, "median": rates[windows // 2], "best": rates[-1], **facts},
        sys.stdout,
    )
