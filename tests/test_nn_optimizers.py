"""Optimizers: a step on segments is the step on the whole, bit for bit; the paths are in test_nn_reference.py."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import SGD, Adagrad, Adam, AdamW, Constant, Cosine, Exponential, RMSprop, Step, WarmUp
from dlflow.nn.optimizer import BLOCK

CHOSEN = (
    SGD(),
    SGD(momentum=0.9),
    SGD(momentum=0.9, nesterov=True),
    Adam(),
    Adam(Cosine(0.1, updates=3), average=0.9),
    AdamW(weight_decay=0.1),
    RMSprop(),
    RMSprop(momentum=0.9, centered=True, average=0.5),
    Adagrad(start=0.1),
)


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
        (lambda: AdamW(weight_decay=-1), "weight_decay is -1"),
        (lambda: RMSprop(rho=1), "rho is 1"),
        (lambda: Adagrad(start=-1), "start is -1"),
        (lambda: SGD(clip_norm=0), "clip_norm is 0, expected a positive number"),
        (lambda: SGD(clip_norm=1, clip_global_norm=1), "both given"),
        (lambda: SGD(average=1), "average is 1, expected 0 <= average < 1"),
        (lambda: Constant(0), "rate is 0, expected a positive number"),
        (lambda: Step(0.1, every=0), "every is 0, expected at least 1"),
        (lambda: Exponential(0.1, every=1, factor=0), "factor is 0"),
        (lambda: Cosine(0.1, updates=10, floor=0.2), "floor is 0.2, expected from 0 to below the rate 0.1"),
        (lambda: WarmUp(0, then=0.1), "updates is 0"),
        (lambda: WarmUp(1, then=-0.1), "then is -0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def test_warm_up_rises_in_a_straight_line_and_goes_on_with_its_schedule():
    rates = [WarmUp(4, then=Step(1.0, every=2, factor=0.5)).at(t) for t in range(8)]

    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.5, 0.5])
    assert WarmUp(1, then=0.3).at(9) == Constant(0.3).at(9) == 0.3


def test_the_rate_of_a_step_follows_the_schedule_and_the_scale():
    w, g, state = start(SGD(), 5, 0)
    before = w.copy()

    SGD(Step(0.5, every=1, factor=0.5)).step(w, g, state, 2, scale=0.1)

    np.testing.assert_allclose(before - w, 0.025 * g, rtol=1e-5)


def test_the_state_of_adagrad_begins_at_start():
    assert Adagrad(start=0.5, average=0.9).new_state(3).tolist() == [0.5, 0.5, 0.5, 0, 0, 0]
