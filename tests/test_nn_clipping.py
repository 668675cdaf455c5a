"""Clipping: the limits hold, and who computes which part of the norm changes no bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.nn import SGD, Dense, Model
from dlflow.nn.clipping import PIECE, Clipping, global_norm

MODEL = Model([Dense(150), Dense(300), Dense(1)], 2)  # 450 + 45,300 + 301 parameters: five pieces of W


def gradient(seed, size=MODEL.parameters):
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def test_pieces_end_where_parameters_end_and_are_never_long():
    edges = Clipping(MODEL.slots, SGD()).edges

    assert {slot.stop for slot in MODEL.slots} <= set(edges.tolist())
    assert np.diff(edges).max() == PIECE
    assert (edges[0], edges[-1]) == (0, MODEL.parameters)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 99),
    st.lists(st.integers(0, 8), max_size=4),
    st.sampled_from(["clip_norm", "clip_global_norm"]),
)
def test_ranks_that_own_pieces_clip_as_one_does(seed, cuts, setting):
    clipping = Clipping(MODEL.slots, SGD(clip_value=0.05, **{setting: 10.0}))
    alone, shared = gradient(seed), gradient(seed)
    pieces = len(clipping.edges) - 1
    bounds = [0, *sorted(min(cut, pieces) for cut in cuts), pieces]
    shares = list(itertools.pairwise(bounds))

    clipping.clip(alone)
    squares = np.concatenate([clipping.squares(shared, first=a, last=b) for a, b in shares])
    for a, b in reversed(shares):
        clipping.clip(shared, squares, lo=int(clipping.edges[a]), hi=int(clipping.edges[b]))

    assert np.array_equal(alone, shared)


def test_the_global_norm_is_at_most_the_limit_and_the_direction_is_kept():
    clipping, g = Clipping(MODEL.slots, SGD(clip_global_norm=2.0)), gradient(0)
    before = g.copy()

    norm = global_norm(clipping.squares(g))
    clipping.clip(g)

    assert norm == pytest.approx(np.linalg.norm(before.astype(np.float64)), rel=1e-6)
    assert np.linalg.norm(g) == pytest.approx(2, rel=1e-5)
    np.testing.assert_allclose(g / 2, before / norm, rtol=1e-5)


def test_clip_norm_limits_each_parameter_by_itself():
    g = gradient(0)
    first = MODEL.slots[0]
    g[first.start : first.stop] *= 1e-3  # short already
    before = g.copy()

    Clipping(MODEL.slots, SGD(clip_norm=1.0)).clip(g)

    norms = [np.linalg.norm(g[slot.start : slot.stop]) for slot in MODEL.slots]
    assert np.array_equal(g[: first.stop], before[: first.stop])
    assert norms[1:] == pytest.approx([1] * (len(norms) - 1), abs=1e-4) or max(norms) <= 1.0001
    assert max(norms[2:4]) == pytest.approx(1, abs=1e-4)


def test_clip_value_limits_each_number():
    g = gradient(0)
    before = g.copy()

    Clipping(MODEL.slots, SGD(clip_value=0.5)).clip(g)

    assert np.array_equal(g, before.clip(-0.5, 0.5))


def test_without_limits_nothing_changes():
    g = gradient(0)
    before = g.copy()

    Clipping(MODEL.slots, SGD()).clip(g)

    assert np.array_equal(g, before)
    assert Clipping((), SGD(clip_global_norm=1.0)).squares(g[:0]).size == 0
