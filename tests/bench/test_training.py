"""Samples per second of a training step against PyTorch (eager) and Keras on JAX: `make bench`, or this file alone.

    DLFLOW_PEER_TORCH=/path/to/python DLFLOW_PEER_KERAS=/path/to/python .venv/bin/python -m pytest -m bench -s --timeout=3600 tests/bench/test_training.py

DLFLOW_BENCH_WORKLOADS="mlp128 lstm" chooses, DLFLOW_BENCH_ROUNDS=1 is quick.

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
# What holds NumPy and PyTorch to AVX2, as on a processor without AVX-512; left alone, both take what the processor has. XLA cannot be held:
# its products go to a library of its own, which takes AVX-512 whatever --xla_cpu_max_isa and ONEDNN_MAX_CPU_ISA say (190 GFLOP/s, where
# AVX2 ends at 126). So Keras has one column.
AVX2 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # NumPy's own loops
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}


def environment(*, avx2):
    chosen = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    chosen |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    chosen["PYTHONPATH"] = str(FOLDER.parents[2])
    return chosen | (AVX2 if avx2 else {})


def programs(name):
    """Command and environment of each program for this workload: with what the processor has, and, but for Keras, held to AVX2."""
    torch, keras = os.environ.get("DLFLOW_PEER_TORCH"), os.environ.get("DLFLOW_PEER_KERAS")
    commands = {"dlflow": [sys.executable, "ours.py", name]}
    if torch:
        commands["torch"] = [torch, "with_torch.py", name]
        if name in {"cnn", "conv3"}:
            commands["torch channels_last"] = [*commands["torch"], "channels_last"]
    found = {
        title + (", AVX2" if avx2 else ""): (command, environment(avx2=avx2))
        for avx2 in (False, True)
        for title, command in commands.items()
    }
    if keras:
        found["keras on jax"] = [keras, "with_keras.py", name], environment(avx2=False)
    return found


def figure(command, env):
    done = subprocess.run(
        command, env=env, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


ONLY = os.environ.get("DLFLOW_BENCH_WORKLOADS", " ".join(WORKLOADS)).split()


def test_a_training_step_against_the_peers(capsys):
    with capsys.disabled():
        print(f"\nsamples per second of processor time, one thread, median of {ROUNDS} rounds")
        for name in ONLY:
            rows, what = WORKLOADS[name]
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
                    f"  {title:<27}{statistics.median(rates):>12,.0f}   "
                    f"({min(rates):,.0f} to {max(rates):,.0f})   {note}",
                    flush=True,
                )
            rates = {
                title: statistics.median(each["median"] for each in made) for title, made in figures.items()
            }
            for mine, peers in (
                ("dlflow", [title for title in rates if not title.endswith("AVX2")]),
                ("dlflow, AVX2", [title for title in rates if title.endswith("AVX2")]),
            ):
                best = max((rates[title] for title in peers if title != mine), default=None)
                if best is not None:
                    print(f"  {mine} to the best of {', '.join(peers[1:])}: {rates[mine] / best:.2f}")
            parameters = {each[0]["parameters"] for title, each in figures.items() if name != "lstm"}
            assert len(parameters) <= 1, parameters
