"""A gang whose network is cut for real: a worker in a network namespace of its own, whose packets get lost from one moment to the next.

Nothing is closed and nobody is told, as when a cable is pulled: frames go to a hardware address that nobody has. Needs root and `ip`.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from distributed import Client

from dlflow.parallel.gang import fit_on
from dlflow.training import fit
from tests.chaos.test_gang_faults import at_step, end
from tests.training_jobs import job

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(
        not shutil.which("ip") or os.geteuid() != 0,
        reason="a network namespace needs root and the program ip",
    ),
]
LONG = {"epochs": 40, "validation": None, "checkpoint_s": 0.05}
NOBODY = "02:00:00:00:00:99"


class Network:
    """Two hosts on one cable: this one, and a namespace."""

    def __init__(self, stack, here, there):
        self._here, self._there = here, there
        number = time.monotonic_ns() // 1000 % 10**9  # a name is free again only some time after its end
        self.name, self._ends = f"dlflow-{number}", (f"dla{number}", f"dlb{number}")
        ours, theirs = self._ends
        self._ip("netns", "add", self.name)
        stack.callback(self._ip, "netns", "del", self.name)
        self._ip("link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
        stack.callback(self._ip, "link", "del", ours)
        self._ip("addr", "add", f"{here}/24", "dev", ours)
        self._ip("link", "set", ours, "up")
        self._ip("-n", self.name, "addr", "add", f"{there}/24", "dev", theirs)
        for each in (theirs, "lo"):
            self._ip("-n", self.name, "link", "set", each, "up")

    def cut(self):
        """From now on nothing arrives on either side."""
        ours, theirs = self._ends
        lost = ("lladdr", NOBODY, "nud", "permanent", "dev")
        self._ip("neigh", "replace", self._there, *lost, ours)
        self._ip("-n", self.name, "neigh", "replace", self._here, *lost, theirs)

    def _ip(self, *words):
        subprocess.run(["ip", *words], check=True, timeout=20)


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


def start(stack, folder, *command, **environment):
    log = stack.enter_context((folder / f"{time.monotonic_ns()}.log").open("w"))
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment}
    )
    stack.callback(end, process)
    return process


# ranks are numbered by address
@pytest.mark.parametrize(
    ("here", "there"),
    [("10.213.77.1", "10.213.77.2"), ("10.213.77.2", "10.213.77.1")],
    ids=["rank 2", "rank 0"],
)
def test_a_worker_behind_a_cut_network_is_given_up_and_costs_no_bit(stack, tmp_path, here, there):
    reference = fit(job(tmp_path, "reference", **LONG))
    network = Network(stack, here, there)
    dask, file = (sys.executable, "-m", "dask"), str(tmp_path / "scheduler.json")
    start(
        stack,
        tmp_path,
        *dask,
        "scheduler",
        "--host",
        here,
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        file,
    )
    worker = (
        *dask,
        "worker",
        "--nthreads",
        "1",
        "--no-dashboard",
        "--scheduler-file",
        file,
        "--local-directory",
        str(tmp_path),
    )
    for _ in range(2):
        start(stack, tmp_path, *worker, "--host", here)
    start(stack, tmp_path, "ip", "netns", "exec", network.name, *worker, "--host", there)
    client = stack.enter_context(Client(scheduler_file=file, timeout=60))
    client.wait_for_workers(3, timeout=60)
    times = []

    def cut():
        times.append(time.monotonic())
        network.cut()

    def tell(event):
        inner(event)
        if event["event"] == "start" and times:
            times.append(time.monotonic())

    inner = at_step(2, cut)
    outcome = fit_on(client, job(tmp_path, "cut", **LONG), report=tell, deadline_s=6)

    starts = [event for event in inner.events if event["event"] == "start"]
    assert (starts[0]["workers"], starts[0]["links"]) == (3, "tcp")
    assert outcome.weights_sha256 == reference.weights_sha256
    assert outcome.workers == 2
    # by the ranks that wait for it, or, if they were late already, by the supervisor
    noticed = ("sent nothing for 6 s", "no rank of 3 made progress for 8.5 s")
    assert any(what in why for why in outcome.restarts for what in noticed), outcome.restarts
    assert times[1] - times[0] < 60
