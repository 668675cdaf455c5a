"""Memory of one rank that the other ranks of its host read in place: what is sent of it is a place, not bytes.

Anonymous memory (memfd) that has no name anywhere and no limit of /dev/shm: each rank makes its own, hands its descriptor to its peers over the
Unix socket that has proven who they are, and is the only one that can write there. It is gone with the last process that has it.

Vectors that live here (gradients, weights) are memory that a rank needs anyway; what a rank reads of its peers is counted by the system
as resident in both, but it is there once.
"""

import mmap
import os
import socket
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlflow.errors import DlflowError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Pool", "Torn", "Window", "can_share", "hand", "take"]

Array = NDArray[Any]
NAME = "dlflow-rank"  # shown in /proc/PID/maps, no file
GRAIN = mmap.ALLOCATIONGRANULARITY
NOTHING, HANDED = b"\x00", b"\x01"


class Torn(DlflowError):
    """What a peer said of its memory is not true."""


def can_share() -> bool:
    """Whether this system has anonymous memory that can be handed over, and kept from shrinking under a reader: tried, as sandboxes forbid it."""
    if not (hasattr(os, "memfd_create") and hasattr(socket, "send_fds") and hasattr(fcntl, "F_SEAL_SHRINK")):
        return False
    try:
        Pool().close()
    except OSError:
        return False
    return True


class Pool:
    """The memory of this rank: arrays in it may be named to others by their place.

    Raises: OSError where the system gives none.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # a reader of memory that has gone would be killed by the kernel, so it must never go
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self._size = 0
        self._regions: list[tuple[int, int, int]] = []  # first and last address, place in the memory

    def zeros(self, size: int, dtype: DTypeLike) -> Array:
        """A vector of zeros that others can read; its memory is free again when nobody holds it and the pool is closed."""
        nbytes = size * np.dtype(dtype).itemsize
        if not nbytes:
            return np.zeros(size, dtype)
        start, length = self._size, -(-nbytes // GRAIN) * GRAIN
        os.ftruncate(self.descriptor, start + length)
        self._size += length
        memory = np.frombuffer(mmap.mmap(self.descriptor, length, offset=start), np.uint8)
        address = memory.ctypes.data
        self._regions.append((address, address + nbytes, start))
        return memory[:nbytes].view(dtype)

    def place(self, data: memoryview) -> int | None:
        """Where these bytes are in this memory; None if they are elsewhere."""
        address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        for first, last, start in self._regions:
            if first <= address and address + len(data) <= last:
                return start + address - first
        return None

    def close(self) -> None:
        """Lend no more; the arrays stay. Closing twice is closing once."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Window:
    """The memory of a peer, to be read.

    Raises: Torn if it is not what a rank hands over.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._view = descriptor, memoryview(b"")
        try:
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        except OSError:
            sealed = 0
        if not sealed:
            self.close()
            raise Torn(
                "the memory that a peer has handed over could shrink, expected one that is sealed; it was closed"
            )

    def look(self, place: int, length: int) -> memoryview:
        """These bytes, read-only, as they are now.

        Raises: Torn for a place that is not there.
        """
        if place + length > len(self._view):
            size = os.fstat(self._descriptor).st_size
            if place < 0 or place + length > size:
                raise Torn(f"names {length} bytes at {place} of its memory of {size}")
            self._view = memoryview(mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ))
        return self._view[place : place + length]

    def close(self) -> None:
        """Read no more. Closing twice is closing once."""
        descriptor, self._descriptor = self._descriptor, -1
        self._view = memoryview(b"")
        if descriptor >= 0:
            os.close(descriptor)


def hand(conn: socket.socket, pool: Pool | None) -> None:
    """Give the peer at the other end of a Unix socket this memory, or say that there is none."""
    if pool is None:
        conn.sendall(NOTHING)
    else:
        socket.send_fds(conn, [HANDED], [pool.descriptor])


def take(conn: socket.socket) -> Window | None:
    """What the peer at the other end of a Unix socket hands over.

    Raises: Torn if that is no memory of a rank; OSError.
    """
    said, descriptors, _, _ = socket.recv_fds(conn, 1, 1, getattr(socket, "MSG_CMSG_CLOEXEC", 0))
    if said == NOTHING and not descriptors:
        return None
    if said == HANDED and len(descriptors) == 1:
        return Window(descriptors[0])
    for each in descriptors:
        with suppress(OSError):
            os.close(each)
    raise Torn(
        f"a peer began with {said!r} and {len(descriptors)} descriptors, expected its memory; it was closed"
    )
