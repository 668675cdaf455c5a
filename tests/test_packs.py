"""Which parts go together and which go next, without a cluster; tests/test_engine.py has the same laws on workers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.failures import ATTEMPTS
from pipelines.packs import AHEAD, FIRST, MOST, PACK_S, Pack, Packs


def all_sent(packs, *, threads, part_s):
    """Runs everything by a clock; the sizes of the packs, and the most that were under way."""
    flying, sizes, most, now = [], [], 0, 0.0
    while True:
        flying += packs.next(len(flying), threads)
        if not flying:
            return sizes, most
        most = max(most, len(flying))
        ended, flying = flying[:threads], flying[threads:]
        now += max(map(len, ended)) * part_s
        sizes += [(pack.start, len(pack)) for pack in ended]
        packs.ended(sum(map(len, ended)), now)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 50), st.sampled_from([1e-6, 1e-3, 0.01, 0.2, 5.0]))
def test_every_part_is_sent_once_in_packs_of_bounded_size_and_number(total, threads, part_s):
    sizes, most = all_sent(Packs(total, 0.0), threads=threads, part_s=part_s)

    assert [part for start, size in sizes for part in range(start, start + size)] == list(range(total))
    assert all(size <= max(1, min(MOST, (total - start) // (4 * threads))) for start, size in sizes)
    assert all(size * part_s <= PACK_S or size == 1 for _, size in sizes)
    assert most <= AHEAD * threads


def test_parts_whose_time_is_not_known_go_one_by_one():
    assert Packs(1000, 0.0).next(0, 2) == [Pack(part, part + 1) for part in range(2 * FIRST)]


def test_parts_that_take_longer_than_before_go_in_smaller_packs():
    packs = Packs(100_000, 0.0)
    for second in range(20):
        packs.next(0, 2)
        packs.ended(2000, second + 1.0)
    assert {len(pack) for pack in packs.next(0, 2)} == {MOST}

    for second in range(20, 30):
        packs.ended(20, second + 1.0)
    assert {len(pack) for pack in packs.next(0, 2)} == {int(PACK_S / 0.1)}


def test_a_pack_whose_workers_died_runs_alone_then_its_parts_do_and_one_is_blamed():
    packs = Packs(1000, 0.0)
    packs.sent = 1000

    assert not packs.killed(Pack(10, 13))
    assert packs.next(1, 2) == []  # something is under way: it would be killed, too
    (alone,) = packs.next(0, 2)
    assert alone == Pack(10, 13, alone=True)
    assert not packs.killed(alone)
    assert packs.next(0, 2) == [Pack(10, 11, alone=True)]
    assert packs.next(0, 2) == [Pack(11, 12, alone=True)]
    assert packs.killed(Pack(11, 12, alone=True))


@pytest.mark.parametrize("part", [11, None])
def test_a_pack_that_failed_is_sent_again_part_by_part_and_the_part_is_named_that_did_it(part):
    packs = Packs(1000, 0.0)

    assert packs.failed(Pack(10, 13), part) == (part or 10, False)
    assert packs.next(0, 1)[:3] == [Pack(10, 11), Pack(11, 12), Pack(12, 13)]
    for attempt in range(2, ATTEMPTS + 1):
        assert packs.failed(Pack(11, 12), 11) == (11, attempt == ATTEMPTS)
    assert packs.failed(Pack(12, 13), 12) == (12, part is None and ATTEMPTS == 2)
