"""Workers of one cluster whose BLAS computes with other kernels, as on machines of two kinds."""

import platform
import sys

import pytest
from distributed import Client

from dlflow.errors import ModelError
from dlflow.parallel.gang import fit_on
from tests.chaos.test_gang_network import stack, start
from tests.training_jobs import job

__all__ = ["stack"]
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="the kernels are those of x86"),
]


def test_a_gang_of_workers_with_other_kernels_is_refused_before_its_first_step(stack, tmp_path):
    dask, file = (sys.executable, "-m", "dask"), str(tmp_path / "scheduler.json")
    common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file)
    start(stack, tmp_path, *dask, "scheduler", "--port", "0", *common)
    for kernel in ("Haswell", "Nehalem"):
        worker = (*dask, "worker", "--nthreads", "1", "--local-directory", str(tmp_path), *common)
        start(stack, tmp_path, *worker, OPENBLAS_CORETYPE=kernel)
    client = stack.enter_context(Client(scheduler_file=file, timeout=60))
    client.wait_for_workers(2, timeout=60)
    events = []

    with pytest.raises(
        ModelError, match="workers differ in 'blas', and so in the last bits they compute"
    ) as caught:
        fit_on(client, job(tmp_path), report=events.append)

    assert all(f"{kernel}'" in str(caught.value) for kernel in ("Haswell", "Nehalem"))
    assert "set OPENBLAS_CORETYPE to one kernel" in str(caught.value)
    assert events == []
