"""A sum whose bits do not depend on who computes it: fixed shards, a fixed binary tree over them.

The global batch is cut into S shards (a power of two). A rank owns a contiguous range of shards and adds its shards'
gradients as a binary counter counts, so that at the end it holds the canonical nodes of the tree over [0, S) that cover
its range. Here S = 8 with 3 ranks; the sums inside the brackets are the same for any number of ranks:

    shard          0   1   2   3   4   5   6   7
    rank           0   0   1   1   1   2   2   2
    nodes sent    [0   1] [2   3] [4] [5] [6   7]

Ranks exchange in stages (see `stages`): after each, a rank holds the nodes of a larger block of ranks, for a smaller part of the vector,
until it has the whole sum of one segment (reduce-scatter). It works on that and sends the result to all, on the same way back
(all-gather). The end of the vector, and a short vector as a whole, is summed by every rank, and so are tables at its beginning of
which few rows are touched: only these travel (see `rows`).

What it costs: see `cost`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from dlflow.errors import PeerLost
from dlflow.parallel.comm import CHUNK_BYTES, Comm, bytes_of
from dlflow.parallel.rows import Table, Touched
from dlflow.parallel.shards import Node, cover, owned, segments
from dlflow.parallel.stages import Stage, place_of, stages

__all__ = ["TreeSum", "Vector"]

BLOCK = 1 << 16  # numbers: two operands and their sum stay in the L2 cache

Array = NDArray[Any]


class Vector(Protocol):
    """What is summed: a flat array, with whatever views of it its owner needs."""

    @property
    def g(self) -> Array:
        """The numbers, contiguous."""


V = TypeVar("V", bound=Vector)


@dataclass
class _Held(Generic[V]):
    """What is known of one node: its sum, but for the tables, and their rows."""

    vector: V
    rows: list[Touched]


class TreeSum(Generic[V]):
    """The sum of one vector per shard over all ranks, and what is done with it.

        fill a `buffer` for each own shard in order, `add` it       nothing is sent yet
        `scatter`      the own segment of `total`, its shared end, and `rows` of the tables are the sums over all shards of all ranks
        `gather(w)`    the own segment of w goes to all ranks, theirs come in
        `settle`       all is sent; the buffers are free again

    `make` gives vectors of one length; about log2(shards) + 2 of them are ever made. `shared` is how many values at the end of the
    vector every rank sums; `tables` lie one after the other at its beginning, and what a vector holds there is not touched; `edges`
    (size + 1) are where the segments begin and end.
    `notes` (size, n) are a few numbers of each rank that travel with it: set the own row before `scatter`.
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
        tables: Sequence[Table] = (),
    ) -> None:
        self.comm, self.shards, self.tables = comm, shards, tuple(tables)
        self.own = range(*owned(comm.rank, comm.size, shards))
        self.total = make()
        self.rows: list[Touched] = []
        length, self.dtype = self.total.g.size, self.total.g.dtype
        self.front, self.cut = (self.tables[-1].stop if self.tables else 0), length - shared
        if edges is None:
            parts = segments(self.cut - self.front, comm.size)
            edges = [self.front + low for low, _ in parts] + [self.cut]
        self.edges = list(edges)
        self.segments = list(pairwise(self.edges))
        self.notes = np.zeros((comm.size, notes), self.dtype)
        self._make, self._stages = make, stages(comm.rank, comm.shape)
        self._covers = [[self._nodes(low, high) for low, high in stage.blocks] for stage in self._stages]
        self._chunks = [
            [self._cut(self.edges[low], self.edges[high]) for low, high in stage.places]
            for stage in self._stages
        ]
        self._scratch: dict[tuple[int, int, Node], Array] = {}
        self._spare = np.empty((shards.bit_length(), BLOCK), self.dtype)
        self._free: list[V] = []
        self._used: list[V] = []
        self._stack: list[tuple[Node, _Held[V]]] = []

    @property
    def segment(self) -> Node:
        """[low, high) of the vector that this rank finishes alone."""
        return self.segments[place_of(self.comm.rank, self.comm.shape)]

    def buffer(self) -> V:
        """A vector to write the next shard's sum into; what it holds is left over from another."""
        return self._free.pop() if self._free else self._make()

    def add(self, shard: int, vector: V, touched: Sequence[Array] = ()) -> None:
        """Take over the vector of the next own shard and join it with its left neighbours, as a binary counter carries.

        `touched` has the numbers of the rows of each table that are not zero, rising.
        """
        pairs = zip(self.tables, touched, strict=True)
        rows = [Touched.taken(table.of(vector.g), each) for table, each in pairs]
        node, held = (shard, shard + 1), _Held(vector, rows)
        while self._stack and _siblings(self._stack[-1][0], node):
            left_node, left = self._stack.pop()
            self._join(left, held)
            self._free.append(held.vector)
            node, held = (left_node[0], node[1]), left
        self._stack.append((node, held))

    def scatter(self, step: int) -> None:
        """Finish the sum over all shards of all ranks: of the own segment, the shared end and the tables' rows; the same bits wherever.

        Raises: PeerLost, Stopped.
        """
        held = dict(self._stack)
        self._used.extend(each.vector for each in held.values())
        for number, stage in enumerate(self._stages):
            held = self._exchange(number, stage, held, step)
        found = held[0, self.shards]
        self._used = [self.total, *(vector for vector in self._used if vector is not found.vector)]
        self.total = found.vector
        self.rows = found.rows

    def gather(self, array: Array, step: int, edges: Sequence[int] | None = None) -> None:
        """Send the own segment of the array to all, and fill it with theirs; `edges` are those of its segments, if they are others.

        Shapes: array (cut,) or longer, contiguous; edges (size + 1,).
        Raises: PeerLost, Stopped.
        """
        for stage, known in zip(reversed(self._stages), reversed(self._chunks), strict=True):
            chunks = known if edges is None else [self._cut(edges[a], edges[b]) for a, b in stage.places]
            for _, peer in stage.others():
                for start, stop in chunks[stage.digit]:
                    self.comm.send(peer, bytes_of(array[start:stop]), step)
            for digit, peer in stage.others():
                for start, stop in chunks[digit]:
                    self.comm.receive(peer, bytes_of(array[start:stop]), step)

    def settle(self, step: int) -> None:
        """Wait until all is sent; buffers and gathered arrays may change from now on.

        Raises: PeerLost, Stopped.
        """
        self.comm.flush(step)
        self._free.extend(self._used)
        self._used.clear()
        self._stack.clear()

    def reduce(self, step: int) -> V:
        """The whole sum on every rank; valid until the next one.

        Raises: PeerLost, Stopped.
        """
        self.scatter(step)
        self.gather(self.total.g, step)
        self.settle(step)
        return self.total

    def _join(self, left: _Held[V], right: _Held[V]) -> None:
        if not self.tables:
            np.add(left.vector.g, right.vector.g, out=left.vector.g)
            return
        part = left.vector.g[self.front :]
        np.add(part, right.vector.g[self.front :], out=part)
        left.rows = [a + b for a, b in zip(left.rows, right.rows, strict=True)]

    def _exchange(
        self, number: int, stage: Stage, held: Mapping[Node, _Held[V]], step: int
    ) -> dict[Node, _Held[V]]:
        """One stage: from the nodes of the own block to those of all blocks of the group, on the part of the vector that is kept."""
        covers, chunks = self._covers[number], self._chunks[number]
        own = covers[stage.digit]
        self._send(stage, [held[node] for node in own], chunks, step)
        joined = self._nodes(stage.blocks[0][0], stage.blocks[-1][1])
        parts = {node: each.vector.g[self.cut :] for node, each in held.items()}
        rows = {node: each.rows for node, each in held.items()}
        for digit, peer in stage.others():
            self._receive_end(stage.blocks[digit], covers[digit], peer, step, parts, rows)
        made = {node: self._target(node, held) for node in joined}
        for node, vector in made.items():
            _finish(parts, *node, vector.g[self.cut :], self._spare)
        for start, stop in chunks[stage.digit]:
            parts = {node: each.vector.g[start:stop] for node, each in held.items()}
            for digit, peer in stage.others():
                for node in covers[digit]:
                    room = bytes_of(self._room(number, digit, node)[: stop - start])
                    parts[node] = np.frombuffer(self.comm.borrow(peer, room, step), self.dtype)
            for node, vector in made.items():
                _finish(parts, *node, vector.g[start:stop], self._spare)
        return {
            node: _Held(vector, [_finish_rows(rows, *node, table) for table in range(len(self.tables))])
            for node, vector in made.items()
        }

    def _send(
        self, stage: Stage, held: Sequence[_Held[V]], chunks: Sequence[Sequence[Node]], step: int
    ) -> None:
        low, high = stage.blocks[stage.digit]
        counts = np.array([len(rows.places) for each in held for rows in each.rows], self.dtype)
        ends = (each.vector.g[self.cut :] for each in held)
        end = np.concatenate([self.notes[low:high].reshape(-1), counts, *ends])
        rows = [rows.packed() for each in held for rows in each.rows if len(rows.places)]
        for digit, peer in stage.others():
            if end.size:
                self.comm.send(peer, bytes_of(end), step)
            for message in rows:
                self.comm.send(peer, message, step)
            for start, stop in chunks[digit]:
                for each in held:
                    self.comm.send(peer, bytes_of(each.vector.g[start:stop]), step)

    def _receive_end(
        self,
        block: Node,
        nodes: Sequence[Node],
        peer: int,
        step: int,
        parts: dict[Node, Array],
        rows: dict[Node, list[Touched]],
    ) -> None:
        """What is not of a segment: the notes of a block, and the shared end and rows of its nodes."""
        low, high = block
        noted, shared = self.notes[low:high], self.total.g.size - self.cut
        counted = noted.size + len(nodes) * len(self.tables)
        end = np.empty(counted + len(nodes) * shared, self.dtype)
        if end.size:
            self.comm.receive(peer, bytes_of(end), step)
        noted[...] = end[: noted.size].reshape(noted.shape)
        counts = end[noted.size : counted].reshape(len(nodes), len(self.tables))
        sums = end[counted:].reshape(len(nodes), shared)
        for node, line, part in zip(nodes, counts, sums, strict=True):
            parts[node] = part
            rows[node] = [
                self._receive_rows(count, table, peer, step)
                for count, table in zip(line, self.tables, strict=True)
            ]

    def _receive_rows(self, announced: float, table: Table, peer: int, step: int) -> Touched:
        if not 0 <= announced <= table.rows:
            raise PeerLost(
                f"rank {peer} announces {announced} rows of a table of {table.rows} at step {step}; fit_on forms the gang anew"
            )
        count = int(announced)
        if not count:
            return Touched(np.empty(0, np.int32), np.empty((0, table.width), self.dtype))
        message = Touched.room(count, table, self.dtype)
        self.comm.receive(peer, bytes_of(message), step)
        return Touched.unpacked(message, count, table, self.dtype)

    def _target(self, node: Node, held: Mapping[Node, _Held[V]]) -> V:
        """Where the sum of a node goes: into the vector of an own part of it, as nothing of what is kept is on its way to anybody."""
        for (low, high), each in held.items():
            if node[0] <= low and high <= node[1]:
                return each.vector
        self._used.append(self.buffer())
        return self._used[-1]

    def _room(self, number: int, digit: int, node: Node) -> Array:
        if (number, digit, node) not in self._scratch:
            start, stop = self._chunks[number][self._stages[number].digit][0]
            self._scratch[number, digit, node] = np.empty(stop - start, self.dtype)
        return self._scratch[number, digit, node]

    def _nodes(self, low: int, high: int) -> list[Node]:
        """The nodes that the ranks [low, high) hold together."""
        start, stop = (
            owned(low, self.comm.size, self.shards)[0],
            owned(high - 1, self.comm.size, self.shards)[1],
        )
        return cover(start, stop, 0, self.shards)

    def _cut(self, low: int, high: int) -> list[Node]:
        """[low, high) in parts of at most CHUNK_BYTES."""
        size = CHUNK_BYTES // self.dtype.itemsize
        return [(start, min(high, start + size)) for start in range(low, high, size)]


