"""Which rows are in which shard, which shards and which part of the vector are whose, and the nodes of the tree over the shards."""

__all__ = ["Node", "cover", "owned", "segments", "shard_bounds"]

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
