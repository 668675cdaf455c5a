"""What an exchange costs, by the model and by the schedule itself: messages exactly, time by simulated links, up to 1,000 ranks."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.parallel.comm import Alone
from dlflow.parallel.cost import LINKS, Link, best_shape, price, useful_ranks
from dlflow.parallel.shards import owned
from dlflow.parallel.stages import peers_of, place_of, stages
from dlflow.parallel.testing import Clocked, ThreadRing, on_every_rank
from dlflow.parallel.tree import TreeSum
from tests.test_parallel_comm import Vector, tree_sum

LINE = 16  # numbers: a segment of a cache line
SHAPES = st.lists(st.integers(2, 5), max_size=4).map(tuple).filter(lambda shape: prod(shape) <= 200)


@given(shape=SHAPES, data=st.data())
def test_the_stages_of_all_ranks_fit_together(shape, data):
    rank = data.draw(st.integers(0, prod(shape) - 1))
    heard = (rank, rank + 1)
    for number, stage in enumerate(stages(rank, shape)):
        assert stage.group[stage.digit] == rank
        assert stage.blocks[stage.digit] == heard
        assert all(stages(peer, shape)[number].group == stage.group for peer in stage.group)
        assert all(low <= peer < high for peer, (low, high) in zip(stage.group, stage.blocks, strict=True))
        assert [high for _, high in stage.blocks[:-1]] == [low for low, _ in stage.blocks[1:]]
        heard = stage.blocks[0][0], stage.blocks[-1][1]

    assert heard == (0, prod(shape))
    assert sorted(place_of(each, shape) for each in range(prod(shape))) == list(range(prod(shape)))
    if shape:
        low, high = stages(rank, shape)[-1].places[stages(rank, shape)[-1].digit]
        assert (low, high) == (place_of(rank, shape), place_of(rank, shape) + 1)
    assert len(peers_of(rank, shape)) == sum(factor - 1 for factor in shape)


@given(workers=st.integers(1, 1100), shards=st.integers(0, 10).map(lambda power: 2**power))
def test_no_worker_less_would_do_and_none_more_would_help(workers, shards):
    def longest(ranks):
        return max(stop - start for start, stop in (owned(rank, ranks, shards) for rank in range(ranks)))

    ranks = useful_ranks(workers, shards)

    assert 1 <= ranks <= workers
    assert longest(ranks) == longest(workers)
    assert ranks == 1 or longest(ranks - 1) > longest(workers)


@given(size=st.integers(1, 64), shards=st.sampled_from([64, 256, 1024]), kind=st.sampled_from(sorted(LINKS)))
def test_the_shape_that_is_chosen_is_never_dearer_than_a_mesh(size, shards, kind):
    shape = best_shape(size, shards, kind)

    assert prod(shape) == size
    mesh = price((size,) if size > 1 else (), shards, 1 << 20)
    assert price(shape, shards, 1 << 20).seconds(LINKS[kind]) <= mesh.seconds(LINKS[kind])


def test_few_ranks_are_a_mesh_and_many_are_not():
    assert [best_shape(size, 1024) for size in (2, 3, 4, 5, 7)] == [(2,), (3,), (4,), (5,), (7,)]
    for size in (64, 342, 512, 1000, 1024):
        assert len(best_shape(size, 1024)) > 1
        assert price(best_shape(size, 1024), 1024, 1 << 20).messages < size / 2


def simulated(shape, shards, link):
    """The sum of a small vector by the ranks of this shape: their comms, and the sum of each."""
    length = 2 + LINE * prod(shape)
    gradients = np.random.default_rng(0).standard_normal((shards, length)).astype(np.float32)
    comms = [Clocked(comm, link) for comm in ThreadRing(prod(shape), shape=shape, deadline_s=120).comms]

    def work(comm):
        tree = TreeSum(comm, shards, lambda: Vector(np.empty(length, np.float32)), shared=2)
        for shard in tree.own:
            vector = tree.buffer()
            vector.g[...] = gradients[shard]
            tree.add(shard, vector)
        return tree.reduce(0).g.tobytes()

    sums = on_every_rank(comms, work)
    return comms, sums, tree_sum(Alone(), shards, gradients).tobytes()


SLOW = pytest.mark.slow
CASES = [
    *[(size, 16, "unix") for size in (2, 4, 8, 16)],
    (12, 16, "tcp"),
    (64, 64, "tcp"),
    pytest.param(342, 1024, "tcp", marks=SLOW),
    pytest.param(512, 1024, "tcp", marks=SLOW),
    pytest.param(1000, 1024, "tcp", marks=SLOW),
    pytest.param(1000, 1024, "tls", marks=SLOW),
]


@pytest.mark.parametrize(("size", "shards", "kind"), CASES)
def test_the_schedule_costs_what_the_model_says_and_sums_as_one_rank_does(size, shards, kind):
    shape, link = best_shape(size, shards, kind), LINKS[kind]
    comms, sums, alone = simulated(shape, shards, link)
    told = price(shape, shards, 4 * LINE * size, end=8)

    assert set(sums) == {alone}
    # where ranges of shards are no nodes of the tree, no rank has the most nodes in every stage
    least = 1.0 if size & (size - 1) == 0 else 0.7
    assert least * told.messages <= max(comm.messages for comm in comms) <= told.messages
    assert least * told.nbytes <= max(comm.nbytes for comm in comms) <= told.nbytes
    assert max(comm.now for comm in comms) == pytest.approx(told.seconds(link), rel=0.2)


def test_a_link_with_no_work_takes_a_round_per_stage_and_way():
    free = Link(round_s=1.0, message_s=0, byte_s=0, connect_s=0)

    comms, _, _ = simulated((2, 2, 2), 8, free)

    assert {comm.now for comm in comms} == {6.0}
    assert {comm.messages for comm in comms} == {9}
