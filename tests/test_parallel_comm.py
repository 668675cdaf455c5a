"""The tree of sums: the same bits on every rank, for any number of ranks."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.errors import ModelError, PeerLost
from dlflow.parallel.comm import Alone, all_gather, broadcast
from dlflow.parallel.testing import Flaky, ThreadRing, on_every_rank
from dlflow.parallel.tree import TreeSum, cover, owned, segments, shard_bounds

SHARDS = st.integers(0, 5).map(lambda power: 2**power)
RANKS = st.integers(1, 9)


@dataclass
class Vector:
    g: np.ndarray


def tree_sum(comm, shards, gradients, dtype=np.float32, steps=1):
    tree = TreeSum(comm, shards, lambda: Vector(np.empty(gradients.shape[1], dtype)))
    for step in range(steps):
        for shard in tree.own:
            vector = tree.buffer()
            vector.g[...] = gradients[shard] * (step + 1)
            tree.add(shard, vector)
        total = tree.reduce(step).g
    return total.copy()


@given(shards=SHARDS, data=st.data())
def test_a_cover_is_the_range_in_canonical_nodes(shards, data):
    start = data.draw(st.integers(0, shards))
    stop = data.draw(st.integers(start, shards))

    nodes = cover(start, stop, 0, shards)

    assert [i for low, high in nodes for i in range(low, high)] == list(range(start, stop))
    for low, high in nodes:
        width = high - low
        assert width & (width - 1) == 0
        assert low % width == 0
    assert len(nodes) <= max(1, 2 * (shards.bit_length() - 1))


@given(length=st.integers(0, 10_000), parts=RANKS)
def test_segments_are_the_vector_cut_on_cache_lines(length, parts):
    cut = segments(length, parts)

    assert [low for low, _ in cut] + [length] == [0] + [high for _, high in cut]
    assert all(low % 16 == 0 or low == length for low, _ in cut)


@given(shards=SHARDS, size=RANKS)
def test_every_shard_has_one_owner(shards, size):
    own = [i for rank in range(size) for i in range(*owned(rank, size, shards))]

    assert own == list(range(shards))


@given(rows=st.integers(0, 5000), shards=SHARDS)
def test_every_row_is_in_one_shard_and_shards_differ_by_at_most_a_row(rows, shards):
    bounds = shard_bounds(rows, shards)

    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, rows)
    assert sizes.min() >= 0
    assert sizes.max() - sizes.min() <= 1


@given(size=RANKS, shards=SHARDS, length=st.integers(1, 300), seed=st.integers(0, 99))
def test_every_rank_ends_with_the_bits_of_one_rank(size, shards, length, seed):
    gradients = np.random.default_rng(seed).standard_normal((shards, length)).astype(np.float32)
    alone = tree_sum(Alone(), shards, gradients, steps=2)

    totals = on_every_rank(ThreadRing(size), lambda comm: tree_sum(comm, shards, gradients, steps=2))

    assert all(total.tobytes() == alone.tobytes() for total in totals)
    np.testing.assert_allclose(alone, 2 * gradients.astype(np.float64).sum(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [2, 3])
def test_a_vector_of_many_chunks_is_summed_like_a_short_one(size):
    gradients = np.random.default_rng(0).standard_normal((8, 300_001)).astype(np.float32)
    alone = tree_sum(Alone(), 8, gradients)

    totals = on_every_rank(ThreadRing(size), lambda comm: tree_sum(comm, 8, gradients))

    assert all(total.tobytes() == alone.tobytes() for total in totals)


def test_a_sum_in_the_order_of_arrival_would_have_other_bits():
    gradients = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)

    in_a_row = np.add.reduce(gradients[::-1], axis=0)

    assert tree_sum(Alone(), 8, gradients).tobytes() != in_a_row.tobytes()


@given(size=RANKS, data=st.data())
def test_every_rank_gets_all_rows_of_a_table(size, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, 20), min_size=size - 1, max_size=size - 1)))
    bounds, whole = [0, *cuts, 20], np.arange(60.0).reshape(20, 3)

    def work(comm):
        table = np.zeros((20, 3))
        own = slice(bounds[comm.rank], bounds[comm.rank + 1])
        table[own] = whole[own]
        all_gather(comm, table, bounds, 0)
        return table

    assert all(np.array_equal(table, whole) for table in on_every_rank(ThreadRing(size), work))


@pytest.mark.parametrize("length", [0, 1, 300_000])
def test_a_broadcast_gives_all_ranks_what_rank_0_made(length):
    data = bytes(i % 251 for i in range(length))

    got = on_every_rank(ThreadRing(3), lambda comm: broadcast(comm, lambda: data, 0, limit=length))

    assert got == [data] * 3


def test_a_broadcast_beyond_its_limit_is_refused_before_it_is_received():
    ring = ThreadRing(2)

    with pytest.raises(ModelError, match="announces 11 bytes, expected at most 10"):
        on_every_rank(ring, lambda comm: broadcast(comm, lambda: bytes(11), 0, limit=10))


def test_ranks_that_are_out_of_step_notice():
    def work(comm):
        return all_gather(comm, np.zeros(2), [0, 1, 2], step=comm.rank)

    with pytest.raises(PeerLost, match="expected"):
        on_every_rank(ThreadRing(2), work)


def test_the_loss_of_a_rank_is_the_loss_of_all():
    ring = ThreadRing(3)
    comms = [Flaky(comm, dies_at=2) if comm.rank == 1 else comm for comm in ring.comms]
    seen = []

    def work(comm):
        try:
            tree_sum(comm, 8, np.ones((8, 50), np.float32), steps=5)
        except PeerLost as error:
            seen.append(str(error))
            raise

    with pytest.raises(Exception, match="rank 1 dies here"):
        on_every_rank(comms, work)

    assert len(seen) == 2
