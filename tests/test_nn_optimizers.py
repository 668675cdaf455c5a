"""Optimizers: a step on segments is the step on the whole, bit for bit; the paths are in test_nn_reference.py."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import SGD, Adam
from dlflow.nn.optimizers import BLOCK

CHOSEN = (SGD(), SGD(momentum=0.9), SGD(momentum=0.9, nesterov=True), Adam())


def start(optimizer, size, seed):
    rng = np.random.default_rng(seed)
    w, g = rng.standard_normal((2, size)).astype(np.float32)
    return w, g, optimizer.new_state(size)


@settings(max_examples=30, deadline=None)
@given(
    optimizer=st.sampled_from(CHOSEN),
    size=st.integers(1, 2 * BLOCK + 5),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    seed=st.integers(0, 99),
)
def test_steps_on_segments_are_the_step_on_the_whole(optimizer, size, cuts, seed):
    w, g, state = start(optimizer, size, seed)
    v, _, other = start(optimizer, size, seed)
    edges = [0, *sorted(int(cut * size) for cut in cuts), size]

    for t in (1, 2, 3):
        optimizer.step(w, g, state, t)
        for lo, hi in itertools.pairwise(edges):
            optimizer.step(v, g, other, t, lo=lo, hi=hi)

    assert np.array_equal(w, v)
    assert np.array_equal(state, other)


@pytest.mark.parametrize("optimizer", CHOSEN)
def test_an_owner_of_a_segment_needs_only_its_own_state(optimizer):
    w, g, state = start(optimizer, 100, 0)
    part = w[30:70].copy()

    optimizer.step(w, g, state, 1)
    optimizer.step(part, g[30:70], optimizer.new_state(40), 1)

    assert np.array_equal(part, w[30:70])


@pytest.mark.parametrize("optimizer", CHOSEN)
def test_the_gradient_is_left_as_it_was(optimizer):
    w, g, state = start(optimizer, 100, 0)
    before = g.copy()

    optimizer.step(w, g, state, 1)

    assert np.array_equal(g, before)


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate():
    w, g, state = start(Adam(), 100, 0)
    before = w.copy()

    Adam(learning_rate=0.01).step(w, g, state, 1)

    np.testing.assert_allclose(before - w, 0.01 * np.sign(g), rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(learning_rate=0), "learning_rate is 0, expected a small positive number"),
        (lambda: Adam(learning_rate=float("nan")), "learning_rate is nan"),
        (lambda: Adam(beta_1=1.0), "beta_1 is 1.0, expected 0 <= beta_1 < 1"),
        (lambda: Adam(beta_2=-0.1), "beta_2"),
        (lambda: Adam(epsilon=0), "epsilon"),
        (lambda: SGD(learning_rate=-1), "sgd: learning_rate is -1"),
        (lambda: SGD(momentum=1), "momentum is 1"),
        (lambda: SGD(nesterov=True), "nesterov without momentum"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()
