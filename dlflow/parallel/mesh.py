"""Links of a rank to those it exchanges with: messages over sockets, and places in memory where a host is shared.

Every message carries step, number, length and place. All but the place must be what the receiver expects: nothing is allocated by what a peer
says. A message that lies in the sender's shared memory travels as its place alone; the receiver reads it there until it flushes, and says
then how many it has read, for which the sender's flush waits: so memory that is lent never changes under a reader.
"""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Mapping
from math import prod
from typing import Any, NamedTuple

from numpy.typing import DTypeLike, NDArray

from dlflow.errors import PeerLost
from dlflow.parallel.comm import Comm
from dlflow.parallel.handshake import POLL_S
from dlflow.parallel.sender import RECEIPT, Sender
from dlflow.parallel.shared import Pool, Torn, Window
from dlflow.parallel.stages import Shape

__all__ = ["Link", "Mesh", "close_socket"]

FRAME = struct.Struct("<QQQQ")  # step, number of the message on this link, bytes, their place
NO_PLACE = (1 << 64) - 1  # the bytes follow
LENT_BYTES = (
    1 << 16
)  # up to here the bytes cost no more than a place, for which a receipt must come back: measured between 50 and 100 KB


class Link(NamedTuple):
    """Both directions to one peer, and its memory if it is to be read."""

    incoming: socket.socket
    outgoing: socket.socket
    window: Window | None


class Mesh(Comm):
    """Links to other ranks; see Comm."""

    def __init__(
        self,
        shape: Shape,
        rank: int,
        links: Mapping[int, Link],
        names: Mapping[int, str],
        *,
        deadline_s: float,
        check: Callable[[], None],
        pool: Pool | None,
    ) -> None:
        self.rank, self.size, self.shape = rank, prod(shape), shape
        self.deadline_s = deadline_s
        self._check, self._names, self._pool = check, names, pool
        self._incoming = {peer: link.incoming for peer, link in links.items()}
        self._windows = {peer: link.window for peer, link in links.items()}
        self._senders = {peer: Sender(link.outgoing, deadline_s) for peer, link in links.items()}
        self._sent = dict.fromkeys(links, 0)
        self._received = dict.fromkeys(links, 0)
        self._lent = dict.fromkeys(links, 0)  # messages sent as places, and how many of them were read
        self._back = dict.fromkeys(links, 0)
        self._read = dict.fromkeys(links, 0)  # of theirs, and how many of them they know of
        self._told = dict.fromkeys(links, 0)
        self._header = memoryview(bytearray(FRAME.size))
        for incoming in self._incoming.values():
            incoming.settimeout(POLL_S)

    def zeros(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """A vector that need not be copied to be sent; see Comm."""
        return super().zeros(size, dtype) if self._pool is None else self._pool.zeros(size, dtype)

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Hand over one message; see Comm."""
        place = self._pool.place(data) if self._pool and len(data) >= LENT_BYTES else None
        header = FRAME.pack(step, self._sent[peer], len(data), NO_PLACE if place is None else place)
        self._sent[peer] += 1
        if place is not None:
            self._lent[peer] += 1
            data = data[:0]
        try:
            self._senders[peer].send(header, data)
        except OSError as error:
            raise self._lost(peer, step, f"takes no more messages ({error})") from error

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """Fill `into` with the next message of `peer`; see Comm."""
        found = self.borrow(peer, into, step)
        if found is not into:
            into[:] = found

    def borrow(self, peer: int, room: memoryview, step: int) -> memoryview:
        """The next message of `peer`, in `room` or where it lies; see Comm."""
        self._fill(peer, self._header, step)
        *found, place = FRAME.unpack(self._header)
        expected = [step, self._received[peer], len(room)]
        if found != expected:
            raise self._lost(
                peer,
                step,
                f"sent step {found[0]}, message {found[1]} of {found[2]} bytes, expected step {expected[0]}, "
                f"message {expected[1]} of {expected[2]} bytes",
            )
        self._received[peer] += 1
        if place == NO_PLACE:
            self._fill(peer, room, step)
            return room
        self._read[peer] += 1
        window = self._windows[peer]
        if window is None:
            raise self._lost(peer, step, "names a place in its memory, and has handed none over")
        try:
            return window.look(place, len(room))
        except Torn as error:
            raise self._lost(peer, step, str(error)) from error

    def flush(self, step: int) -> None:
        """Wait until all is sent, and all that was lent is read; see Comm."""
        self._check()
        for peer, sender in self._senders.items():
            try:
                sender.flush(self._check)
            except OSError as error:
                raise self._lost(peer, step, f"takes no more messages ({error})") from error
        for peer, read in self._read.items():
            if read != self._told[peer]:
                self._told[peer] = read
                with contextlib.suppress(
                    OSError
                ):  # a peer that is gone is noticed where something is awaited of it
                    self._incoming[peer].sendall(RECEIPT.pack(read))
        for peer, lent in self._lent.items():
            while self._back[peer] != lent:
                self._back[peer] = self._receipt(peer, step)

    def close(self) -> None:
        """End all links at once; see Comm. Closing twice is closing once."""
        for sender in self._senders.values():
            sender.close()
        for conn in self._incoming.values():
            close_socket(conn)
        for window in self._windows.values():
            if window:
                window.close()
        if self._pool:
            self._pool.close()

    def _receipt(self, peer: int, step: int) -> int:
        try:
            count = self._senders[peer].receipt(self._check)
        except TimeoutError:
            raise self._lost(peer, step, f"has not read in {self.deadline_s:g} s what it was shown") from None
        except OSError as error:
            self._check()
            raise self._lost(peer, step, f"broke its connection ({error})") from error
        if not self._back[peer] < count <= self._lent[peer]:
            raise self._lost(
                peer, step, f"says it has read {count} messages in place, expected at most {self._lent[peer]}"
            )
        return count

    def _fill(self, peer: int, view: memoryview, step: int) -> None:
        conn, done, began = self._incoming[peer], 0, time.monotonic()
        while done < len(view):
            try:
                got = conn.recv_into(view[done:])
            except TimeoutError:
                self._check()
                if time.monotonic() - began > self.deadline_s:
                    raise self._lost(peer, step, f"sent nothing for {self.deadline_s:g} s") from None
                continue
            except OSError as error:
                self._check()
                raise self._lost(peer, step, f"broke its connection ({error})") from error
            if not got:
                self._check()
                raise self._lost(peer, step, f"closed its connection after {time.monotonic() - began:.1f} s")
            done += got
            began = time.monotonic()

    def _lost(self, peer: int, step: int, what: str) -> PeerLost:
        return PeerLost(
            f"rank {peer} ({self._names[peer]}) {what} at step {step}; rank {self.rank} of {self.size} stops, "
            "and fit_on forms the gang anew"
        )


def close_socket(conn: socket.socket) -> None:
    """End a connection for both sides."""
    with contextlib.suppress(OSError):
        conn.shutdown(socket.SHUT_RDWR)
    conn.close()
