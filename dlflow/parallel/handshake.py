"""Who may talk to a rank: whoever proves to know the token of this generation, before any other byte is believed.

    listener                                   dialler
       | ---- 32 random bytes --------------------> |
       | <--- generation, ranks, 32 random bytes, HMAC(token, all of it + listener's bytes) ----
       | ---- HMAC(token, dialler's bytes) -------> |

The token is made for one generation and travels over the scheduler's channel, so a rank that was given up (a network cut,
a stopped process) and comes back is refused. All reads have a fixed length and a deadline.
"""

import hmac
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dlflow.errors import DlflowError

__all__ = ["Refused", "Ticket", "admit", "knock", "read_exactly"]

MAGIC = b"dlflow\x00\x01"
HELLO = struct.Struct("<8sQII32s32s")  # magic, generation, own rank, rank meant, nonce, proof
NONCE_BYTES = PROOF_BYTES = 32
POLL_S = 0.2  # how long a wait lasts before it looks whether it still makes sense


class Refused(DlflowError):
    """The other end does not belong to this generation, or is not a rank at all. Close, and wait for the right one."""


@dataclass(frozen=True)
class Ticket:
    """What makes a process a rank of this generation."""

    generation: int
    size: int
    token: bytes = field(repr=False)


def admit(conn: socket.socket, ticket: Ticket, rank: int, *, seconds: float) -> int:
    """The rank at the other end of an accepted connection, once it has proven itself.

    Raises: Refused.
    """
    deadline = time.monotonic() + seconds
    challenge = secrets.token_bytes(NONCE_BYTES)
    _write(conn, challenge, deadline)
    magic, generation, sender, receiver, nonce, proof = HELLO.unpack(read_exactly(conn, HELLO.size, deadline))
    if magic != MAGIC:
        raise Refused(f"a connection began with {magic!r}, expected a rank of dlflow; it was closed")
    if generation != ticket.generation:
        raise Refused(
            f"rank {sender} belongs to generation {generation}, this is {ticket.generation}; it was closed"
        )
    if receiver != rank or not 0 <= sender < ticket.size or sender == rank:
        raise Refused(
            f"rank {sender} wants rank {receiver}, this is rank {rank} of {ticket.size}; it was closed"
        )
    if not hmac.compare_digest(proof, _proof(ticket, b"knock", challenge, sender, rank)):
        raise Refused(f"a connection that calls itself rank {sender} does not know the token; it was closed")
    _write(conn, _proof(ticket, b"admit", nonce, rank, sender), deadline)
    return int(sender)


def knock(
    conn: socket.socket,
    ticket: Ticket,
    rank: int,
    peer: int,
    *,
    seconds: float,
    check: Callable[[], None] | None = None,
) -> None:
    """Prove to `peer` who this is, and have it prove the same; waits for a peer that has not begun.

    Raises: Refused, TimeoutError, ConnectionError.
    """
    deadline = time.monotonic() + seconds
    challenge = read_exactly(conn, NONCE_BYTES, deadline, check)
    nonce = secrets.token_bytes(NONCE_BYTES)
    proof = _proof(ticket, b"knock", challenge, rank, peer)
    _write(conn, HELLO.pack(MAGIC, ticket.generation, rank, peer, nonce, proof), deadline)
    answer = read_exactly(conn, PROOF_BYTES, deadline, check)
    if not hmac.compare_digest(answer, _proof(ticket, b"admit", nonce, peer, rank)):
        raise Refused(f"what listens as rank {peer} does not know the token; it was left")


def read_exactly(
    conn: socket.socket, length: int, deadline: float, check: Callable[[], None] | None = None
) -> bytes:
    """The next `length` bytes; `check` is called now and then and may raise.

    Raises: TimeoutError after the deadline; ConnectionError if the other end closes.
    """
    received = bytearray()
    while len(received) < length:
        if check:
            check()
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{len(received)} of {length} bytes came in time")
        conn.settimeout(min(left, POLL_S))
        try:
            piece = conn.recv(length - len(received))
        except TimeoutError:
            continue
        if not piece:
            raise ConnectionError(f"closed after {len(received)} of {length} bytes")
        received += piece
    return bytes(received)


def _write(conn: socket.socket, data: bytes, deadline: float) -> None:
    conn.settimeout(max(deadline - time.monotonic(), 0.001))
    conn.sendall(data)


def _proof(ticket: Ticket, role: bytes, nonce: bytes, sender: int, receiver: int) -> bytes:
    place = struct.pack("<QQQ", ticket.generation, sender, receiver)
    return hmac.digest(ticket.token, MAGIC + role + place + nonce, "sha256")
