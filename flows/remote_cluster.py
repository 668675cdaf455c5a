"""A cluster on other machines that a run starts and ends: by SSH, as jobs of Slurm or PBS, on Kubernetes.

    driver ==lifeline== host: asks for machines, ends them ---- ssh -----> scheduler, workers (flows.ssh_hosts)
                              (jobs: the scheduler is here) --- sbatch --> workers
                              (Kubernetes: it is there)  --- kubectl -> workers (flows.kubernetes)

The host is a process of its own for the reason that the local cluster has one: however the driver ends, the host is
left, cancels the jobs and ends the processes. Where the scheduler is on another machine and this one is lost altogether,
the scheduler ends by itself once its client has been away for a while (`Widowed`), and workers end with their scheduler.
"""

import dataclasses
import importlib.util
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.cluster_kind import KINDS, Kind, Kubernetes, Scaling, Ssh
from flows.kubernetes import ScaledGroup
from flows.lifeline import Child, Life, child
from flows.local_cluster import ENVIRONMENT, SETTINGS
from flows.ssh_hosts import SshHosts

__all__ = ["hold", "missing", "starting"]

_END_S = 60.0  # to cancel jobs: one call of scancel for each


def missing(kind: Kind) -> str:
    """What is to be installed for this kind, as a sentence; empty if all is there."""
    if isinstance(kind, Ssh | Kubernetes):
        program, install = kind.program
        if shutil.which(program):
            return ""
        return f"a cluster of kind {kind.name!r} needs the program {program}, which is not on PATH; {install}"
    module, extra = kind.needs
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"a cluster of kind {kind.name!r} needs the package {module}, which is not installed; pip install 'dlflow[{extra}]'"


@contextmanager
def starting(kind: Kind, workers: int | Scaling, *, log: Path | None) -> Iterator[Child]:
    """A cluster that lives as long as the block; its process answers with `address`, `security` and the `workers` of its start."""
    order = {
        "kind": kind.name,
        "settings": dataclasses.asdict(kind),
        "workers": [workers.at_least, workers.at_most]
        if isinstance(workers, Scaling)
        else [workers, workers],
    }
    with child("flows.remote_cluster:hold", order, environment=ENVIRONMENT, log=log, end_s=_END_S) as host:
        yield host


def hold(life: Life, *, kind: str, settings: dict[str, Any], workers: list[int]) -> None:
    """The host's whole life: have the cluster started, say where it is, end it when the lifeline is cut."""
    import dask  # noqa: PLC0415

    asked = KINDS[kind](**settings)
    dask.config.set({**SETTINGS, "temporary-directory": str(life.scratch)})
    try:
        made, security = _made(asked, workers, life)
    except Exception as error:  # noqa: BLE001  whatever it is: the driver gets the last line of the log
        print(str(error).replace("\n", " "), file=sys.stderr, flush=True)  # noqa: T201
        life.leave()
    try:
        if workers[0] != workers[1]:
            made.adapt(minimum=workers[0], maximum=workers[1])
        life.answer({"address": made.scheduler_address, "security": security, "workers": workers[0]})
        life.cut.wait()
    finally:
        made.close()


def _made(asked: Kind, workers: list[int], life: Life) -> tuple[Any, dict[str, str]]:
    """The cluster, and the TLS that it has made for itself."""
    if isinstance(asked, Ssh):
        hosts = SshHosts(asked, workers[0], life.scratch)
        return hosts, hosts.security
    if isinstance(asked, Kubernetes):
        return ScaledGroup(asked, workers[0]), {}
    return _jobs(asked, workers)


def _jobs(asked: Any, workers: list[int]) -> tuple[Any, dict[str, str]]:
    import dask_jobqueue  # noqa: PLC0415
    from distributed import Security  # noqa: PLC0415

    security = Security.temporary()
    made = {"slurm": dask_jobqueue.SLURMCluster, "pbs": dask_jobqueue.PBSCluster}[asked.name](
        cores=asked.cores,
        processes=asked.cores,
        memory=asked.memory,
        queue=asked.queue,
        account=asked.account,
        walltime=asked.walltime,
        interface=asked.interface,
        python=asked.python,
        local_directory=asked.scratch,
        log_directory=asked.folder,
        shared_temp_directory=asked.folder,
        job_script_prologue=list(asked.prologue),
        job_extra_directives=list(asked.directives),
        scheduler_options={"dashboard": False},
        protocol="tls://",
        security=security,
        job_name="dlflow",
    )
    for _ in range(math.ceil(workers[0] / asked.cores)):
        made.worker_spec.update(made.new_worker_spec())
    made.sync(_submit, made)
    names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
    return made, {name: getattr(security, name) for name in names}


async def _submit(made: Any) -> None:
    """Have the jobs submitted: `scale` does the same, but only logs that one is refused."""
    try:
        await made._correct_state()  # noqa: SLF001
    except BaseException:
        for job in made.workers.values():
            await job.close()  # those that were not refused
        raise
