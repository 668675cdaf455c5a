"""Sparse gradients: of an embedding a step looks at the rows that its batch touches, and gives the bits of a step on all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Dense,
    Embedding,
    Flatten,
    MeanSquaredError,
    Model,
    RMSprop,
    Sequential,
)
from dlflow.nn.clipping import Clipping
from dlflow.nn.tables import row_starts, spans

V, E, T = 400, 6, 3
LAYERS = [Embedding(V, E), Flatten(), Dense(2)]
LOSS = MeanSquaredError()
OPTIMIZERS = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "adam": Adam(0.01),
    "adamw": AdamW(0.01),
    "rmsprop": RMSprop(0.01, centered=True),
    "adagrad": Adagrad(0.1),
    "average": SGD(0.1, average=0.9),
    "clipped": SGD(0.5, clip_global_norm=0.01),
    "clipped each": Adagrad(0.5, clip_norm=0.01, clip_value=1e-4),
}
tokens = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, V, (np.random.default_rng(seed).integers(0, 9), T))
)


def new_model(layers=LAYERS):
    model = Model(layers, T)
    model.init(1)
    return model


def labels(X):
    return np.random.default_rng(len(X)).standard_normal((len(X), 2))


def dense(model, X):
    """What the message must hold, from a message that knows no rows."""
    other = model.new_message()
    other.rows.clear()
    other.g[:] = np.nan
    model.gradient(LOSS, X, labels(X), into=other)
    return other.g.copy()


@given(batches=st.lists(tokens, min_size=1, max_size=4))
def test_the_rows_of_a_message_are_those_that_the_last_batch_touched_and_all_others_are_zero(batches):
    model = new_model()
    (slot,) = model.tables

    for X in batches:
        model.gradient(LOSS, X, labels(X))

        touched = np.unique(X)
        assert np.array_equal(model.message.rows[slot], touched)
        assert np.array_equal(model.g, dense(model, X))
        assert not np.delete(model.message.dp[0]["W"], touched, axis=0).any()


def test_the_gradient_is_the_sum_over_the_places_of_each_token():
    model, X = new_model([Embedding(V, E), Flatten(), Dense(1, use_bias=False)]), np.array([[3, 9, 3]])
    model.gradient(LOSS, X, np.zeros(1))

    dY = 2 * float(model.outputs(X)[0, 0]) * model.p[2]["W"].reshape(T, E)
    model.gradient(LOSS, X, np.zeros(1))

    np.testing.assert_allclose(model.message.dp[0]["W"][3], dY[0] + dY[2], rtol=1e-5)
    np.testing.assert_allclose(model.message.dp[0]["W"][9], dY[1], rtol=1e-5)


@given(first=tokens, second=tokens)
def test_messages_add_up_with_their_rows(first, second):
    model = new_model()
    one, two = model.new_message(), model.new_message()
    model.gradient(LOSS, first, labels(first), into=one)
    model.gradient(LOSS, second, labels(second), into=two)
    expected = one.g + two.g

    one.add(two)

    assert np.array_equal(one.g, expected)
    assert np.array_equal(one.rows[model.tables[0]], np.union1d(first, second))


def test_a_message_that_knows_no_rows_makes_the_sum_one_that_knows_none():
    model, X = new_model(), np.array([[1, 2, 3]])
    one, two = model.new_message(), model.new_message()
    model.gradient(LOSS, X, labels(X), into=one)
    two.g[:] = 1
    two.rows.clear()

    one.add(two)
    model.gradient(LOSS, X + 3, labels(X), into=one)

    assert np.array_equal(one.g, dense(model, X + 3))


def trained(optimizer, *, known, segments=None, layers=LAYERS):
    """Weights and state after some steps, from the rows that are known or from the whole vector."""
    model = new_model(layers)
    state = optimizer.new_state(model.parameters)
    clipping = Clipping(model.slots, optimizer, model.tables)
    rng = np.random.default_rng(0)
    for t in range(1, 8):
        X = rng.integers(0, V, (rng.integers(1, 9), T))
        model.gradient(LOSS, X, labels(X))
        if not known:
            model.message.rows.clear()
        cuts = [0, *(segments or ()), model.parameters]
        parts = list(itertools.pairwise(cuts))
        for lo, hi in parts:
            model.finish(lo=lo, hi=hi)
        rows, g = model.message.rows, model.g[:-2]
        squares = clipping.squares(g, rows=rows) if clipping.needs_norms else None
        for lo, hi in parts:
            clipping.clip(g, squares, lo=lo, hi=hi, rows=rows)
            optimizer.step(model.w, g, state, t, lo=lo, hi=hi, rows=rows)
        model.constrain()
    return model.w, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_knows_the_rows_gives_the_bits_of_one_on_the_whole_vector(name):
    known, whole = (trained(OPTIMIZERS[name], known=known) for known in (True, False))

    for mine, expected in zip(known, whole, strict=True):
        assert np.array_equal(mine, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_on_segments_between_rows_gives_the_bits_of_one_on_the_whole(name):
    cuts = row_starts(new_model().tables, [100, 1001, 2405])

    assert cuts == [96, 996, 2405]
    for mine, whole in zip(
        trained(OPTIMIZERS[name], known=True, segments=cuts),
        trained(OPTIMIZERS[name], known=True),
        strict=True,
    ):
        assert np.array_equal(mine, whole)


def test_a_segment_that_cuts_a_row_is_refused():
    model, X = new_model(), np.array([[1, 2, 3]])
    model.gradient(LOSS, X, labels(X))

    with pytest.raises(ValueError, match=r"\[0, 7\) cuts a row of 6 of 'W'"):
        model.finish(lo=0, hi=7)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "clipped", "clipped each"])
def test_what_no_batch_touches_is_not_looked_at(name):
    model, optimizer, X = new_model(), OPTIMIZERS[name], np.array([[1, 2, 3]])
    state = optimizer.new_state(model.parameters)
    (slot,), before = model.tables, model.w.copy()
    model.gradient(LOSS, X, labels(X))
    rest = np.delete(np.arange(V), [1, 2, 3])
    model.message.dp[0]["W"][rest] = np.nan  # as it never is: who looks there, shows it
    rows = model.message.rows

    mean = model.finish()
    Clipping(model.slots, optimizer, model.tables).clip(model.g[:-2], rows=rows)
    optimizer.step(model.w, model.g[:-2], state, 1, rows=rows)

    assert optimizer.by_rows
    assert np.isfinite(mean)
    assert np.isfinite(model.w).all()
    assert np.array_equal(model.p[0]["W"][rest], before[: slot.stop].reshape(V, E)[rest])
    assert not np.array_equal(model.p[0]["W"][1:4], before[: slot.stop].reshape(V, E)[1:4])


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01, lazy=True), AdamW(0.1, lazy=True), SGD(0.1, momentum=0.9, lazy=True)]
)
def test_lazy_rows_wait_with_their_moments_until_they_are_touched(optimizer):
    """As if the optimizer of each row had slept between the batches that touch it, but for the number of the step."""
    model = new_model()
    state = optimizer.new_state(model.parameters)
    mine, own = model.w.copy(), state.copy()
    rng = np.random.default_rng(0)
    for t in range(1, 6):
        X = rng.integers(0, 30, (4, T))
        model.gradient(LOSS, X, labels(X))
        model.finish()
        g = model.g[:-2].copy()
        optimizer.step(model.w, g, state, t, rows=model.message.rows)

        moved, changed = mine.copy(), own.copy()
        optimizer.step(moved, g, changed, t)
        awake = np.ones(model.parameters, bool)
        awake[: V * E] = np.isin(np.arange(V), X).repeat(E)
        mine = np.where(awake, moved, mine)
        own = np.where(np.tile(awake, optimizer.slots), changed, own)

    assert np.array_equal(model.w, mine)
    assert np.array_equal(state, own)
    assert not np.array_equal(trained(optimizer, known=True)[0], trained(optimizer, known=False)[0])


def test_a_table_with_a_penalty_is_whole():
    layers = [Embedding(V, E, l2=0.1), Flatten(), Dense(2)]
    before = new_model(layers).p[0]["W"].copy()

    known, whole = (trained(SGD(0.1), known=known, layers=layers)[0] for known in (True, False))

    assert np.array_equal(known, whole)
    assert (known[: V * E].reshape(V, E) != before).all()


def test_sequential_trains_to_the_bits_of_the_whole_vector(monkeypatch):
    X = np.random.default_rng(0).integers(0, V, (60, T))

    def weights():
        model = Sequential(LAYERS, T, seed=2)
        model.compile(optimizer=Adagrad(0.1, clip_global_norm=0.5), loss="mean_squared_error")
        model.fit(X, labels(X), epochs=2, batch_size=8, accumulate=2)
        return model.model.w.copy()

    mine = weights()
    plain = Adagrad.step
    monkeypatch.setattr(Adagrad, "step", lambda *args, rows=None, **named: plain(*args, **named))

    assert np.array_equal(mine, weights())


@given(edges=st.lists(st.integers(0, 2500), min_size=2, max_size=2).map(sorted))
def test_spans_and_tables_are_the_whole(edges):
    model = new_model()
    rows = dict.fromkeys(model.tables, np.arange(V))
    lo, hi = row_starts(model.tables, edges)

    covered = [place for span in spans(rows, lo, hi) for place in range(span.start, span.stop)]

    assert covered == [place for place in range(lo, hi) if place >= V * E]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lazy=True), "sgd: lazy is true, and nothing else is done here; leave lazy out"),
        (lambda: Adagrad(lazy=True), "nothing else is done here"),
        (lambda: Adam(lazy=True, average=0.9), "an average of the weights moves all of them"),
    ],
)
def test_lazy_that_changes_nothing_is_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()
