"""Samples per second of a training step against PyTorch (eager) and Keras on JAX: `make bench`, or this file alone.

    DLFLOW_PEER_TORCH=/path/to/python DLFLOW_PEER_KERAS=/path/to/python .venv/bin/python -m pytest -m bench -s tests/bench/test_training.py

A peer lives in an environment of its own, which the variables name: torch, numpy; keras, jax, numpy. One that is not named is left out.
Programs run one after the other, again and again in turn, each with one thread; a figure is the median over rounds of medians of
processor time, so that other work on the machine disturbs all alike.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.training.workloads import WORKLOADS

pytestmark = pytest.mark.bench
FOLDER = Path(__file__).parent / "training"
ROUNDS = int(os.environ.get("DLFLOW_BENCH_ROUNDS", "3"))
KERNELS = {"dlflow": "SkylakeX", "dlflow, AVX2 kernels": "Haswell"}


def environment(kernel=None):
    chosen = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    chosen |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    chosen["PYTHONPATH"] = str(FOLDER.parents[2])
    if kernel == "Haswell":  # SkylakeX is what OpenBLAS takes by itself where the processor has AVX-512
        chosen["OPENBLAS_CORETYPE"] = kernel
    return chosen


def programs(name):
    """Command and environment of each program for this workload."""
    torch, keras = os.environ.get("DLFLOW_PEER_TORCH"), os.environ.get("DLFLOW_PEER_KERAS")
    found = {
        title: ([sys.executable, "ours.py", name], environment(kernel)) for title, kernel in KERNELS.items()
    }
    if torch:
        found["torch"] = [torch, "with_torch.py", name], environment()
        if name in {"cnn", "conv3"}:
            found["torch channels_last"] = [torch, "with_torch.py", name, "channels_last"], environment()
    if keras:
        found["keras on jax"] = [keras, "with_keras.py", name], environment()
    return found


def figure(command, env):
    done = subprocess.run(
        command, env=env, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_training_step_against_the_peers(capsys):
    with capsys.disabled():
        print(f"\nsamples per second of processor time, one thread, median of {ROUNDS} rounds")
        for name, (rows, what) in WORKLOADS.items():
            chosen = programs(name)
            figures = {title: [] for title in chosen}
            for _ in range(ROUNDS):
                for title, (command, env) in chosen.items():
                    figures[title].append(figure(command, env))
            print(f"{name} (batch {rows}: {what})")
            for title, made in figures.items():
                rates = [each["median"] for each in made]
                note = made[0].get("kernel", made[0].get("version", ""))
                print(
                    f"  {title:<24}{statistics.median(rates):>12,.0f}   "
                    f"({min(rates):,.0f} to {max(rates):,.0f})   {note}",
                    flush=True,
                )
            parameters = {each[0]["parameters"] for title, each in figures.items() if name != "lstm"}
            assert len(parameters) <= 1, parameters
