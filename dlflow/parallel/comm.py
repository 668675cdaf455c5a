"""What ranks say to each other: a few messages in a fixed order, and a sum whose bits do not depend on who computes it.

The global batch is cut into S shards (a power of two). A rank owns a contiguous range of shards and adds its shards'
gradients as a binary counter counts, so that at the end it holds the canonical nodes of the tree over [0, S) that cover
its range. Here S = 8 with 3 ranks; the sums inside the brackets are the same for any number of ranks:

    shard          0   1   2   3   4   5   6   7
    rank           0   0   1   1   1   2   2   2
    nodes sent    [0   1] [2   3] [4] [5] [6   7]

Each rank finishes the tree for one segment of the vector (reduce-scatter) and sends the result to all (all-gather).
"""

from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import DlflowError, ModelError

__all__ = [
    "Alone",
    "Comm",
    "Node",
    "Stopped",
    "TreeSum",
    "Vector",
    "all_gather",
    "broadcast",
    "cover",
    "owned",
    "segments",
    "shard_bounds",
]

Array = NDArray[Any]
Node = tuple[int, int]
"""Shards [low, high) whose sum is one node of the tree."""

ALIGN = 16  # elements: a segment of float32 starts on a cache line
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


def shard_bounds(rows: int, shards: int) -> list[int]:
    """Where the shards of a batch begin and end: shard i has the rows [bounds[i], bounds[i + 1]), maybe none.

    >>> shard_bounds(10, 4)
    [0, 2, 5, 7, 10]
    """
    return [rows * i // shards for i in range(shards + 1)]


def owned(rank: int, size: int, shards: int) -> Node:
    """The shards of one rank; ranks beyond the number of shards own none.

    >>> [owned(rank, 3, 8) for rank in range(3)]
    [(0, 2), (2, 5), (5, 8)]
    """
    return shards * rank // size, shards * (rank + 1) // size


def cover(start: int, stop: int, low: int, high: int) -> list[Node]:
    """Canonical nodes of the binary tree over [low, high) that together are [start, stop), from left to right.

    >>> cover(2, 5, 0, 8)
    [(2, 4), (4, 5)]
    """
    if start >= high or stop <= low or start >= stop:
        return []
    if start <= low and high <= stop:
        return [(low, high)]
    middle = (low + high) // 2
    return cover(start, stop, low, middle) + cover(start, stop, middle, high)


def segments(length: int, parts: int, align: int = ALIGN) -> list[Node]:
    """[low, high) of each part of a vector, cut at multiples of `align`; the last ones may be empty.

    >>> segments(100, 3)
    [(0, 48), (48, 96), (96, 100)]
    """
    size = -(-length // (parts * align)) * align
    return [(min(length, i * size), min(length, (i + 1) * size)) for i in range(parts)]


class Vector(Protocol):
    """What is summed: a flat array, with whatever views of it its owner needs."""

    @property
    def g(self) -> Array:
        """The numbers, contiguous."""


V = TypeVar("V", bound=Vector)


class TreeSum(Generic[V]):
    """The sum of one vector per shard over all ranks: fill a `buffer` for each own shard in order, `add` it, then `reduce`.

    `make` gives vectors of one length; at most log2(shards) + 2 of them are ever made.
    """

    def __init__(self, comm: Comm, shards: int, make: Callable[[], V]) -> None:
        self.comm, self.shards = comm, shards
        self.own = range(*owned(comm.rank, comm.size, shards))
        self._make, self._total = make, make()
        length, dtype = self._total.g.size, self._total.g.dtype
        self._nodes = [cover(*owned(rank, comm.size, shards), 0, shards) for rank in range(comm.size)]
        self._peers = [(comm.rank + i) % comm.size for i in range(1, comm.size)]
        size = CHUNK_BYTES // dtype.itemsize
        self._chunks = [
            [(start, min(high, start + size)) for start in range(low, high, size)]
            for low, high in segments(length, comm.size)
        ]
        self._scratch = {
            (peer, node): np.empty(min(size, length), dtype)
            for peer in self._peers
            for node in self._nodes[peer]
        }
        self._free: list[V] = []
        self._stack: list[tuple[Node, V]] = []

    def buffer(self) -> V:
        """A vector to write the next shard's sum into; what it holds is left over from another."""
        return self._free.pop() if self._free else self._make()

    def add(self, shard: int, vector: V) -> None:
        """Take over the vector of the next own shard and join it with its left neighbours, as a binary counter carries."""
        node = (shard, shard + 1)
        while self._stack and _siblings(self._stack[-1][0], node):
            left_node, left = self._stack.pop()
            np.add(left.g, vector.g, out=left.g)
            self._free.append(vector)
            node, vector = (left_node[0], node[1]), left
        self._stack.append((node, vector))

    def reduce(self, step: int) -> V:
        """The sum over all shards of all ranks, the same bits on every rank; valid until the next `reduce`.

        Raises: PeerLost, Stopped.
        """
        comm, total = self.comm, self._total.g
        nodes = {node: vector.g for node, vector in self._stack}
        for peer in self._peers:
            for start, stop in self._chunks[peer]:
                for node in self._nodes[comm.rank]:
                    comm.send(peer, _bytes(nodes[node][start:stop]), step)
        for start, stop in self._chunks[comm.rank]:
            parts = {node: g[start:stop] for node, g in nodes.items()}
            for (peer, node), scratch in self._scratch.items():
                parts[node] = scratch[: stop - start]
                comm.receive(peer, _bytes(parts[node]), step)
            np.copyto(total[start:stop], _finish(parts, 0, self.shards))
            for peer in self._peers:
                comm.send(peer, _bytes(total[start:stop]), step)
        for peer in self._peers:
            for start, stop in self._chunks[peer]:
                comm.receive(peer, _bytes(total[start:stop]), step)
        comm.flush(step)
        self._free.extend(vector for _, vector in self._stack)
        self._stack.clear()
        return self._total


def all_gather(comm: Comm, table: Array, bounds: list[int], step: int) -> None:
    """Fill the whole `table` on every rank: rank r has written its rows [bounds[r], bounds[r + 1]).

    Shapes: table (rows, ...), C-contiguous; bounds of length size + 1.
    """
    own = table[bounds[comm.rank] : bounds[comm.rank + 1]]
    others = [peer for peer in range(comm.size) if peer != comm.rank]
    for peer in others:
        for start in range(0, own.nbytes, CHUNK_BYTES):
            comm.send(peer, _bytes(own)[start : start + CHUNK_BYTES], step)
    for peer in others:
        theirs = table[bounds[peer] : bounds[peer + 1]]
        for start in range(0, theirs.nbytes, CHUNK_BYTES):
            comm.receive(peer, _bytes(theirs)[start : start + CHUNK_BYTES], step)
    comm.flush(step)


def broadcast(comm: Comm, make: Callable[[], bytes], step: int, *, limit: int) -> bytes:
    """What rank 0 makes, on every rank; at most `limit` bytes."""
    length = np.zeros(1, np.int64)
    if comm.rank == 0:
        data = make()
        length[0] = len(data)
        for peer in range(1, comm.size):
            comm.send(peer, _bytes(length), step)
            for start in range(0, len(data), CHUNK_BYTES):
                comm.send(peer, memoryview(data)[start : start + CHUNK_BYTES], step)
        comm.flush(step)
        return data
    comm.receive(0, _bytes(length), step)
    if not 0 <= length[0] <= limit:
        raise ModelError(
            f"rank 0 announces {length[0]} bytes, expected at most {limit}; run the same dlflow on all workers"
        )
    received = bytearray(int(length[0]))
    for start in range(0, len(received), CHUNK_BYTES):
        comm.receive(0, memoryview(received)[start : start + CHUNK_BYTES], step)
    return bytes(received)


def _siblings(left: Node, right: Node) -> bool:
    """Whether two neighbouring nodes are the halves of a node of the tree."""
    width = right[1] - right[0]
    return left[1] - left[0] == width and left[0] % (2 * width) == 0


def _finish(parts: Mapping[Node, Array], low: int, high: int) -> Array:
    """The sum over [low, high) in the order of the tree; overwrites left operands."""
    if (low, high) in parts:
        return parts[low, high]
    middle = (low + high) // 2
    left, right = _finish(parts, low, middle), _finish(parts, middle, high)
    return np.add(left, right, out=left)


def _bytes(array: Array) -> memoryview:
    # ndarray.data, not memoryview(array): an ndarray is a Buffer for mypy only from Python 3.12
    return array.data.cast("B") if array.size else memoryview(b"")
