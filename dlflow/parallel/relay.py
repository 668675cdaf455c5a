"""Messages between ranks over the cluster's own connections, for clusters where workers may open no ports of their own.

Ten times slower than the sockets of `transport` for small messages (1 ms instead of 0.1), and about as fast for large ones. Each
message is a call of a handler on the other worker, which answers once it has the message; TLS is the cluster's.
"""

import asyncio
import hmac
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dlflow.errors import PeerLost
from dlflow.parallel.comm import Comm
from dlflow.parallel.handshake import POLL_S, Ticket
from dlflow.parallel.stages import Shape, peers_of

__all__ = ["HANDLER", "Relay", "deliver"]

HANDLER = "dlflow_message"
BYE_S = 1.0
Place = tuple[str, int]
Letter = tuple[int, int, Any]  # step, number of the message on this link, the bytes as an array

_relays: dict[Place, "Relay"] = {}  # by run and rank: the handler of a worker finds its rank here


class Relay(Comm):
    """Links to all other ranks by calls between Dask workers; see Comm. Made before any rank begins, so that no message comes too early."""

    def __init__(
        self,
        worker: Any,
        run: str,
        ticket: Ticket,
        rank: int,
        workers: Sequence[str],
        *,
        shape: Shape,
        deadline_s: float,
    ) -> None:
        self.rank, self.size, self.shape, self.deadline_s = rank, ticket.size, shape, deadline_s
        self.check: Callable[[], None] = _nothing
        self.ticket = ticket
        self._worker, self._run, self._workers = worker, run, list(workers)
        self._changed = threading.Condition()
        self._inbox: dict[int, deque[Letter]] = {peer: deque() for peer in range(ticket.size)}
        self._outbox: dict[int, deque[Letter]] = {peer: deque() for peer in range(ticket.size)}
        self._sending: set[int] = set()
        self._gone: dict[int, str] = {}
        self._unsent: set[int] = set()  # peers that did not get all that was sent
        self._sent, self._received = [0] * ticket.size, [0] * ticket.size
        _relays[run, rank] = self

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Hand over one message; see Comm."""
        letter = step, self._sent[peer], np.frombuffer(bytes(data), np.uint8)
        self._sent[peer] += 1
        with self._changed:
            self._living(peer, step)
            self._outbox[peer].append(letter)
            if peer in self._sending:
                return
            self._sending.add(peer)
        asyncio.run_coroutine_threadsafe(self._push(peer), self._worker.loop.asyncio_loop)

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """Fill `into` with the next message of `peer`; see Comm."""
        inbox, began = self._inbox[peer], time.monotonic()
        while True:
            with self._changed:
                if inbox:
                    found, number, data = inbox.popleft()
                    break
                self._living(peer, step)
                self._changed.wait(POLL_S)
            self.check()
            if time.monotonic() - began > self.deadline_s:
                raise self._lost(peer, step, f"sent nothing for {self.deadline_s:g} s")
        expected = step, self._received[peer], len(into)
        if (found, number, len(data)) != expected:
            raise self._lost(
                peer,
                step,
                f"sent (step, message, bytes) {(found, number, len(data))}, expected {expected}",
            )
        self._received[peer] += 1
        into[:] = data.data

    def flush(self, step: int) -> None:
        """Wait until all is with the other workers; see Comm."""
        self.check()
        while True:
            with self._changed:
                for peer in self._unsent:
                    self._living(peer, step)
                if not self._sending:
                    return
                self._changed.wait(POLL_S)
            self.check()

    def close(self) -> None:
        """End all links at once; see Comm. Closing twice is closing once."""
        if _relays.pop((self._run, self.rank), None) is not None:
            asyncio.run_coroutine_threadsafe(self._bye(), self._worker.loop.asyncio_loop)

    def take(self, sender: int, letter: Letter | None) -> None:
        """Put a message into the inbox; None: the sender is gone."""
        with self._changed:
            if letter is None:
                self._gone[sender] = "ended its links"
            else:
                self._inbox[sender].append(letter)
            self._changed.notify_all()

    async def _push(self, peer: int) -> None:
        while True:
            with self._changed:
                if not self._outbox[peer]:
                    self._sending.discard(peer)
                    self._changed.notify_all()
                    return
                letter = self._outbox[peer].popleft()
            try:
                answer = await asyncio.wait_for(self._call(peer, letter), self.deadline_s)
            except (OSError, TimeoutError, RuntimeError) as error:
                answer = repr(error)
            if answer != "OK":
                with self._changed:
                    self._gone.setdefault(peer, f"takes no more messages ({answer})")
                    self._unsent.add(peer)
                    self._outbox[peer].clear()

    async def _call(self, peer: int, letter: Letter | None) -> Any:
        from distributed.protocol import to_serialize  # noqa: PLC0415

        step, number, data = letter or (0, 0, None)
        call = getattr(self._worker.rpc(self._workers[peer]), HANDLER)
        return await call(
            run=self._run,
            rank=peer,
            sender=self.rank,
            token=self.ticket.token,
            step=step,
            number=number,
            data=None if data is None else to_serialize(data),
        )

    async def _bye(self) -> None:
        calls = (asyncio.wait_for(self._call(peer, None), BYE_S) for peer in peers_of(self.rank, self.shape))
        await asyncio.gather(*calls, return_exceptions=True)

    def _living(self, peer: int, step: int) -> None:
        if peer in self._gone:
            raise self._lost(peer, step, self._gone[peer])

    def _lost(self, peer: int, step: int, what: str) -> PeerLost:
        return PeerLost(
            f"rank {peer} ({self._workers[peer]}) {what} at step {step}; rank {self.rank} of {self.size} stops, "
            "and fit_on forms the gang anew"
        )


async def deliver(run: str, rank: int, sender: int, token: bytes, step: int, number: int, data: Any) -> str:
    """The handler of a worker: the message is for this rank of this run, from somebody who knows the token."""
    relay = _relays.get((run, rank))
    if relay is None:
        return "that rank has ended"
    if not hmac.compare_digest(relay.ticket.token, token) or not 0 <= sender < relay.size:
        return "refused"
    relay.take(sender, None if data is None else (step, number, data))
    return "OK"


def _nothing() -> None:
    pass
