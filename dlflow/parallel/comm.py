"""What ranks say to each other: messages in a fixed order, and the few exchanges that are made of them."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dlflow.errors import DlflowError, ModelError
from dlflow.nn.params import aligned
from dlflow.parallel.stages import Shape, stages

__all__ = ["CHUNK_BYTES", "Alone", "Comm", "Stopped", "all_gather", "broadcast", "bytes_of", "chunks_of"]

Array = NDArray[Any]
CHUNK_BYTES = 1 << 20  # 1.6 MB between two ranks: median 0.44 ms; in chunks of 256 KiB 0.53, of 64 KiB 0.96


class Stopped(DlflowError):
    """The driver ended this training, or is gone."""


class Comm(Protocol):
    """Messages between ranks, in order and without loss on each link; what a rank never waits for without a deadline.

    `zeros` and `borrow` have an answer for all links: every message is copied.
    """

    rank: int
    size: int
    shape: Shape  # its product is the size; there are links to the ranks of the own stages only

    def send(self, peer: int, data: memoryview, step: int) -> None:
        """Hand over one message; `data` must not change before `flush`."""

    def receive(self, peer: int, into: memoryview, step: int) -> None:
        """Fill `into` with the next message of `peer`, which must have this length and belong to this step.

        Raises: PeerLost if the peer is gone, silent, or out of step.
        """

    def zeros(self, size: int, dtype: DTypeLike) -> Array:
        """A vector of zeros, aligned; where ranks share memory, one whose parts are sent without being copied."""
        return aligned(size, dtype)

    def borrow(self, peer: int, room: memoryview, step: int) -> memoryview:
        """The next message of `peer`, of the length of `room`: there, or where the peer has it, to be read until `flush`.

        Raises: PeerLost as `receive`.
        """
        self.receive(peer, room, step)
        return room

    def flush(self, step: int) -> None:
        """Wait until what was handed over may change: it is on its way, or read.

        Raises: PeerLost; Stopped if the driver ended the training.
        """

    def close(self) -> None:
        """End all links at once; peers that wait for this rank see it."""


class Alone(Comm):
    """The one rank of a training in one process: there is nobody to talk to."""

    rank = 0
    size = 1
    shape: Shape = ()

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


def all_gather(comm: Comm, table: Array, bounds: Sequence[int], step: int) -> None:
    """Fill the whole `table` on every rank: rank r has written its rows [bounds[r], bounds[r + 1]).

    Shapes: table (rows, ...), C-contiguous; bounds of length size + 1.
    """
    for stage in stages(comm.rank, comm.shape):
        blocks = [table[bounds[low] : bounds[high]] for low, high in stage.blocks]
        for _, peer in stage.others():
            for part in chunks_of(blocks[stage.digit]):
                comm.send(peer, part, step)
        for digit, peer in stage.others():
            for part in chunks_of(blocks[digit]):
                comm.receive(peer, part, step)
    comm.flush(step)


def broadcast(comm: Comm, make: Callable[[], bytes], step: int, *, limit: int, root: int = 0) -> bytes:
    """What rank `root` makes, on every rank; at most `limit` bytes.

    The root deals it out, stage by stage, until each rank has a part; then the ranks exchange their parts: nobody sends much more than
    twice the data.
    """
    own = stages(comm.rank, comm.shape)
    # a rank whose first i digits are the root's is dealt its block at stage i, where they first differ, and deals it on below
    differs = next((i for i, stage in enumerate(own) if _digit(root, comm.shape, i) != stage.digit), len(own))
    length = np.zeros(1, np.int64)
    if comm.rank == root:
        data = np.frombuffer(bytearray(make()), np.uint8)
        length[0] = len(data)
    else:
        giver = own[differs].group[_digit(root, comm.shape, differs)]
        comm.receive(giver, bytes_of(length), step)
        if not 0 <= length[0] <= limit:
            raise ModelError(
                f"rank {root} announces {length[0]} bytes, expected at most {limit}; run the same dlflow on all workers"
            )
        data = np.empty(int(length[0]), np.uint8)
    bounds = [len(data) * rank // comm.size for rank in range(comm.size + 1)]
    if comm.rank != root:
        low, high = own[differs].blocks[own[differs].digit]
        for part in chunks_of(data[bounds[low] : bounds[high]]):
            comm.receive(giver, part, step)
    for stage in reversed(own[:differs]):
        for digit, peer in stage.others():
            low, high = stage.blocks[digit]
            comm.send(peer, bytes_of(length), step)
            for part in chunks_of(data[bounds[low] : bounds[high]]):
                comm.send(peer, part, step)
    all_gather(comm, data, bounds, step)
    return data.tobytes()


def chunks_of(array: Array) -> Iterator[memoryview]:
    """The memory of a contiguous array, in parts of CHUNK_BYTES."""
    data = bytes_of(array)
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _digit(rank: int, shape: Shape, place: int) -> int:
    return rank // prod(shape[:place]) % shape[place]


def bytes_of(array: Array) -> memoryview:
    """The memory of a contiguous array."""
    # ndarray.data, not memoryview(array): an ndarray is a Buffer for mypy only from Python 3.12
    return array.data.cast("B") if array.size else memoryview(b"")
