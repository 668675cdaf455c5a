"""A Dask cluster of this machine: scheduler and nannies in one process, workers beside it, all of them one group.

    driver ==lifeline== host: scheduler, nannies ----- forkserver ----+---- worker
                                                      (imports once)  +---- worker

Why not `LocalCluster` in the driver? Ctrl-C in a terminal reaches the driver alone; the workers' noise goes to a file; the
environment that BLAS and malloc read before they start is the workers' own; `__main__` (and with it Prefect) is not
imported again by every worker; and however the driver ends, nothing is left of the cluster (see flows.lifeline).
Workers are forked from a process that has imported what they need: two are there 0.6 s after this starts, against 0.75 s
in the driver; each further one costs 0.04 s, and one that was killed is back in 0.1 s.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.lifeline import Child, Life, child

__all__ = ["ENVIRONMENT", "SETTINGS", "hold", "starting"]

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
    # idle workers and an idle scheduler took 13 % of a core, without these two 4 %
    "distributed.worker.profile.enabled": False,  # samples the stack of a task every 10 ms; nobody reads it
    "distributed.admin.tick.interval": "500ms",  # between looks at whether a loop hangs; the default is 20 ms
}
"""What our clusters run with. Most of it is read by the scheduler when it starts, by workers when they connect."""

ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",  # workers are killed at the end: what they printed must be in the log by then
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Large arrays come from the heap and stay there. 600 temporary arrays of 8 MB: 0.12 s, with Dask's setting 0.57 s
    # and 240,000 page faults. 32 MiB is the most that every glibc accepts for the second.
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "DASK_LOGGING__DISTRIBUTED": "warning",  # for the process that imports before it is told the settings
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # a process that forks has one thread only
}
"""What BLAS, malloc and Dask read when a process starts; on other machines deploy/dask/dlflow.yaml says the same."""

_PRELOAD = ["distributed", "pandas", "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "pyarrow.json"]
_PRELOAD += ["pyarrow.parquet", "threadpoolctl", "pipelines.leaves", "pipelines.steps"]
"""Imported once for all workers, which would each do it in their first task. We do not use pandas, but pyarrow imports it
in the first `pa.array([...])`: once here costs 0.3 s beside other work, in every worker it would be 0.4 s and 20 MB."""
_MEMORY_SHARE = 0.9  # of the machine's memory, for all workers together; the driver needs some


@contextmanager
def starting(
    *, workers: int | None, threads: int, memory_limit: int | str | None, log: Path | None
) -> Iterator[Child]:
    """A local cluster that lives as long as the block; it answers with `address` and `security`."""
    order = {"workers": workers, "threads": threads, "memory_limit": memory_limit}
    with child("flows.local_cluster:hold", order, environment=ENVIRONMENT, log=log) as host:
        yield host


def hold(life: Life, *, workers: int | None, threads: int, memory_limit: int | str | None) -> None:
    """The host's whole life: start the cluster, say where it is, end it when the lifeline is cut."""
    _start_forkserver()
    import dask  # noqa: PLC0415  while the forkserver imports

    dask.config.set({**SETTINGS, "distributed.worker.multiprocessing-method": "forkserver"})
    dask.config.set({"temporary-directory": str(life.scratch)})
    from multiprocessing import util  # noqa: PLC0415

    from dask.system import CPU_COUNT  # noqa: PLC0415
    from distributed import LocalCluster, Security  # noqa: PLC0415
    from distributed.system import MEMORY_LIMIT  # noqa: PLC0415

    _adopt_forkserver()
    security = Security.temporary()
    count = workers or max(1, CPU_COUNT // threads)
    with LocalCluster(
        n_workers=count,
        threads_per_worker=threads,
        memory_limit=memory_limit or int(_MEMORY_SHARE * MEMORY_LIMIT / count),
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        security=security,
    ) as cluster:
        pem = {name: getattr(security, name) for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")}
        life.answer({"address": cluster.scheduler_address, "security": pem})
        life.cut.wait()
        for nanny in cluster.workers.values():
            # A task may run for minutes and its result will not be used: only what is committed counts.
            nanny.close_gracefully()
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)
        # nobody is left to say goodbye to, which would take a third of a second
        # semaphores, and where the forkserver listens: all that would outlive us
        util._run_finalizers()  # type: ignore[attr-defined]  # noqa: SLF001
        life.leave()


def _start_forkserver() -> None:
    import multiprocessing  # noqa: PLC0415
    from multiprocessing import forkserver  # noqa: PLC0415

    multiprocessing.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()


def _adopt_forkserver() -> None:
    """Let distributed set up its forkserver method, which finds ours running.

    On that occasion it imports all that it would preload; of this, pandas costs 0.3 s and is not needed in the host.
    """
    from distributed.utils import get_mp_context  # noqa: PLC0415

    absent = {name: None for name in ("pandas",) if name not in sys.modules}
    sys.modules.update(absent)  # type: ignore[arg-type]  # None: not to be imported
    get_mp_context()
    for name in absent:
        del sys.modules[name]
