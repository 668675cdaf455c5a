"""Training on a Dask cluster: one rank per worker process, and a supervisor that forms the gang anew when it loses one.

    lock the cluster -> ask workers -> listeners -> one pinned task per rank -> watch every 50 ms
                           ^                                                        |
                           +------ end what runs on <------ lost, hung, PeerLost ---+

A Dask task that is pinned to a dead worker waits for ever and says nothing; that is why somebody must watch. A new generation starts
from the newest checkpoint with the workers that are there, and ends with the same bits.
"""

import queue
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from dlflow.errors import DlflowError, GangFailed, ModelError, PeerLost
from dlflow.parallel.cluster import Cluster, Event
from dlflow.parallel.comm import Stopped
from dlflow.parallel.handshake import Ticket
from dlflow.parallel.rank import TOPIC, Order, describe, end_worker, prepare, run_rank, stop
from dlflow.training.job import Job, Outcome
from dlflow.training.trainer import Report

__all__ = ["fit_on"]

POLL_S = 0.05
START_S = 60.0  # for a rank to begin: a worker may be busy with a task, or just starting
REPLACEMENT_S = (
    5.0  # a nanny is back in 1 to 2 s; fewer ranks give the same bits, so there is no point in waiting long
)
ANSWER_S = 2.0  # for a small result that is there
SETTLE_S = 1.0  # for the other ranks to come to their ends, once one has
STOP_S = 2.0  # for ranks to end by themselves, before their workers are ended
EXACT = ("numpy", "blas", "simd", "machine", "libc")  # facts that all ranks must share


def fit_on(
    client: Any,
    job: Job,
    *,
    workers: int | None = None,
    report: Report | None = None,
    deadline_s: float = 30.0,
    max_restarts: int = 5,
    wait_s: float = 600.0,
) -> Outcome:
    """Train on the workers of a distributed.Client (at most `workers` of them); same job, same bits as `fit`.

    `report` is told in this thread: the events of `train`, and {"event": "restart", "why": ...}. `job.folder` must be the same storage
    for all workers. A rank that shows no progress for `deadline_s` is given up, so a step must take less. Another training on
    this cluster is waited for, at most `wait_s`.

    Raises: ModelError, NonFinite, ModelFileError as `fit` does, at once; GangFailed if the scheduler, all workers or
    more than `max_restarts` generations are lost. When it returns or raises, no rank runs.
    """
    if workers is not None and workers < 1:
        raise ModelError(f"workers is {workers!r}, expected at least 1, or None for all; correct it")
    told = report or _silent
    job.fingerprint  # noqa: B018  (a job that cannot be told from another must fail here, not on a worker)
    cluster = Cluster(client)
    waiting = {"event": "warning", "why": "another training uses this cluster; waiting for it"}
    with cluster.exclusive(wait_s, lambda: told(waiting)), cluster.events(TOPIC) as events:
        gang = _Gang(cluster, job, told, events, deadline_s)
        restarts: list[str] = []
        wanted = workers
        while True:
            size = gang.gather(wanted, restarted=bool(restarts))
            try:
                return replace(gang.run(size, len(restarts)), restarts=tuple(restarts))
            except PeerLost as loss:
                restarts.append(str(loss))
                if len(restarts) > max_restarts:
                    raise GangFailed(
                        f"{len(restarts)} generations were lost, at most {max_restarts} restarts were allowed; the last: {loss}; "
                        "look at the workers' logs, then run again to resume from the newest checkpoint"
                    ) from loss
                told({"event": "restart", "why": str(loss), "generation": len(restarts)})
                wanted = workers or size


