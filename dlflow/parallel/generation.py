"""A gang of ranks, generation after generation: formed of the workers that are there, watched, ended.

    ask workers -> listeners -> one pinned task per rank -> watch every 50 ms -> end what runs on

A Dask task that is pinned to a dead worker waits for ever and says nothing; that is why somebody must watch.
"""

import queue
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dlflow.errors import DlflowError, GangFailed, PeerLost
from dlflow.parallel.cluster import Cluster, Event
from dlflow.parallel.comm import Stopped
from dlflow.parallel.cost import best_shape, useful_ranks
from dlflow.parallel.handshake import Ticket
from dlflow.parallel.rank import Order, describe, end_worker, forget, pause, prepare, run_rank, stop
from dlflow.parallel.stages import peers_of
from dlflow.parallel.transport import NoLink
from dlflow.training.job import MAX_SHARDS, Job, Outcome
from dlflow.training.numerics import check_alike, unlike
from dlflow.training.trainer import Report

__all__ = ["Change", "Gang"]

POLL_S = 0.05
START_S = 60.0  # for a rank to begin: a worker may be busy with a task, or just starting
JOIN_S = 3.0  # a generation lasts so long before newcomers are taken in: forming anew costs up to a second and a half
ANSWER_S = 2.0  # for a small result that is there
SETTLE_S = 1.0  # for the other ranks to come to their ends, once one has
STOP_S = 2.0  # for ranks to end by themselves, before their workers are ended


class Change(DlflowError):
    """Other workers should hold the ranks: newcomers, or all but a slow one. Nothing is lost."""


