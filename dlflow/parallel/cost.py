"""What an exchange costs, and the shape and number of ranks that follow from it.

The model: a round takes `round_s` (waking the other side, and the network's delay) beside what each rank works in it: `message_s` for
each message that it sends and receives, `byte_s` for each byte. A rank of a shape f0 x f1 x ... sends, for a vector of n bytes,

    stage i, to each of f_i - 1 others:   1 message for the shared end, 1 per node and chunk of its part of n_i, n_i+1 = n_i / f_i
    the way back:                         1 message per chunk of the same parts

    mesh of W            2 rounds            3 (W - 1) messages          2 n (W - 1) / W bytes
    log2 W factors of 2  2 log2 W rounds     3 log2 W messages           the same bytes
    f x f, f = sqrt W    4 rounds            6 (f - 1) messages          the same bytes

so a mesh is best for few ranks, and what is best for more is searched. Where W is no power of two, a range of shards takes
up to 2 log2(shards) nodes of the tree, and the bytes of the way out grow by that.

Units: seconds, bytes.
Source: Thakur, Rabenseifner & Gropp 2005, "Optimization of Collective Communication Operations in MPICH", for alpha, beta and halving.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from dlflow.parallel.comm import CHUNK_BYTES
from dlflow.parallel.shards import cover, owned
from dlflow.parallel.stages import Shape

__all__ = ["LINKS", "Link", "Price", "best_shape", "price", "useful_ranks"]


@dataclass(frozen=True)
class Link:
    """What links of one kind cost; measured by tests/bench/test_gang.py between processes of one machine with two cores."""

    round_s: float
    message_s: float  # processor time on both ends together
    byte_s: float  # the same
    connect_s: float  # both directions, handshake included


LINKS = {
    "unix": Link(25e-6, 13e-6, 0.3e-9, 1e-3),
    "tcp": Link(30e-6, 14e-6, 0.35e-9, 1e-3),
    "tls": Link(48e-6, 30e-6, 1.8e-9, 4e-3),
    "shared": Link(25e-6, 13e-6, 0.12e-9, 1e-3),
    "dask": Link(200e-6, 200e-6, 2.0e-9, 0.0),
}


@dataclass(frozen=True)
class Price:
    """Of one exchange, for the rank that sends most."""

    rounds: int
    messages: int
    nbytes: int

    def seconds(self, link: Link) -> float:
        """How long it takes if every rank has a core, and the way to each other rank for itself."""
        return self.rounds * link.round_s + self.messages * link.message_s + self.nbytes * link.byte_s


def price(shape: Shape, shards: int, nbytes: int, *, end: int = 64) -> Price:
    """Rounds, messages and bytes of one sum over all ranks that leaves the whole of it on each; `end` bytes are summed by all.

    >>> price((8,), 8, 1 << 20), price((2, 2, 2), 8, 1 << 20)
    (Price(rounds=2, messages=21, nbytes=1835456), Price(rounds=6, messages=9, nbytes=1835200))
    """
    rounds = messages = sent = 0
    size, width, part = prod(shape), 1, nbytes
    for factor in shape:
        nodes, part = _most_nodes(size, width, shards), -(-part // factor)
        chunks = -(-part // CHUNK_BYTES)
        rounds += 2
        messages += (factor - 1) * (1 + (nodes + 1) * chunks)
        sent += (factor - 1) * (nodes * end + (nodes + 1) * part)
        width *= factor
    return Price(rounds, messages, sent)


@lru_cache(maxsize=256)
def best_shape(size: int, shards: int, kind: str = "unix", nbytes: int = 1 << 20) -> Shape:
    """The factors of `size` with which an exchange of so many bytes is cheapest.

    >>> [best_shape(size, 1024) for size in (1, 2, 8, 16, 512)]
    [(), (2,), (2, 4), (4, 4), (2, 4, 4, 4, 4)]
    """
    if size == 1:
        return ()
    # odd factors first: with 3 ranks for 4 shards a block of 3 is one node again
    shapes = (
        tuple(sorted(each, key=lambda factor: (factor % 2 == 0, factor))) for each in _products(size, 2)
    )
    return min(shapes, key=lambda shape: (price(shape, shards, nbytes).seconds(LINKS[kind]), len(shape)))


def useful_ranks(workers: int, shards: int) -> int:
    """The fewest ranks whose longest share of the shards is as short as with all workers: more would only wait for it.

    >>> [useful_ranks(workers, 8) for workers in (1, 3, 4, 5, 7, 8, 20)]
    [1, 3, 4, 4, 4, 8, 8]
    """
    longest = -(-shards // min(workers, shards))
    return -(-shards // longest)


def _most_nodes(size: int, width: int, shards: int) -> int:
    """The largest number of nodes of the tree that a block of so many ranks holds."""
    blocks = range(0, size, width)
    ranges = ((owned(low, size, shards)[0], owned(low + width - 1, size, shards)[1]) for low in blocks)
    return max(len(cover(start, stop, 0, shards)) for start, stop in ranges)


def _products(size: int, least: int) -> Iterator[Shape]:
    """All ways to write a number as a product of factors of at least `least`, each in rising order."""
    for factor in range(least, int(size**0.5) + 1):
        if size % factor == 0:
            yield from ((factor, *rest) for rest in _products(size // factor, factor))
    yield (size,)
