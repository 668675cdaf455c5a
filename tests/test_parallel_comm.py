"""The tree of sums: the same bits on every rank, for any number of ranks."""

from dataclasses import dataclass
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.errors import ModelError, PeerLost
from dlflow.parallel.comm import Alone, all_gather, broadcast
from dlflow.parallel.rows import Table, Touched
from dlflow.parallel.shards import cover, owned, segments, shard_bounds
from dlflow.parallel.testing import Flaky, ThreadRing, on_every_rank
from dlflow.parallel.tree import TreeSum

SHARDS = st.integers(0, 5).map(lambda power: 2**power)
RANKS = st.integers(1, 9)
SHAPES = st.sampled_from([(), (2,), (3,), (7,), (2, 2), (2, 3), (3, 2), (4, 2), (3, 3), (2, 2, 3), (5, 2)])


@dataclass
class Vector:
    g: np.ndarray


def tree_sum(comm, shards, gradients, dtype=np.float32, steps=1):
    tree = TreeSum(comm, shards, lambda: Vector(comm.zeros(gradients.shape[1], dtype)))
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


@given(shape=SHAPES, shards=SHARDS, length=st.integers(1, 300), seed=st.integers(0, 99))
def test_every_rank_ends_with_the_bits_of_one_rank(shape, shards, length, seed):
    gradients = np.random.default_rng(seed).standard_normal((shards, length)).astype(np.float32)
    alone = tree_sum(Alone(), shards, gradients, steps=2)

    ring = ThreadRing(prod(shape), shape=shape)
    totals = on_every_rank(ring, lambda comm: tree_sum(comm, shards, gradients, steps=2))

    assert all(total.tobytes() == alone.tobytes() for total in totals)
    np.testing.assert_allclose(alone, 2 * gradients.astype(np.float64).sum(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(2,), (3,), (2, 3)])
def test_a_vector_of_many_chunks_is_summed_like_a_short_one(shape):
    gradients = np.random.default_rng(0).standard_normal((8, 600_001)).astype(np.float32)
    alone = tree_sum(Alone(), 8, gradients)

    ring = ThreadRing(prod(shape), shape=shape)
    totals = on_every_rank(ring, lambda comm: tree_sum(comm, 8, gradients))

    assert all(total.tobytes() == alone.tobytes() for total in totals)


def drawn_rows(seed, shards):
    """The gradients of two tables and some more for each shard, and the rows that each touches: none, few or all."""
    chance, tables = np.random.default_rng(seed), (Table(0, 9, 3), Table(27, 5, 1))
    gradients = chance.standard_normal((shards, 60)).astype(np.float32)
    gradients[chance.random((shards, 60)) < 0.2] = -0.0
    touched = [
        [np.flatnonzero(chance.random(table.rows) < chance.choice([0, 0.3, 1])) for table in tables]
        for _ in range(shards)
    ]
    for gradient, places in zip(gradients, touched, strict=True):
        for table, each in zip(tables, places, strict=True):
            table.of(gradient)[np.setdiff1d(np.arange(table.rows), each)] = 0
    return tables, gradients, touched


@given(shape=SHAPES, shards=SHARDS, seed=st.integers(0, 999))
def test_rows_that_are_touched_sum_to_the_bits_of_whole_tables(shape, shards, seed):
    tables, gradients, touched = drawn_rows(seed, shards)
    plain = gradients.copy()
    plain[:, :32] += 0  # as rows have no -0.0
    whole = tree_sum(Alone(), shards, plain)

    def work(comm):
        tree = TreeSum(
            comm, shards, lambda: Vector(np.empty(60, np.float32)), tables=tables, shared=2, notes=1
        )
        tree.notes[comm.rank] = comm.rank
        for shard in tree.own:
            vector = tree.buffer()
            vector.g[...] = gradients[shard]
            tree.add(shard, vector, touched[shard])
        total = tree.reduce(0).g.copy()
        for table, rows in zip(tables, tree.rows, strict=True):
            table.of(total)[...] = 0
            table.of(total)[rows.places] = rows.values
        return total.tobytes(), tree.notes[:, 0].tolist(), [rows.places.tolist() for rows in tree.rows]

    found = on_every_rank(ThreadRing(prod(shape), shape=shape), work)

    union = [sorted(set(np.concatenate(each).tolist())) for each in zip(*touched, strict=True)]
    assert [total for total, _, _ in found] == [whole.tobytes()] * len(found)
    assert all(notes == list(range(prod(shape))) for _, notes, _ in found)
    assert all(places == union for _, _, places in found)


def test_rows_that_are_not_in_the_table_are_a_loss_of_the_peer():
    message = Touched(np.array([1, 9], np.int32), np.ones((2, 3), np.float32)).packed()

    with pytest.raises(PeerLost, match="rows 1 to 9 of a table of 9, expected rising ones in it"):
        Touched.unpacked(np.frombuffer(message, np.uint8), 2, Table(0, 9, 3), np.dtype(np.float32))


def test_a_sum_in_the_order_of_arrival_would_have_other_bits():
    gradients = np.random.default_rng(0).standard_normal((8, 1000)).astype(np.float32)

    in_a_row = np.add.reduce(gradients[::-1], axis=0)

    assert tree_sum(Alone(), 8, gradients).tobytes() != in_a_row.tobytes()


@given(shape=SHAPES, data=st.data())
def test_every_rank_gets_all_rows_of_a_table(shape, data):
    size = prod(shape)
    cuts = sorted(data.draw(st.lists(st.integers(0, 20), min_size=size - 1, max_size=size - 1)))
    bounds, whole = [0, *cuts, 20], np.arange(60.0).reshape(20, 3)

    def work(comm):
        table = np.zeros((20, 3))
        own = slice(bounds[comm.rank], bounds[comm.rank + 1])
        table[own] = whole[own]
        all_gather(comm, table, bounds, 0)
        return table

    assert all(np.array_equal(table, whole) for table in on_every_rank(ThreadRing(size, shape=shape), work))


@pytest.mark.parametrize("length", [0, 1, 3_000_000])
@pytest.mark.parametrize(("shape", "root"), [((3,), 0), ((3,), 2), ((2, 3), 0), ((2, 3), 4), ((2, 2, 2), 6)])
def test_a_broadcast_gives_all_ranks_what_one_made(length, shape, root):
    data = (np.arange(length) % 251).astype(np.uint8).tobytes()

    def work(comm):
        return broadcast(comm, lambda: data, 0, limit=length, root=root)

    assert on_every_rank(ThreadRing(prod(shape), shape=shape), work) == [data] * prod(shape)


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
