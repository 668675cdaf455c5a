"""Who talks to whom: ranks exchange in stages, so that no rank needs a link to every other.

The number of ranks is a product of factors, its *shape*. A rank's number has a digit per factor, the first one fastest; in stage i
those exchange whose numbers differ in digit i alone:

    6 ranks = 2 x 3     stage 0:  0-1   2-3   4-5          then each knows what its block of 2 has
                        stage 1:  0-2-4   1-3-5            then of all 6

One factor is a mesh: each with each, in one round. Factors of 2 are recursive halving and doubling: log2(W) rounds of one message.
Between them lies what `cost` finds cheapest. Blocks are ranks in a row, and so hold shards in a row: sums keep the order of the tree.

A vector is cut into as many segments as there are ranks. Stage 0 halves it (or cuts it into f0 parts), each digit keeps its part,
stage 1 cuts that; so the first digit counts most in the number of a rank's segment:

    rank       0   1   2   3   4   5
    segment    0   3   1   4   2   5
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

__all__ = ["Shape", "Stage", "peers_of", "place_of", "stages"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """One round of one rank: the group it exchanges with, and what each of the group has and gets."""

    group: tuple[int, ...]  # ranks in the order of their digit, this one among them
    digit: int  # of this rank
    blocks: tuple[tuple[int, int], ...]  # of each of the group: the ranks [low, high) it has heard of before
    places: tuple[tuple[int, int], ...]  # of each of the group: the segments [low, high) it keeps

    def others(self) -> Iterator[tuple[int, int]]:
        """Digit and rank of the others, beginning after this one, so that not all send to the same."""
        size = len(self.group)
        for step in range(1, size):
            digit = (self.digit + step) % size
            yield digit, self.group[digit]


@lru_cache(maxsize=64)
def stages(rank: int, shape: Shape) -> tuple[Stage, ...]:
    """The rounds of one of prod(shape) ranks.

    >>> [stage.group for stage in stages(4, (2, 3))]
    [(4, 5), (0, 2, 4)]
    """
    made, width, low, left = [], 1, 0, prod(shape)
    for factor in shape:
        digit = rank // width % factor
        group = tuple(rank + (other - digit) * width for other in range(factor))
        left //= factor
        blocks = tuple((member // width * width, (member // width + 1) * width) for member in group)
        places = tuple((low + other * left, low + (other + 1) * left) for other in range(factor))
        made.append(Stage(group, digit, blocks, places))
        width, low = width * factor, low + digit * left
    return tuple(made)


def place_of(rank: int, shape: Shape) -> int:
    """The number of the segment that a rank finishes.

    >>> [place_of(rank, (2, 3)) for rank in range(6)]
    [0, 3, 1, 4, 2, 5]
    """
    place = 0
    for factor in shape:
        rank, digit = divmod(rank, factor)
        place = place * factor + digit
    return place


def peers_of(rank: int, shape: Shape) -> tuple[int, ...]:
    """All ranks that this one ever talks to.

    >>> peers_of(4, (2, 3))
    (0, 2, 5)
    """
    return tuple(sorted({peer for stage in stages(rank, shape) for _, peer in stage.others()}))
