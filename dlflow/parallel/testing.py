"""Ranks as threads of one process, and ranks that die on purpose: what a test of parallel training needs.

ring = ThreadRing(3)
outcomes = on_every_rank(ring, lambda comm: train(job, comm))

A ring of Clocked comms tells how long the same exchange would take between machines that nobody has: each message moves the clocks of
its ranks as `cost.Link` says. Which rank waits for which is fixed by the schedule, so the times do not depend on the threads.
"""

import queue
import struct
import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import TypeVar

from dlflow.errors import PeerLost
from dlflow.parallel.comm import Comm, Stopped
from dlflow.parallel.cost import Link
from dlflow.parallel.stages import Shape, peers_of

__all__ = ["Clocked", "Flaky", "ThreadRing", "on_every_rank"]

Result = TypeVar("Result")
_CLOSED = (-1, -1, b"")
_TIME = struct.Struct("<d")


class ThreadRing:
    """Comms for `size` ranks that are threads of this process; without a `shape`, each may talk to each."""

    def __init__(self, size: int, *, shape: Shape | None = None, deadline_s: float = 30.0) -> None:
        shape = ((size,) if size > 1 else ()) if shape is None else shape
        links: _Links = {}
        self.comms: tuple[Comm, ...] = tuple(_Thread(rank, shape, links, deadline_s) for rank in range(size))


_Links = dict[tuple[int, int], "queue.SimpleQueue[tuple[int, int, bytes]]"]


class _Thread(Comm):
    """One rank of a ThreadRing; see Comm."""

    def __init__(self, rank: int, shape: Shape, links: _Links, deadline_s: float) -> None:
        self.rank, self.size, self.shape = rank, prod(shape), shape
        self._peers = peers_of(rank, shape)
        for peer in self._peers:
            links.setdefault((rank, peer), queue.SimpleQueue())
            links.setdefault((peer, rank), queue.SimpleQueue())
        self._links, self._deadline_s = links, deadline_s
        self._sent = [0] * self.size
        self._received = [0] * self.size

    def send(self, peer: int, data: memoryview, step: int) -> None:
        self._links[self.rank, peer].put((step, self._sent[peer], bytes(data)))
        self._sent[peer] += 1

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        try:
            message = self._links[peer, self.rank].get(timeout=self._deadline_s)
        except queue.Empty:
            raise PeerLost(
                f"rank {peer} (a thread) sent nothing for {self._deadline_s:g} s at step {step}"
            ) from None
        if message == _CLOSED:
            self._links[peer, self.rank].put(_CLOSED)  # for the next one who asks
            raise PeerLost(f"rank {peer} (a thread) closed its connection at step {step}")
        found, expected = (*message[:2], len(message[2])), (step, self._received[peer], len(into))
        if found != expected:
            raise PeerLost(f"rank {peer} (a thread) sent (step, message, bytes) {found}, expected {expected}")
        self._received[peer] += 1
        into[:] = message[2]

    def flush(self, step: int) -> None:
        """All is sent at once."""

    def close(self) -> None:
        for peer in self._peers:
            self._links[self.rank, peer].put(_CLOSED)


class Clocked(Comm):
    """A comm that counts, and whose rank has a clock of its own: messages take as long as links of this kind would need."""

    def __init__(self, comm: Comm, link: Link) -> None:
        self.rank, self.size, self.shape = comm.rank, comm.size, comm.shape
        self._comm, self._link = comm, link
        self.now, self.messages, self.nbytes = 0.0, 0, 0

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Half of a message's work is the sender's; the time it is underway goes with it."""
        self.now += (self._link.message_s + len(data) * self._link.byte_s) / 2
        self.messages += 1
        self.nbytes += len(data)
        self._comm.send(peer, memoryview(_TIME.pack(self.now + self._link.round_s) + bytes(data)), step)

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """The other half is the receiver's, once the message is there."""
        whole = memoryview(bytearray(_TIME.size + len(into)))
        self._comm.receive(peer, whole, step)
        (there,) = _TIME.unpack(whole[: _TIME.size])
        into[:] = whole[_TIME.size :]
        self.now = max(self.now, there) + (self._link.message_s + len(into) * self._link.byte_s) / 2

    def flush(self, step: int) -> None:
        """All is sent at once."""
        self._comm.flush(step)

    def close(self) -> None:
        """End all links."""
        self._comm.close()


class Flaky(Comm):
    """A comm whose rank dies at its n-th message or wait, as a process does that is killed there."""

    def __init__(self, comm: Comm, *, dies_at: int) -> None:
        self.rank, self.size, self.shape = comm.rank, comm.size, comm.shape
        self._comm, self._left = comm, dies_at

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Send, or die."""
        self._live()
        self._comm.send(peer, data, step)

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """Receive, or die."""
        self._live()
        self._comm.receive(peer, into, step)

    def flush(self, step: int) -> None:
        """Flush, or die."""
        self._live()
        self._comm.flush(step)

    def close(self) -> None:
        """End all links."""
        self._comm.close()

    def _live(self) -> None:
        self._left -= 1
        if self._left < 0:
            self._comm.close()
            raise Stopped(f"rank {self.rank} dies here, as the test wants")


def on_every_rank(comms: ThreadRing | Sequence[Comm], work: Callable[[Comm], Result]) -> list[Result]:
    """What `work` gives on each rank, run at once in threads; closes the comms.

    Raises: the first error that is not merely the loss of a peer, else the first error.
    """
    ranks = comms.comms if isinstance(comms, ThreadRing) else comms
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def run(comm: Comm) -> None:
        try:
            results[comm.rank] = work(comm)
        except BaseException as error:  # noqa: BLE001  (raised again by the caller's thread)
            errors.append(error)
        finally:
            comm.close()

    threads = [
        threading.Thread(target=run, args=(comm,), name=f"rank-{comm.rank}", daemon=True) for comm in ranks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise min(errors, key=lambda error: isinstance(error, PeerLost))
    return [results[rank] for rank in range(len(ranks))]
