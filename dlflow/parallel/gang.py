"""Training on a Dask cluster: one rank per worker process, and a supervisor that forms the gang anew when it loses one.

    lock the cluster -> ask workers -> listeners -> one pinned task per rank -> watch every 50 ms
                           ^                                                        |
                           +------ end what runs on <------ lost, hung, PeerLost ---+

A new generation of all workers that are there goes on from the newest that a living rank has in memory, else from disk, and ends with
the same bits; a worker that comes later is taken in by forming anew, after the ranks have paused: no step is done twice for it.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

from dlflow.errors import GangFailed, ModelError, PeerLost
from dlflow.parallel.cluster import Cluster, Event
from dlflow.parallel.generation import Change, Gang
from dlflow.parallel.rank import TOPIC
from dlflow.parallel.transport import NoLink
from dlflow.training.job import Job, Outcome
from dlflow.training.pace import SLOW
from dlflow.training.trainer import Report

__all__ = ["fit_on"]

Transport = Literal["auto", "sockets", "dask"]
ARRIVAL_S = 5.0  # for as many workers as wanted to be there; others join later


def fit_on(
    client: Any,
    job: Job,
    *,
    workers: int | None = None,
    report: Report | None = None,
    deadline_s: float = 30.0,
    max_restarts: int = 5,
    wait_s: float = 600.0,
    drop_slow: float | None = None,
    transport: Transport = "auto",
) -> Outcome:
    """Train on the workers of a distributed.Client (at most `workers` of them); same job, same bits as `fit`.

    `report` is told in this thread: the events of `train` ("start" with the `links` of the ranks: "shared" memory, "unix", "tcp" or "tls"
    sockets, or those of "dask"), {"event": "restart" | "join", "why": ...}. `job.folder` must be the same storage
    for all workers. A rank that shows no progress for `deadline_s` is given up, so a step must take less; with `drop_slow`, so is a
    rank that computes so many times as long as the others. Ranks talk over "sockets" of their own, or over the connections of "dask"
    where workers may open no ports; "auto" tries them in this order. Another training on this cluster is waited for, at most `wait_s`.

    Raises: ModelError, NonFinite, ModelFileError as `fit` does, at once; GangFailed if the scheduler, all workers or
    more than `max_restarts` generations are lost. When it returns or raises, no rank runs.
    """
    if workers is not None and workers < 1:
        raise ModelError(f"workers is {workers!r}, expected at least 1, or None for all; correct it")
    if transport not in get_args(Transport):
        raise ModelError(f"transport is {transport!r}, expected one of {', '.join(get_args(Transport))}")
    if drop_slow is not None and drop_slow <= SLOW:
        raise ModelError(
            f"drop_slow is {drop_slow!r}, expected more than {SLOW:g}, or None to keep slow ranks; correct it"
        )
    told = report or _silent
    job.fingerprint  # noqa: B018  (a job that cannot be told from another must fail here, not on a worker)
    cluster = Cluster(client)
    waiting = {"event": "warning", "why": "another training uses this cluster; waiting for it"}
    with cluster.exclusive(wait_s, lambda: told(waiting)), cluster.events(TOPIC) as events:
        gang = Gang(cluster, job, told, events, deadline_s, drop_slow, relay=transport == "dask")
        restarts: list[str] = []
        generation, present = 0, gang.gather(workers, ARRIVAL_S)
        try:
            while True:
                try:
                    return replace(gang.run(present, generation), restarts=tuple(restarts))
                except Change as change:
                    told({"event": "join", "why": str(change)})
                except PeerLost as loss:
                    if (
                        isinstance(loss, NoLink)
                        and transport == "auto"
                        and not gang.relay
                        and gang.all_there()
                    ):
                        gang.relay = True
                        slower = "all workers are there, so ranks talk over Dask's connections from now on, which is slower"
                        told({"event": "warning", "why": f"{loss}; {slower}"})
                        continue
                    restarts.append(str(loss))
                    if len(restarts) > max_restarts:
                        raise GangFailed(
                            f"{len(restarts)} generations were lost, at most {max_restarts} restarts were allowed; the last: {loss}; "
                            "look at the workers' logs, then run again to resume from the newest checkpoint"
                        ) from loss
                    told({"event": "restart", "why": str(loss), "generation": len(restarts)})
                finally:
                    generation += 1
                present = gang.gather(workers, 0)
        finally:
            gang.forget()


def _silent(event: Event) -> None:
    del event
