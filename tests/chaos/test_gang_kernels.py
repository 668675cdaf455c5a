"""Workers of one cluster whose BLAS computes with other kernels, as on machines of two kinds."""

import platform
import sys

import pytest
from distributed import Client

from dlflow.errors import ModelError
from dlflow.parallel.gang import fit_on
from tests.chaos.test_gang_faults import at_step
from tests.chaos.test_gang_network import stack, start
from tests.training_jobs import job

__all__ = ["stack"]
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="the kernels are those of x86"),
]


@pytest.fixture
def cluster(stack, tmp_path):
    """A scheduler that has no worker yet, and what starts a worker with a kernel."""
    dask, file = (sys.executable, "-m", "dask"), str(tmp_path / "scheduler.json")
    common = ("--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", file)
    start(stack, tmp_path, *dask, "scheduler", "--port", "0", *common)
    client = stack.enter_context(Client(scheduler_file=file, timeout=60))

    def worker(kernel):
        command = (
            *dask,
            "worker",
            "--no-nanny",
            "--nthreads",
            "1",
            "--local-directory",
            str(tmp_path),
            *common,
        )
        return start(stack, tmp_path, *command, OPENBLAS_CORETYPE=kernel)

    return client, worker


def test_a_gang_of_workers_with_other_kernels_is_refused_before_its_first_step(cluster, tmp_path):
    client, worker = cluster
    for kernel in ("Haswell", "Nehalem"):
        worker(kernel)
    client.wait_for_workers(2, timeout=60)
    events = []

    with pytest.raises(
        ModelError, match="workers differ in 'blas', and so in the last bits they compute"
    ) as caught:
        fit_on(client, job(tmp_path), report=events.append)

    assert all(f"{kernel}'" in str(caught.value) for kernel in ("Haswell", "Nehalem"))
    assert "set OPENBLAS_CORETYPE to one kernel" in str(caught.value)
    assert events == []


def test_a_worker_with_another_kernel_that_comes_later_is_left_out_and_the_others_go_on(cluster, tmp_path):
    client, worker = cluster
    worker("Haswell")
    client.wait_for_workers(1, timeout=60)
    long = {"epochs": 1500, "validation": None, "checkpoint_s": 0.5}  # so that it comes while they train
    alone = fit_on(client, job(tmp_path, "alone", **long))
    report = at_step(2, lambda: (worker("Nehalem"), client.wait_for_workers(2, timeout=60)))

    outcome = fit_on(client, job(tmp_path, "mixed", **long), report=report)

    (left_out,) = [event["why"] for event in report.events if "is left out" in event.get("why", "")]
    assert "(in 'blas') differs from the ranks so far" in left_out
    assert (outcome.workers, outcome.restarts) == (1, ())
    assert outcome.weights_sha256 == alone.weights_sha256


def test_a_worker_with_another_kernel_does_not_go_on_with_what_others_have_begun(cluster, tmp_path):
    client, worker = cluster
    first = worker("Haswell")
    client.wait_for_workers(1, timeout=60)
    long = {"epochs": 1500, "validation": None, "checkpoint_s": 0.05}
    report = at_step(20, lambda: (worker("Nehalem"), client.wait_for_workers(2, timeout=60), first.kill()))

    with pytest.raises(ModelError, match="workers differ in 'blas'") as caught:
        fit_on(client, job(tmp_path, "handed over", **long), report=report)

    assert "the ranks so far has 'openblas" in str(caught.value)
