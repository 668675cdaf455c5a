"""The worker's side of a gang: what the supervisor calls on a Dask worker, and the task that is one rank.

describe      facts about the worker; also shows that it can import this code at all
prepare       open a listener, keep job and ticket here: so the task's own arguments hold no secret and cannot fail to unpickle
run_rank      the task: meet the others, train
pause         have rank 0 end all ranks after the step that runs, each with that step in memory
stop          end the ranks of a run at their next message; says whether one still runs
forget        free what a training keeps in memory between its generations
end_worker    on the nanny: end a worker whose rank runs on
"""

import os
import platform
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlflow.errors import DlflowError, PeerLost
from dlflow.parallel.comm import Comm, Stopped
from dlflow.parallel.handshake import Ticket
from dlflow.parallel.log import logged
from dlflow.parallel.relay import HANDLER, Relay, deliver
from dlflow.parallel.shared import can_share
from dlflow.parallel.stages import Shape
from dlflow.parallel.transport import Address, Listener, Tls, connect
from dlflow.training.checkpoint import Memory
from dlflow.training.job import Job, Outcome
from dlflow.training.numerics import numerics
from dlflow.training.trainer import train

__all__ = ["TOPIC", "Order", "describe", "end_worker", "forget", "pause", "prepare", "run_rank", "stop"]

TOPIC = "dlflow-training"  # of the events that rank 0 logs on the scheduler
UNIX_PATH_BYTES = 60  # of the folder for temporary files; a socket's whole path has at most 107


@dataclass(frozen=True)
class Order:
    """What all ranks of a generation are told. `run` names the generation: no other ever has this name; `training` names them all."""

    run: str
    training: str
    job: Job
    ticket: Ticket
    ranks: Mapping[str, int]  # worker address -> rank
    shape: Shape
    unix: bool
    shared: bool  # memory, of the ranks of one host
    relay: bool  # over the cluster's own connections
    start_s: float
    deadline_s: float


@dataclass
class _Rank:
    order: Order
    link: Listener | Relay
    tls: Tls | None
    stopped: threading.Event = field(default_factory=threading.Event)
    running: bool = False


_ranks: dict[tuple[str, int], _Rank] = {}  # here because a task and a call out of turn share only the module
_memories: dict[str, Memory] = {}  # by training: what its next generation goes on from
_lock = threading.Lock()


def describe(dask_worker: Any) -> dict[str, Any]:
    """Facts that decide whether this worker fits the others, and how it can reach them."""
    del dask_worker
    unix = hasattr(socket, "AF_UNIX") and len(tempfile.gettempdir()) < UNIX_PATH_BYTES
    return {"numerics": numerics(), "host": _host(), "unix": unix, "shared": can_share()}


def prepare(order: Order, dask_worker: Any) -> Address | None:
    """Listen for the other ranks; the address to tell them, none where they are reached as workers."""
    from distributed.comm.addressing import get_address_host  # noqa: PLC0415

    address = dask_worker.address
    if order.relay:
        dask_worker.handlers[HANDLER] = deliver
        relay = Relay(
            dask_worker,
            order.run,
            order.ticket,
            order.ranks[address],
            list(order.ranks),
            shape=order.shape,
            deadline_s=order.deadline_s,
        )
        _remember(_Rank(order, relay, None), order.ranks[address])
        return None
    tls = None
    if not order.unix and address.startswith(
        "tls://"
    ):  # never in the clear between the hosts of a TLS cluster
        security = dask_worker.security
        tls = Tls(
            security.get_listen_args("worker")["ssl_context"],
            security.get_connection_args("worker")["ssl_context"],
        )
    listener = Listener(None if order.unix else get_address_host(address))
    _remember(_Rank(order, listener, tls), order.ranks[address])
    return listener.address