def _siblings(left: Node, right: Node) -> bool:
    """Whether two neighbouring nodes are the halves of a node of the tree."""
    width = right[1] - right[0]
    return left[1] - left[0] == width and left[0] % (2 * width) == 0


def _finish(parts: Mapping[Node, Array], low: int, high: int, out: Array, spare: Array) -> None:
    """The sum over [low, high) in the order of the tree, into `out`, which may be one of the parts; the others stay as they are.

    Shapes: out and parts (n,); spare (log2(shards) + 1, BLOCK).
    """
    if (low, high) in parts:
        found = parts[low, high]
        if out.ctypes.data != found.ctypes.data:
            np.copyto(out, found)
        return
    middle = (low + high) // 2
    for start in range(0, len(out), BLOCK):
        at = slice(start, min(len(out), start + BLOCK))
        left, right = _part(parts, low, middle, at, spare), _part(parts, middle, high, at, spare[1:])
        np.add(left, right, out=out[at])


def _part(parts: Mapping[Node, Array], low: int, high: int, at: slice, spare: Array) -> Array:
    """A block of the sum over [low, high), which is only to be read: a part, or made in the first spare line."""
    if (low, high) in parts:
        return parts[low, high][at]
    middle = (low + high) // 2
    left, right = _part(parts, low, middle, at, spare), _part(parts, middle, high, at, spare[1:])
    return np.add(left, right, out=spare[0, : len(left)])


def _finish_rows(parts: Mapping[Node, Sequence[Touched]], low: int, high: int, table: int) -> Touched:
    """The same for the rows of a table."""
    if (low, high) in parts:
        return parts[low, high][table]
    middle = (low + high) // 2
    return _finish_rows(parts, low, middle, table) + _finish_rows(parts, middle, high, table)
