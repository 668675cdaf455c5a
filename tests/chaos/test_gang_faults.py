"""A gang under what the fast tests leave out: workers that hang, have no nanny, die at random; a driver or scheduler that dies."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from dlflow.errors import GangFailed
from dlflow.nn import Dense
from dlflow.parallel.gang import fit_on
from dlflow.training import fit
from tests.training_jobs import cluster, job

pytestmark = pytest.mark.chaos

LONG = {"epochs": 250, "validation": None, "checkpoint_s": 0.05}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def reference(folder):
    return fit(job(folder, "reference", **LONG))


@pytest.fixture
def client():
    with cluster(3) as client:
        yield client


class External:
    """A scheduler and workers that are processes of their own, as on a real cluster."""

    def __init__(self, folder, stack):
        self.folder, self._stack = folder, stack
        self._file = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._start(
            "scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            self._file,
        )
        self.workers = []

    def worker(self, *options):
        process = self._start(
            "worker", "--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard", "--scheduler-file", self._file,
            "--local-directory", self.folder, *options,
        )  # fmt: skip
        self.workers.append(process)
        return process

    def client(self, workers):
        from distributed import Client

        client = self._stack.enter_context(Client(scheduler_file=str(self._file), timeout=60))
        client.wait_for_workers(workers, timeout=60)
        return client

    def _start(self, kind, *options):
        command = [sys.executable, "-m", "dask", kind, *map(str, options)]
        log = self._stack.enter_context((self.folder / f"{kind}-{time.monotonic_ns()}.log").open("w"))
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
        )
        self._stack.callback(end, process)
        return process


def end(process):
    for number in (signal.SIGCONT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@pytest.fixture
def external(tmp_path):
    with ExitStack() as stack:
        yield External(tmp_path, stack)


def at_step(number, act):
    """Does something at the n-th step that is told, once."""
    events = []

    def report(event):
        events.append(event)
        if event["event"] == "step" and sum(each["event"] == "step" for each in events) == number:
            act()

    report.events = events
    return report


def pids(client):
    return [pid for _, pid in sorted(client.run(os.getpid, on_error="ignore").items())]


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_hangs_is_ended_and_costs_no_bit(client, folder, reference, rank):
    hung = []

    def hang():
        hung.append(time.monotonic())
        os.kill(pids(client)[rank], signal.SIGSTOP)

    report = at_step(2, hang)
    outcome = fit_on(client, job(folder, f"hang{rank}", **LONG), report=report, deadline_s=4)

    restarted = [event["why"] for event in report.events if event["event"] == "restart"]
    assert outcome.weights_sha256 == reference.weights_sha256
    assert any(f"rank {rank} " in why and "sent nothing for 4 s" in why for why in restarted)
    assert time.monotonic() - hung[0] < 60


def test_random_kills_cost_no_bit(client, folder, reference):
    seed = int(os.environ.get("DLFLOW_SEED", str(time.time_ns() % 100_000)))
    print(f"DLFLOW_SEED={seed}")
    chance = random.Random(seed)
    steps = []

    def report(event):
        steps.append(event["event"])
        if len(steps) == 8 or (len(steps) > 8 and chance.random() < 0.04):
            for pid in chance.sample(here := pids(client), min(1, len(here))):  # all may be dead just now
                os.kill(pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))

    outcome = fit_on(
        client, job(folder, f"random{seed}", **LONG), report=report, max_restarts=50, deadline_s=5
    )

    assert outcome.weights_sha256 == reference.weights_sha256
    assert outcome.restarts


def make_slow():
    """This worker computes each gradient 14 more times; a look at the pace is due each half second."""
    from dlflow.nn import Model

    usual = Model.gradient

    def again(self, *args, **options):
        for _ in range(14):
            usual(self, *args, **options)
        return usual(self, *args, **options)

    Model.gradient = again


def look_often():
    from dlflow.training import pace

    pace.LOOK_S = 0.5


@pytest.mark.parametrize("drop_slow", [None, 2.1])
def test_a_rank_that_is_slow_is_named_and_given_up_if_that_is_wanted(client, folder, drop_slow):
    slow = sorted(client.nthreads())[1]
    client.run(look_often)
    client.run(make_slow, workers=[slow])
    # enough work for a gradient to be most of a step: the slow rank computes 15 times as long, or half of that where more ranks run than cores are free
    settings = {
        **LONG,
        "epochs": 60,
        "layers": (Dense(512, activation="relu"), Dense(1, activation="sigmoid")),
    }
    first = fit(job(folder, "wide", **settings))
    events = []

    outcome = fit_on(
        client, job(folder, f"slow{drop_slow}", **settings), report=events.append, drop_slow=drop_slow
    )

    told = [event["why"] for event in events if event["event"] == ("join" if drop_slow else "warning")]
    assert any(
        re.match(rf"rank 1 \({re.escape(slow)}\) computes \d+\.\d times as long as the others", why)
        for why in told
    )
    assert outcome.weights_sha256 == first.weights_sha256
    assert outcome.workers == (2 if drop_slow else 3)
    assert outcome.restarts == ()


@pytest.mark.timeout(900)
def test_a_worker_that_is_retired_leaves_and_one_that_comes_is_taken_in_and_neither_costs_a_bit(
    external, folder, reference
):
    """The ways in which a cluster grows and shrinks by itself, without a kill."""
    external.worker("--no-nanny", "--name", "stays")
    external.worker("--no-nanny", "--name", "leaves")
    client = external.client(2)
    leaving = next(
        address for address, facts in client.scheduler_info()["workers"].items() if facts["name"] == "leaves"
    )

    def change():
        external.worker("--no-nanny", "--name", "comes")
        client.retire_workers([leaving])

    report = at_step(2, change)
    long = {**LONG, "epochs": 600}  # on a quiet machine 6 s: a worker starts in 2, and joins after 3
    outcome = fit_on(client, job(folder, "changes", **long), report=report)

    workers = [event["workers"] for event in report.events if event["event"] == "start"]
    assert workers[0] == 2
    assert workers[-1] == outcome.workers == 2
    assert leaving not in client.nthreads()
    assert len(outcome.restarts) <= 1
    assert outcome.weights_sha256 == fit(job(folder, "unchanged", **long)).weights_sha256


def test_a_hung_worker_without_a_nanny_is_given_up_and_its_zombie_refused(external, folder, reference):
    external.worker("--no-nanny", "--name", "alone")
    external.worker("--nanny", "--name", "watched")
    client = external.client(2)
    (stopped,) = [pid for address, pid in client.run(os.getpid).items() if pid == external.workers[0].pid]
    report = at_step(2, lambda: os.kill(stopped, signal.SIGSTOP))

    outcome = fit_on(client, job(folder, "zombie", **LONG), report=report, deadline_s=4)

    assert outcome.weights_sha256 == reference.weights_sha256
    assert outcome.workers == 1
    os.kill(stopped, signal.SIGCONT)  # the zombie goes on: its sockets are closed, and so it ends
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(client.run(at_work).values()):
        time.sleep(0.1)
    assert not any(client.run(at_work).values())
    assert fit(job(folder, "zombie", **LONG)).weights_sha256 == reference.weights_sha256


def at_work():
    from dlflow.parallel import rank

    return bool(rank._ranks)


def test_ranks_end_when_their_driver_is_killed_and_the_next_one_resumes(external, folder, reference):
    external.worker("--nanny")
    external.worker("--nanny")
    client = external.client(2)
    endless = replace(job(folder, "orphans", **LONG), epochs=1_000_000)
    program = f"""