class _Gang:
    """The workers and ranks of one training, generation after generation."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        report: Report,
        events: "queue.SimpleQueue[Event]",
        deadline_s: float,
    ) -> None:
        self.cluster, self.job, self.report, self.events, self.deadline_s = (
            cluster,
            job,
            report,
            events,
            deadline_s,
        )
        self.given_up: set[str] = set()  # still hold a rank of ours, and nobody could restart them
        self.run_id, self.ended = "", False  # of this generation
        self.ranks: dict[str, int] = {}
        self.futures: list[Any] = []

    def gather(self, wanted: int | None, *, restarted: bool) -> int:
        """Wait a little for as many workers as wanted; how many there are.

        Raises: GangFailed if there is none after a minute.
        """
        _wait(lambda: len(self._present()) >= (wanted or 1), REPLACEMENT_S)
        if not _wait(self._present, START_S):
            lost = "all workers are lost and none came back" if restarted else "the cluster has no worker"
            raise GangFailed(
                f"{lost} within {START_S:g} s; start workers, then run again to resume from the newest checkpoint"
            )
        return min(wanted or len(self._present()), len(self._present()))

    def run(self, size: int, generation: int) -> Outcome:
        """One generation, from forming to its end; no rank of it runs after this.

        Raises: PeerLost if it must be formed anew; what a rank raised, if that was not the loss of a peer.
        """
        self.run_id = f"{secrets.token_hex(8)}-{generation}"
        self.ranks = {address: rank for rank, address in enumerate(self._present()[:size])}
        self.futures, self.ended = [], False
        try:
            self._submit(generation)
            return self._watch()
        finally:
            self._end()

    def _present(self) -> list[str]:
        return [address for address in self.cluster.alive() if address not in self.given_up]

    def _submit(self, generation: int) -> None:
        facts = self._answers(describe)
        _check_numerics({address: each["numerics"] for address, each in facts.items()})
        unix = (
            all(each["unix"] for each in facts.values())
            and len({each["host"] for each in facts.values()}) == 1
        )
        order = Order(
            run=self.run_id,
            job=self.job,
            ticket=Ticket(generation, len(self.ranks), secrets.token_bytes(32)),
            ranks=self.ranks,
            unix=unix,
            start_s=START_S,
            deadline_s=self.deadline_s,
        )
        listening = self._answers(prepare, order)
        addresses = tuple(listening[worker] for worker in self.ranks)
        for worker, rank in self.ranks.items():
            future = self.cluster.client.submit(
                run_rank,
                self.run_id,
                rank,
                addresses,
                key=f"dlflow-rank-{self.run_id}-{rank}",
                workers=[worker],
                allow_other_workers=False,
                pure=False,
                retries=0,
                priority=100,  # a gang waits for its last rank
            )
            self.futures.append(future)

    def _answers(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        answers = self.cluster.run(function, *args, workers=self.ranks, seconds=START_S / 2)
        for address, answer in answers.items():
            if isinstance(answer, (OSError, TimeoutError)):
                raise PeerLost(
                    f"rank {self.ranks[address]} ({address}) did not answer before it began ({answer!r})"
                )
            if isinstance(answer, Exception):  # most often an ImportError, of which Dask keeps only the text
                raise GangFailed(
                    f"the worker {address} cannot load the job ({answer}); install the same dlflow, and the modules of your own "
                    "layers, on all workers"
                ) from answer
        return answers

    def _watch(self) -> Outcome:
        """Wait for the end of the generation.

        Raises: PeerLost; what a rank raised.
        """
        patience, last = START_S + self.deadline_s, time.monotonic()
        while True:
            if self._hear():
                # longer than a rank waits for its peers, whose message says which one is silent
                patience, last = self.deadline_s * 1.25 + 1, time.monotonic()
            present = set(self.cluster.alive())
            endings = self._endings(present)
            if any(isinstance(ending, Exception) for ending in endings.values()):
                raise self._cause()
            if isinstance(outcome := endings.get(0), Outcome):
                _wait(lambda: self._hear() or self.ended, 1.0)
                return outcome
            for address, rank in self.ranks.items():
                if address not in present:
                    raise PeerLost(f"the worker {address} of rank {rank} was lost")
            if time.monotonic() - last > patience:
                raise PeerLost(f"no rank of {len(self.ranks)} made progress for {patience:g} s")
            time.sleep(POLL_S)

    def _hear(self) -> bool:
        """Pass on what rank 0 has said; whether there was anything."""
        heard = False
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                return heard
            if event.pop("run", None) != self.run_id:  # the last words of an earlier generation
                continue
            heard = True
            if event["event"] == "end":
                self.ended = True
            else:
                self.report(event)

    def _endings(self, present: set[str]) -> dict[int, Outcome | Exception]:
        """What the ranks that are no longer at work have come to; an answer that was lost with its worker is none."""
        endings: dict[int, Outcome | Exception] = {}
        for (address, rank), future in zip(self.ranks.items(), self.futures, strict=True):
            if future.status == "finished" and address in present:
                with suppress(OSError, TimeoutError):  # its worker dies now: seen at the next look
                    endings[rank] = future.result(timeout=ANSWER_S)
            elif future.status == "error":
                endings[rank] = future.exception(timeout=ANSWER_S)
            elif future.status in {"cancelled", "lost"}:
                endings[rank] = PeerLost(f"the task of rank {rank} was {future.status} by the scheduler")
        return endings

    def _cause(self) -> Exception:
        """The error that is not merely the loss of a peer, if one rank has it; the others come to their ends at once."""
        present = self._known()
        here = [rank for address, rank in self.ranks.items() if address in present]
        _wait(lambda: all(self.futures[rank].status != "pending" for rank in here), SETTLE_S)
        errors = {rank: end for rank, end in self._endings(present).items() if isinstance(end, Exception)}
        for rank, error in errors.items():
            # Dask's own errors (a worker killed, a task cancelled) are losses too
            if isinstance(error, (PeerLost, Stopped)) or type(error).__module__.startswith("distributed"):
                continue
            if not isinstance(error, DlflowError):
                error.add_note(f"on rank {rank} of {len(self.futures)}, worker {list(self.ranks)[rank]}")
            return error
        if lost := sorted(set(self.ranks) - present):
            return PeerLost(f"the worker {lost[0]} of rank {self.ranks[lost[0]]} was lost")
        told = sorted(errors.values(), key=lambda error: not isinstance(error, PeerLost))
        return PeerLost(str(told[0]) if told else "a rank ended with an error that was lost with its worker")

    def _end(self) -> None:
        """End every rank of this generation: asked first, then, if it runs on, with its worker."""
        deadline, running = time.monotonic() + STOP_S, set(self.ranks) & self._known()
        while running and time.monotonic() < deadline:
            answers = self.cluster.run(stop, self.run_id, workers=running, seconds=1.0)
            running = {address for address, answer in answers.items() if answer is not False}
            running &= self._known()
            if running:
                time.sleep(POLL_S)
        if self.futures:
            self.cluster.cancel(self.futures)
        self.futures = []
        if not running:
            return
        nannies = self.cluster.nannies()
        watched = {address for address in running if nannies.get(address)}
        self.given_up |= running - watched
        self.cluster.run(end_worker, workers=watched, nanny=True, seconds=1.5)
        _wait(lambda: not watched & self._known(), 1.5)
        self.given_up |= watched & self._known()

    def _known(self) -> set[str]:
        """Workers that are there; none if even the scheduler is not."""
        try:
            return set(self.cluster.alive())
        except GangFailed:
            return set()


def _check_numerics(facts: dict[str, dict[str, Any]]) -> None:
    """Raises: ModelError if ranks would compute different bits."""
    for name in EXACT:
        if len({str(each[name]) for each in facts.values()}) > 1:
            listed = "; ".join(f"{address} has {each[name]!r}" for address, each in facts.items())
            raise ModelError(
                f"workers differ in {name!r}, and so in the last bits they compute: {listed}; install the same versions, and set "
                "OPENBLAS_CORETYPE to one kernel before the workers start, or choose workers that are alike"
            )


def _wait(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True


def _silent(event: Event) -> None:
    del event
