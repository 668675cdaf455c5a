"""A Dask cluster of this machine, in a process group of its own: scheduler and nannies in one process, workers beside it.

    driver ----stdin: order, then the lifeline----> host: scheduler, nannies ----+---- forkserver ----+--- worker
       ^<---stdout: one line, where it listens -------+                          (imports once)       +--- worker

Why not `LocalCluster` in the driver? A terminal's Ctrl-C reaches the driver alone; the workers' noise goes to a file; the
environment that BLAS and malloc read before they start is the workers' own; `__main__` (and with it Prefect) is not
imported again by every worker; and however the driver ends, SIGKILL included, its end of the lifeline closes and the
host ends the workers. Workers are forked from a process that has imported what they need: two of them are there 0.5 s
after this starts (0.75 s in the driver), each further one costs 0.05 s, and one that was killed is back in 0.1 s.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS", "ClusterError", "Starting", "hold", "starting"]

SETTINGS: Mapping[str, Any] = {
    "logging": {"distributed": "warning"},
    # tasks return receipts, not data: 0.35 ms a task instead of 1.6 (5,000 empty tasks, 2 workers)
    "distributed.scheduler.worker-saturation": float("inf"),
    "distributed.scheduler.allowed-failures": 3,
    "distributed.scheduler.no-workers-timeout": "60s",  # the default waits for ever, silently
    "distributed.scheduler.worker-ttl": "30s",  # a worker that hangs is killed; the default is 5 minutes
    "distributed.deploy.lost-worker-timeout": "1h",  # the default of 15 s can shrink the cluster for ever
    "distributed.comm.timeouts.connect": "15s",
    "distributed.comm.timeouts.tcp": "15s",  # below 11 s nannies do not start
    "distributed.comm.retry.count": 3,
}
"""What our clusters run with. Most of it is read by the scheduler when it starts, by workers when they connect."""

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Large arrays come from the heap and stay there: 12 files read with a tenth of the page faults. 32 MiB is the most
    # that every glibc accepts for the second.
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # a process that forks has one thread only
    "PYTHONSAFEPATH": "1",  # a folder named numpy beside the pipeline file is not NumPy
}
_PRELOAD = ["distributed", "numpy", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet", "threadpoolctl"]
_HOST = (
    "import json, sys; order = json.loads(sys.stdin.readline()); sys.path[:] = order['path']; "
    "from flows.local_cluster import hold; hold(order)"
)
_MEMORY_SHARE = 0.9  # of the machine's memory, for all workers together; the driver needs some
_END_S = 5.0  # then what has not ended is killed


class ClusterError(Exception):
    """The cluster cannot be used: not reached, without our code, other versions. Correct what the message names."""

    exit_code = 3


@dataclass(frozen=True)
class Starting:
    """A cluster on its way; `answer` waits for it. The time between is free for imports."""

    process: subprocess.Popen[str]
    log: Path

    def answer(self) -> dict[str, Any]:
        """Address of the scheduler and the certificate that opens it.

        Raises: ClusterError if the cluster did not start; the log says why.
        """
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line:
            return json.loads(line)
        lines = self.log.read_text(errors="replace").splitlines() or ["no message"]
        raise ClusterError(
            f"the local cluster did not start: {lines[-1].strip()!r}; expected worker processes on this machine; "
            "look at memory and free ports, or run without workers"
        )


@contextmanager
def starting(
    *, workers: int | None, threads: int, memory_limit: int | str | None, log: Path | None
) -> Iterator[Starting]:
    """A local cluster that lives as long as the block; its messages go to `log`, which is appended to."""
    scratch = Path(tempfile.mkdtemp(prefix="dlflow-"))
    path = log or scratch / "cluster.log"
    order = {
        "path": sys.path,
        "workers": workers,
        "threads": threads,
        "memory_limit": memory_limit,
        "scratch": str(scratch),
    }
    try:
        with path.open("a") as sink:
            process = subprocess.Popen(
                [sys.executable, "-c", _HOST],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,
                text=True,
            )
        with process:
            try:
                _send(process, json.dumps(order) + "\n")
                yield Starting(process, path)
            finally:
                _end(process)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _send(process: subprocess.Popen[str], text: str) -> None:
    if process.stdin:
        process.stdin.write(text)
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> None:
    """Cut the lifeline; the host ends the workers and itself."""
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def hold(order: Mapping[str, Any]) -> None:
    """The host's whole life: start the cluster, say where it is, end it when the lifeline is cut."""
    line = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a worker prints belongs in the log
    _start_forkserver()
    cut = threading.Event()
    threading.Thread(target=_watch, args=(cut, order["scratch"]), daemon=True, name="lifeline").start()

    import dask  # noqa: PLC0415  the forkserver imports meanwhile

    dask.config.set({**SETTINGS, "distributed.worker.multiprocessing-method": "forkserver"})
    from dask.system import CPU_COUNT  # noqa: PLC0415
    from distributed import LocalCluster, Security  # noqa: PLC0415
    from distributed.system import MEMORY_LIMIT  # noqa: PLC0415

    _adopt_forkserver()
    security = Security.temporary()
    workers = order["workers"] or max(1, CPU_COUNT // order["threads"])
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=order["threads"],
        memory_limit=order["memory_limit"] or int(_MEMORY_SHARE * MEMORY_LIMIT / workers),
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=security,
        local_directory=order["scratch"],
    ) as cluster:
        keys = ("tls_ca_file", "tls_client_cert", "tls_client_key")
        answer = {
            "address": cluster.scheduler_address,
            "security": {key: getattr(security, key) for key in keys},
        }
        line.write(json.dumps(answer) + "\n")
        line.close()
        cut.wait()
        for nanny in cluster.workers.values():
            # A task may run for minutes and its result will not be used: only what is committed counts.
            nanny.close_gracefully()
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)


def _start_forkserver() -> None:
    import multiprocessing  # noqa: PLC0415
    from multiprocessing import forkserver  # noqa: PLC0415

    multiprocessing.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


def _adopt_forkserver() -> None:
    """Let distributed set up its forkserver method, which ours answers.

    On that occasion it imports all that it would preload; of this, pandas costs 0.3 s and is not needed here.
    """
    from distributed.utils import get_mp_context  # noqa: PLC0415

    absent = {name: None for name in ("pandas",) if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None: not to be imported
    get_mp_context()
    for name in absent:
        del sys.modules[name]


def _watch(cut: threading.Event, scratch: str) -> None:
    """Wait until the driver closes the lifeline or is gone; give the rest of the process a moment, then end it."""
    sys.stdin.read()
    cut.set()
    threading.Event().wait(_END_S)
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)