from pathlib import Path
from dataclasses import replace
from distributed import Client
from dlflow.parallel.gang import fit_on
from tests.training_jobs import job
this = replace(job(Path({str(folder)!r}), "orphans", validation=None, checkpoint_s=0.05), epochs=1_000_000)
with Client(scheduler_file={str(external._file)!r}) as client:
    fit_on(client, this, report=lambda event: print(event["event"], flush=True))
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )
    try:
        assert any(line.strip() == "step" for line in driver.stdout)
        driver.kill()
    finally:
        driver.wait(10)
        driver.stdout.close()
    killed = time.monotonic()
    while any(client.run(at_work).values()) and time.monotonic() - killed < 20:
        time.sleep(0.05)

    assert not any(client.run(at_work).values())
    assert time.monotonic() - killed < 10
    report = at_step(2, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # also shows that the lock of the dead driver is freed
        fit_on(client, endless, report=report, wait_s=60)
    assert next(event for event in report.events if event["event"] == "start")["resumed"]


@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_the_scheduler_is_an_error_and_the_run_can_be_resumed(external, folder, reference):
    external.worker("--nanny")
    client = external.client(1)
    report = at_step(3, external.scheduler.kill)
    began = time.monotonic()

    with pytest.raises(GangFailed, match="run again to resume"):
        fit_on(client, job(folder, "scheduler", **LONG), report=report, deadline_s=5)

    assert time.monotonic() - began < 40
    assert fit(job(folder, "scheduler", **LONG)).weights_sha256 == reference.weights_sha256
