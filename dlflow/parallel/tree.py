"""A sum whose bits do not depend on who computes it: fixed shards, a fixed binary tree over them.

The global batch is cut into S shards (a power of two). A rank owns a contiguous range of shards and adds its shards'
gradients as a binary counter counts, so that at the end it holds the canonical nodes of the tree over [0, S) that cover
its range. Here S = 8 with 3 ranks; the sums inside the brackets are the same for any number of ranks:

    shard          0   1   2   3   4   5   6   7
    rank           0   0   1   1   1   2   2   2
    nodes sent    [0   1] [2   3] [4] [5] [6   7]

Each rank finishes the tree for one segment of the vector (reduce-scatter), works on it, and sends the result to all
(all-gather). The end of the vector, and a short vector as a whole, is finished by every rank: one round instead of two.

Cost of a step for W ranks and a vector of P values: a rank sends and receives 2 P (W - 1) / W values, at most twice that where W is
no power of two, in 3 (W - 1) messages.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlflow.parallel.comm import CHUNK_BYTES, Comm, bytes_of

__all__ = ["Node", "TreeSum", "Vector", "cover", "owned", "segments", "shard_bounds"]

Array = NDArray[Any]
Node = tuple[int, int]
"""Shards [low, high) whose sum is one node of the tree."""

ALIGN = 16  # elements: a segment of float32 starts on a cache line


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
    """The sum of one vector per shard over all ranks, and what is done with it.

        fill a `buffer` for each own shard in order, `add` it       nothing is sent yet
        `scatter`      the own segment of `total` and its shared end are the sums over all shards of all ranks
        `gather(w)`    the own segment of w goes to all ranks, theirs come in
        `settle`       all is sent; the buffers are free again

    `make` gives vectors of one length; at most log2(shards) + 2 of them are ever made. `shared` is how many values at the end of the
    vector every rank sums; `edges` (size + 1) are where the segments begin and end. `notes` (size, n) are a few numbers of each rank that travel with it: set the own row before `scatter`.
    """

    def __init__(
        self,
        comm: Comm,
        shards: int,
        make: Callable[[], V],
        *,
        shared: int = 0,
        notes: int = 0,
        edges: Sequence[int] | None = None,
    ) -> None:
        self.comm, self.shards = comm, shards
        self.own = range(*owned(comm.rank, comm.size, shards))
        self.total = make()
        length, dtype = self.total.g.size, self.total.g.dtype
        self.cut = length - shared
        self.segments = list(pairwise(edges)) if edges else segments(self.cut, comm.size)
        self.notes = np.zeros((comm.size, notes), dtype)
        self._make = make
        self._nodes = [cover(*owned(rank, comm.size, shards), 0, shards) for rank in range(comm.size)]
        self._peers = [(comm.rank + i) % comm.size for i in range(1, comm.size)]
        size = CHUNK_BYTES // dtype.itemsize
        self._chunks = [
            [(start, min(high, start + size)) for start in range(low, high, size)]
            for low, high in self.segments
        ]
        longest = max((stop - start for start, stop in self._chunks[comm.rank]), default=0)
        self._scratch = {
            (peer, node): np.empty(longest, dtype) for peer in self._peers for node in self._nodes[peer]
        }
        self._ends = [np.empty((len(nodes) * shared + notes,), dtype) for nodes in self._nodes]
        self._free: list[V] = []
        self._stack: list[tuple[Node, V]] = []

    @property
    def segment(self) -> Node:
        """[low, high) of the vector that this rank finishes alone."""
        return self.segments[self.comm.rank]

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

    def scatter(self, step: int) -> None:
        """Finish the sum over all shards of all ranks on the own segment and on the shared end of `total`, the same bits wherever.

        Raises: PeerLost, Stopped.
        """
        comm, total = self.comm, self.total.g
        nodes = {node: vector.g for node, vector in self._stack}
        self._send_end(nodes, step)
        for peer in self._peers:
            for start, stop in self._chunks[peer]:
                for node in self._nodes[comm.rank]:
                    comm.send(peer, bytes_of(nodes[node][start:stop]), step)
        self._receive_ends(nodes, step)
        for start, stop in self._chunks[comm.rank]:
            parts = {node: g[start:stop] for node, g in nodes.items()}
            for (peer, node), scratch in self._scratch.items():
                parts[node] = scratch[: stop - start]
                comm.receive(peer, bytes_of(parts[node]), step)
            np.copyto(total[start:stop], _finish(parts, 0, self.shards))

    def gather(self, array: Array, step: int) -> None:
        """Send the own segment of the array to all, and fill it with theirs. Shapes: array (cut,) or longer, contiguous.

        Raises: PeerLost, Stopped.
        """
        for peer in self._peers:
            for start, stop in self._chunks[self.comm.rank]:
                self.comm.send(peer, bytes_of(array[start:stop]), step)
        for peer in self._peers:
            for start, stop in self._chunks[peer]:
                self.comm.receive(peer, bytes_of(array[start:stop]), step)

    def settle(self, step: int) -> None:
        """Wait until all is sent; buffers and gathered arrays may change from now on.

        Raises: PeerLost, Stopped.
        """
        self.comm.flush(step)
        self._free.extend(vector for _, vector in self._stack)
        self._stack.clear()

    def reduce(self, step: int) -> V:
        """The whole sum on every rank; valid until the next one.

        Raises: PeerLost, Stopped.
        """
        self.scatter(step)
        self.gather(self.total.g, step)
        self.settle(step)
        return self.total

    def _send_end(self, nodes: Mapping[Node, Array], step: int) -> None:
        own, end = self.comm.rank, self._ends[self.comm.rank]
        if self._peers and end.size:
            np.concatenate(
                [self.notes[own], *(nodes[node][self.cut :] for node in self._nodes[own])], out=end
            )
            for peer in self._peers:
                self.comm.send(peer, bytes_of(end), step)

    def _receive_ends(self, nodes: Mapping[Node, Array], step: int) -> None:
        parts = {node: g[self.cut :] for node, g in nodes.items()}
        notes, shared = self.notes.shape[1], self.total.g.size - self.cut
        for peer in self._peers:
            end = self._ends[peer]
            if end.size:
                self.comm.receive(peer, bytes_of(end), step)
                self.notes[peer] = end[:notes]
                sums = end[notes:].reshape(-1, max(shared, 1))
                parts.update(zip(self._nodes[peer], sums, strict=bool(shared)))
        if shared:
            np.copyto(self.total.g[self.cut :], _finish(parts, 0, self.shards))


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
