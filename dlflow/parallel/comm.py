"""What ranks say to each other: messages in a fixed order, and the few exchanges that are made of them."""

from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import DlflowError, ModelError

__all__ = ["CHUNK_BYTES", "Alone", "Comm", "Stopped", "all_gather", "broadcast", "bytes_of"]

Array = NDArray[Any]
CHUNK_BYTES = 1 << 20  # 1.6 MB between two ranks: median 0.44 ms; in chunks of 256 KiB 0.53, of 64 KiB 0.96


class Stopped(DlflowError):
    """The driver ended this training, or is gone."""


class Comm(Protocol):
    """Messages between ranks, in order and without loss on each link; what a rank never waits for without a deadline."""

    rank: int
    size: int

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Hand over one message; `data` must not change before `flush`."""

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """Fill `into` with the next message of `peer`, which must have this length and belong to this step.

        Raises: PeerLost if the peer is gone, silent, or out of step.
        """

    def flush(self, step: int) -> None:
        """Wait until all that was handed over is on its way.

        Raises: PeerLost; Stopped if the driver ended the training.
        """

    def close(self) -> None:
        """End all links at once; peers that wait for this rank see it."""


class Alone:
    """The one rank of a training in one process: there is nobody to talk to."""

    rank = 0
    size = 1

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """There is nobody to send to."""
        self._nobody(peer, data, step)

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """There is nobody to hear from."""
        self._nobody(peer, into, step)

    def flush(self, step: int) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""

    def _nobody(self, peer: int, data: memoryview, step: int) -> NoReturn:
        raise ModelError(
            f"step {step}: {len(data)} bytes for rank {peer}, expected none: this training has one rank"
        )


def all_gather(comm: Comm, table: Array, bounds: list[int], step: int) -> None:
    """Fill the whole `table` on every rank: rank r has written its rows [bounds[r], bounds[r + 1]).

    Shapes: table (rows, ...), C-contiguous; bounds of length size + 1.
    """
    own = table[bounds[comm.rank] : bounds[comm.rank + 1]]
    others = [peer for peer in range(comm.size) if peer != comm.rank]
    for peer in others:
        for start in range(0, own.nbytes, CHUNK_BYTES):
            comm.send(peer, bytes_of(own)[start : start + CHUNK_BYTES], step)
    for peer in others:
        theirs = table[bounds[peer] : bounds[peer + 1]]
        for start in range(0, theirs.nbytes, CHUNK_BYTES):
            comm.receive(peer, bytes_of(theirs)[start : start + CHUNK_BYTES], step)
    comm.flush(step)


def broadcast(comm: Comm, make: Callable[[], bytes], step: int, *, limit: int, root: int = 0) -> bytes:
    """What rank `root` makes, on every rank; at most `limit` bytes.

    The root sends each rank a part, and the ranks exchange their parts: nobody sends more than twice the data.
    """
    others = [peer for peer in range(comm.size) if peer != root]
    length = np.zeros(1, np.int64)
    if comm.rank == root:
        data = np.frombuffer(bytearray(make()), np.uint8)
        length[0] = len(data)
        for peer in others:
            comm.send(peer, bytes_of(length), step)
    else:
        comm.receive(root, bytes_of(length), step)
        if not 0 <= length[0] <= limit:
            raise ModelError(
                f"rank {root} announces {length[0]} bytes, expected at most {limit}; run the same dlflow on all workers"
            )
        data = np.empty(int(length[0]), np.uint8)
    bounds = [len(data) * rank // comm.size for rank in range(comm.size + 1)]
    for peer in others:
        part = data[bounds[peer] : bounds[peer + 1]]
        for start in range(0, len(part), CHUNK_BYTES):
            if comm.rank == root:
                comm.send(peer, bytes_of(part)[start : start + CHUNK_BYTES], step)
            elif comm.rank == peer:
                comm.receive(root, bytes_of(part)[start : start + CHUNK_BYTES], step)
    all_gather(comm, data, bounds, step)
    return data.tobytes()


def bytes_of(array: Array) -> memoryview:
    """The memory of a contiguous array."""
    # ndarray.data, not memoryview(array): an ndarray is a Buffer for mypy only from Python 3.12
    return array.data.cast("B") if array.size else memoryview(b"")
