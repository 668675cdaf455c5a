"""Kinds of clusters that a run starts and ends, by name: what an [env.NAME] of the pipeline file says of them.

cluster = { kind = "slurm", queue = "short", cores = 8, memory = "32GiB", folder = "/shared/me", walltime = "02:00:00" }
workers = { at_least = 2, at_most = 40 }

cluster = { kind = "ssh", hosts = ["head", "node1", "node2"] }
workers = 16

cluster = { kind = "kubernetes", scheduler = "tls://dlflow-scheduler.default.svc:8786", group = "daskworkergroup/dlflow-default" }
workers = 16
tls = ["/tls/ca.pem", "/tls/cert.pem", "/tls/key.pem"]

`workers` counts processes of one thread, all together. Texts may hold ${NAME} of the process.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["KINDS", "Kind", "Kubernetes", "Pbs", "Scaling", "Slurm", "Ssh"]


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """As many worker processes as there is work for, within limits."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    at_least: int
    at_most: int


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """Hosts that are reached by SSH: a scheduler on the first, workers on all in turn."""

    name: ClassVar[str] = "ssh"
    program: ClassVar[tuple[str, str]] = ("ssh", "install OpenSSH's client")  # and how one comes by it
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    hosts: tuple[str, ...]
    user: str | None = None
    port: int | None = None
    key: str | None = None  # file of the private key; without it those that `ssh` finds by itself
    known_hosts: str | None = None  # file; without it that of `ssh`: a host that is not in it is refused
    python: str | None = None  # on the hosts; without it the path of this one
    interface: str | None = None  # network between scheduler and workers
    memory: str | None = None  # of one worker; without it an equal part of its host's
    scratch: str | None = None  # folder for what workers spill; without it the hosts' own for temporary files
    start_s: float = 120.0  # until a worker is there


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Jobs of Slurm: each is `cores` workers of one thread; the scheduler runs beside the driver."""

    name: ClassVar[str] = "slurm"
    needs: ClassVar[tuple[str, str]] = ("dask_jobqueue", "jobqueue")  # a module, and the extra that has it
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    cores: int  # of one job
    memory: str  # of one job
    folder: str  # on storage that all nodes share: keys of the run (removed at its end), what jobs print
    queue: str | None = None
    account: str | None = None
    walltime: str | None = None
    interface: str | None = None
    python: str | None = None  # on the nodes; without it the path of this one
    scratch: str | None = None
    prologue: tuple[str, ...] = ()  # lines of shell before the workers start
    directives: tuple[str, ...] = ()  # such as "--constraint=skylake"
    start_s: float = 3600.0  # the first job may wait in its queue for so long


@dataclass(frozen=True, kw_only=True)
class Pbs(Slurm):
    """Jobs of PBS: as those of Slurm."""

    name: ClassVar[str] = "pbs"


@dataclass(frozen=True, kw_only=True)
class Kubernetes:
    """A group of workers on Kubernetes with a scheduler that is there: scaled up for the run by kubectl, and back."""

    name: ClassVar[str] = "kubernetes"
    program: ClassVar[tuple[str, str]] = ("kubectl", "install it")
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    scheduler: str  # address; it needs the TLS files as any scheduler does
    group: str  # what kubectl can scale, such as "daskworkergroup/dlflow-default" or "deployment/worker"
    namespace: str | None = None  # without it that of kubectl's context
    context: str | None = None  # without it kubectl's current one; in a pod that of its service account
    start_s: float = 600.0  # until all workers are there


Kind = Ssh | Slurm | Pbs | Kubernetes
KINDS: Mapping[str, type[Kind]] = {kind.name: kind for kind in (Ssh, Slurm, Pbs, Kubernetes)}
