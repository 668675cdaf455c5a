"""Dask clusters as an operator would start them: a scheduler and workers, each a process of its own, with or without TLS."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

from flows.certificates import make_certificates
from flows.cluster import cluster, worker_pids
from tests.conftest import REPOSITORY

OURS = {"DASK_CONFIG": str(REPOSITORY / "deploy" / "dask")}
SAFE = ("--tls-ca-file", "--tls-cert", "--tls-key")
KILLED = re.compile(r"^failpoint (\S+) ?(\S*) arrival (\d+): killed$", re.MULTILINE)


def wait_until(condition, what, deadline_s=15):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {deadline_s} s"
        time.sleep(0.02)


@contextlib.contextmanager
def outside(folder):
    """Starts a plain Dask cluster: `make(...)` gives its address; what its processes say is in files `dask-*`."""
    processes = []

    def start(*arguments, **env):
        log = (folder / f"dask-{len(processes)}").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + arguments[0], *arguments[1:], "--no-dashboard"],
            stdout=log,
            stderr=log,
            env={**os.environ, **env},
            cwd=folder,
            start_new_session=True,
        )
        processes.append((process, log))

    def make(*, workers=1, scheduler_env=None, worker_env=None, tls=()):
        file = folder / "scheduler.json"
        safe = [word for pair in zip(SAFE, tls, strict=True) for word in pair] if tls else []
        where = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file), *safe)
        start("dask_scheduler", *where, *(("--protocol", "tls") if tls else ()), **(scheduler_env or {}))
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), "an address")
        address = json.loads(file.read_text())["address"]
        where = (address, "--host", "127.0.0.1", "--nthreads", "1", "--local-directory", str(folder), *safe)
        for _ in range(workers):
            start("dask_worker", *where, **(worker_env or {}))
        return address

    try:
        yield make
    finally:
        for process, log in reversed(processes):  # workers first
            process.terminate()
            process.wait(10)
            log.close()


class Outside:
    """Two workers that speak TLS, in processes that this one did not make workers of, and where they may be killed."""

    def __init__(self, folder, address, tls, client):
        self.folder, self.address, self.tls, self.client = folder, address, tls, client

    @contextlib.contextmanager
    def armed(self, clause):
        """Each worker kills itself where the clause says; those that replace them do not. Gives the kills, once it is over.

        A kill is (place, task, arrival), as the worker itself has said it just before.
        """
        before, said = set(worker_pids(self.client).values()), self.kills()
        self.client.run(lambda: os.environ.__setitem__("DLFLOW_FAILPOINTS", clause))
        kills = []
        try:
            yield kills
        finally:
            wait_until(lambda: len(self.client.nthreads()) == 2, "two workers again", 60)
            self.client.run(_disarm)
        kills += (self.kills() - said).elements()
        gone = before - set(worker_pids(self.client).values())
        assert len(gone) == len(kills), f"{len(gone)} workers are gone, and these kills were told: {kills}"

    def kills(self):
        """All that workers have said of their end, and how often."""
        return Counter(
            (place, task, int(nth))
            for log in self.folder.glob("dask-[0-9]")
            for place, task, nth in KILLED.findall(log.read_text())
        )


def _disarm():
    from pipelines import failpoints

    os.environ.pop("DLFLOW_FAILPOINTS", None)
    failpoints._arrivals.clear()


@contextlib.contextmanager
def two_workers(folder):
    """A scheduler and two workers with TLS, and a client of them."""
    tls = tuple(str(path) for path in make_certificates(folder / "tls", ["127.0.0.1"]))
    with outside(folder) as make:
        address = make(workers=2, scheduler_env=OURS, worker_env=OURS, tls=tls)
        with cluster(scheduler=address, tls=tls) as client:
            client.wait_for_workers(2, timeout=60)
            yield Outside(folder, address, tls, client)