def _remember(here: _Rank, rank: int) -> None:
    with _lock:
        _ranks[here.order.run, rank] = here
        for other in set(_memories) - {
            here.order.training
        }:  # a driver was killed before it could say `forget`
            del _memories[other]


def run_rank(run: str, rank: int, addresses: Mapping[int, Address]) -> Outcome | DlflowError:
    """Train as one rank of a gang: the task of a Dask worker.

    An error of dlflow is the answer, not raised: Dask would log each with a traceback on the worker, and the supervisor tells it better.
    """
    from distributed import get_worker  # noqa: PLC0415

    try:
        return _run_rank(run, rank, addresses, get_worker())
    except DlflowError as error:
        return error


def _run_rank(run: str, rank: int, addresses: Mapping[int, Address], worker: Any) -> Outcome:
    with _lock:
        here = _ranks.get((run, rank))
        if here is None:  # the task was run again elsewhere, or stop came first
            raise PeerLost(
                f"rank {rank} of run {run} was never prepared on {worker.address}, or is stopped; fit_on forms the gang anew"
            )
        here.running = True
        memory = _memories.setdefault(here.order.training, Memory())
    order = here.order
    try:
        mesh = _meet(here, rank, addresses, _check(here, worker))
        try:
            outcome = train(
                order.job, mesh, logged(lambda event: worker.log_event(TOPIC, {"run": run, **event})), memory
            )
        finally:
            mesh.close()
    finally:
        here.link.close()
        with _lock:
            _ranks.pop((run, rank), None)
    if rank == 0:
        worker.log_event(TOPIC, {"run": run, "event": "end"})
    return outcome


def _meet(here: _Rank, rank: int, addresses: Mapping[int, Address], check: Callable[[], None]) -> Comm:
    order = here.order
    if isinstance(here.link, Relay):
        here.link.check = check
        return here.link
    return connect(
        here.link,
        addresses,
        order.ticket,
        rank,
        shape=order.shape,
        start_s=order.start_s,
        deadline_s=order.deadline_s,
        tls=here.tls,
        shared=order.shared,
        check=check,
    )


def pause(training: str) -> None:
    """Have this rank, if it is rank 0, end all ranks after a step, so that no step is done again."""
    with _lock:
        if memory := _memories.get(training):
            memory.pause = True


def stop(run: str) -> bool:
    """End the ranks of this run in this process at their next message; whether one still runs."""
    with _lock:
        here = {place: rank for place, rank in _ranks.items() if place[0] == run}
        for place, rank in here.items():
            rank.stopped.set()
            if not rank.running:
                rank.link.close()
                del _ranks[place]
        return any(rank.running for rank in here.values())


def forget(training: str) -> None:
    """Free what this training has kept in memory for a next generation."""
    with _lock:
        _memories.pop(training, None)


def end_worker(dask_worker: Any) -> None:
    """Kill the worker of this nanny, which starts another; also one that is stopped (SIGSTOP) ends by this."""
    pid = dask_worker.pid
    if pid:
        os.kill(pid, signal.SIGKILL)


def _check(here: _Rank, worker: Any) -> Callable[[], None]:
    """What a rank calls wherever it waits: raises Stopped when nobody wants its result any more."""
    key, tasks = worker.get_current_task(), worker.state.tasks

    def check() -> None:
        if here.stopped.is_set():
            raise Stopped("the driver ended this training")
        task = tasks.get(key)
        if task is None or task.state == "cancelled":  # so it is when the client is gone
            forget(here.order.training)
            raise Stopped("the driver that started this training is gone")
        if worker.status.name in {"closing", "closed", "failed"}:
            raise Stopped(f"the worker {worker.address} is closing")

    return check


def _host() -> str:
    """Equal for two processes that can reach each other by a file in a folder of one user."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        files = Path("/proc/self/ns/mnt").readlink()
    except OSError:
        return f"{platform.node()} {user} {tempfile.gettempdir()}"
    return f"{boot} {files} {user} {tempfile.gettempdir()}"