class Gang:
    """The workers and ranks of one training, generation after generation."""

    def __init__(
        self,
        cluster: Cluster,
        job: Job,
        report: Report,
        events: "queue.SimpleQueue[Event]",
        deadline_s: float,
        drop_slow: float | None,
        *,
        relay: bool,
    ) -> None:
        self.cluster, self.job, self.report, self.events = cluster, job, report, events
        self.deadline_s, self.drop_slow, self.relay = deadline_s, drop_slow, relay
        self.training, self.wanted = secrets.token_hex(8), 1
        self._advised = False
        self.given_up: set[str] = set()  # still hold a rank of ours, or would compute other bits
        self.numerics: dict[str, Any] = {}  # of all ranks so far
        self.run_id, self.ended, self.began = "", False, 0.0  # of this generation
        self.links = ""  # between its ranks: a name of cost.LINKS
        self.ranks: dict[str, int] = {}
        self.futures: list[Any] = []

    def gather(self, wanted: int | None, seconds: float) -> int:
        """Wait so long for as many workers as wanted, and a minute for one; how many of those there are can be of use.

        Raises: GangFailed if there is none.
        """
        before = bool(self.run_id)
        _wait(lambda: len(self._present()) >= (wanted or 1), seconds)
        if not _wait(self._present, START_S):
            lost = "all workers are lost and none came back" if before else "the cluster has no worker"
            raise GangFailed(
                f"{lost} within {START_S:g} s; start workers, then run again to resume from the newest checkpoint"
            )
        here, self.wanted = len(self._present()), wanted or sys.maxsize
        self._advise(here)
        return self._size(here)

    def run(self, size: int, generation: int) -> Outcome:
        """One generation, from forming to its end; no rank of it runs after this.

        Raises: PeerLost or Change if it must be formed anew; what a rank raised, if that was not the loss of a peer.
        """
        self.run_id = f"{self.training}-{generation}"
        self.ranks = {address: rank for rank, address in enumerate(self._present()[:size])}
        self.futures, self.ended, self.began = [], False, time.monotonic()
        try:
            self._submit(generation)
            return self._watch()
        except Change:
            self._pause()
            raise
        finally:
            self._end()

    def forget(self) -> None:
        """Free what workers have kept in memory for a next generation."""
        self.cluster.run(forget, self.training, workers=self._known(), seconds=STOP_S)

    def all_there(self) -> bool:
        """Whether every worker of this generation is still known."""
        return set(self.ranks) <= self._known()

    def _size(self, workers: int) -> int:
        """How many ranks so many workers hold."""
        workers = min(workers, self.wanted)
        return useful_ranks(workers, self.job.shards) if self.job.exact else workers

    def _advise(self, here: int) -> None:
        """Say once that some of the workers have nothing to do, and what would give it to them."""
        size, wanted, job = self._size(here), min(here, self.wanted), self.job
        if size >= wanted or self._advised:
            return
        self._advised = True
        more = job.shards
        while useful_ranks(wanted, more) <= size and 2 * more <= min(job.batch, MAX_SHARDS):
            more *= 2
        used = useful_ranks(wanted, more)
        cost = f"{job.batch // more} rows each, which costs some time, and gives other last bits"
        fix = f"shards = {more} ({cost}) would use {used}" if used > size else "a larger batch would use more"
        why = f"{here} workers are there and a batch has {job.shards} shards, which {size} ranks share as fast as more would: the others stay idle"
        self.report({"event": "advice", "why": f"{why}; {fix}"})

    def _present(self) -> list[str]:
        return [address for address in self.cluster.alive() if address not in self.given_up]

    def _submit(self, generation: int) -> None:
        facts = self._answers(describe)
        self._admit({address: each["numerics"] for address, each in facts.items()})
        unix = (
            all(each["unix"] for each in facts.values())
            and len({each["host"] for each in facts.values()}) == 1
        )
        tls = self.cluster.address.startswith("tls://")
        shared = unix and all(each["shared"] for each in facts.values())
        self.links = (
            "dask" if self.relay else "shared" if shared else "unix" if unix else "tls" if tls else "tcp"
        )
        if self.links == "unix":
            why = "this system has no anonymous memory (memfd) that ranks of one host could share: they send all they exchange through sockets"
            self.report({"event": "advice", "why": f"{why}, which is slower for large models"})
        shards = self.job.shards if self.job.exact else len(self.ranks)
        shape = best_shape(len(self.ranks), shards, self.links)
        order = Order(
            run=self.run_id,
            training=self.training,
            job=self.job,
            ticket=Ticket(generation, len(self.ranks), secrets.token_bytes(32)),
            ranks=self.ranks,
            shape=shape,
            unix=unix,
            shared=shared,
            relay=self.relay,
            start_s=START_S,
            deadline_s=self.deadline_s,
        )
        listening = self._answers(prepare, order)
        workers = list(self.ranks)
        for worker, rank in self.ranks.items():
            addresses = (
                {} if self.relay else {peer: listening[workers[peer]] for peer in peers_of(rank, shape)}
            )
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

    def _admit(self, facts: dict[str, dict[str, Any]]) -> None:
        """A worker that has come since the first generation and would compute other bits is left out; the others go on.

        Raises: Change then; ModelError if those of a first generation differ, or no worker of a later one is as they were.
        """
        others = {at: what for at, each in facts.items() if (what := unlike(self.numerics or each, each))}
        if others and len(others) < len(facts):
            self.given_up |= set(others)
            told = ", ".join(f"{address} (in {what!r})" for address, what in others.items())
            raise Change(f"{told} differs from the ranks so far, would compute other bits, and is left out")
        check_alike({"the ranks so far": self.numerics, **facts} if others else facts)
        self.numerics = next(iter(facts.values()))

    def _answers(self, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
        answers = self.cluster.run(function, *args, workers=self.ranks, seconds=START_S / 2)
        for address, answer in answers.items():
            if isinstance(answer, (OSError, TimeoutError)):
                raise NoLink(
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
            self._take_in(present)
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
            elif event["event"] == "straggler":
                self._slow(list(self.ranks)[event["rank"]], event["times"])
            else:
                self.report({**event, "links": self.links} if event["event"] == "start" else event)

    def _slow(self, address: str, times: float) -> None:
        """Raises: Change if the rank there is to be given up."""
        what = f"rank {self.ranks[address]} ({address}) computes {times:.1f} times as long as the others"
        if self.drop_slow and times >= self.drop_slow:
            self.given_up.add(address)
            raise Change(f"{what}: it is given up, as drop_slow = {self.drop_slow:g} asks for")
        self.report(
            {"event": "warning", "why": f"{what}, and every step waits for it; look at what else runs there"}
        )

    def _take_in(self, present: set[str]) -> None:
        """Raises: Change if there are workers that could be of use."""
        if time.monotonic() - self.began < JOIN_S or self.futures[0].status != "pending":
            return
        newcomers = sorted(present - set(self.ranks) - self.given_up)
        self._advise(len(self.ranks) + len(newcomers))
        if newcomers and self._size(len(self.ranks) + len(newcomers)) > len(self.ranks):
            raise Change(f"{', '.join(newcomers)} joins {len(self.ranks)} ranks")

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
        if told and isinstance(told[0], PeerLost):
            return told[0]
        return PeerLost(str(told[0]) if told else "a rank ended with an error that was lost with its worker")

    def _pause(self) -> None:
        """Wait until the ranks have ended after a step, which they keep; not for ever, as one may not get on."""
        self.cluster.run(pause, self.training, workers=list(self.ranks)[:1], seconds=ANSWER_S)
        end = time.monotonic() + self.deadline_s
        while time.monotonic() < end and any(future.status == "pending" for future in self.futures):
            with suppress(Change):  # another slow rank
                self._hear()
            if not set(self.ranks) <= self._known():
                return
            time.sleep(POLL_S)

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


def _wait(condition: Callable[[], Any], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_S)
    return True
