"""A model is frozen layers over one vector; its messages add up exactly for any split of a batch."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError, NonFinite
from dlflow.nn import (
    Activation,
    Adam,
    BinaryCrossEntropy,
    Dense,
    Dropout,
    Flatten,
    MeanSquaredError,
    Model,
    SparseCategoricalCrossEntropy,
    Stream,
)

LAYERS = (Dense(8, "relu", l2=0.1), Dropout(0.3), Dense(3, "softmax"))
LOSS = SparseCategoricalCrossEntropy(class_weights=(1.0, 2.0, 0.5))
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((24, 5)).astype(np.float32), RNG.integers(0, 3, 24)


def new_model(layers=LAYERS, in_shape=5, **options):
    model = Model(layers, in_shape, **options)
    model.init(seed=1)
    return model


@given(cuts=st.lists(st.integers(0, 24), max_size=5))
def test_messages_of_any_split_add_up_to_that_of_the_whole_batch(cuts):
    model = new_model(LAYERS[::2], dtype=np.float64)
    model.gradient(LOSS, X, Y)
    whole = model.g.copy()

    edges = [0, *sorted(cuts), 24]
    parts = [model.new_message() for _ in edges[1:]]
    for low, high, part in zip(edges, edges[1:], parts, strict=False):
        model.gradient(LOSS, X[low:high], Y[low:high], into=part)

    np.testing.assert_allclose(sum(part.g for part in parts), whole, rtol=0, atol=1e-12)


@given(cuts=st.lists(st.integers(0, 24), max_size=3))
def test_weight_decay_counts_once_however_the_batch_was_split(cuts):
    model = new_model(LAYERS[::2], dtype=np.float64)
    model.gradient(LOSS, X, Y)
    expected = model.finish()
    whole, total = model.g.copy(), model.new_message()

    edges = [0, *sorted(cuts), 24]
    for low, high in itertools.pairwise(edges):
        model.gradient(LOSS, X[low:high], Y[low:high])
        total.g[:] += model.g
    mean = model.finish(total)

    assert mean == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(total.g[:-2], whole[:-2], rtol=0, atol=1e-12)


def test_an_empty_shard_is_a_message_of_zeros():
    model = new_model()

    model.gradient(LOSS, X[:0], Y[:0], rng=Stream(0, "dropout"))

    assert not model.g.any()


@given(cut=st.integers(0, 24), second=st.integers(0, 67))
def test_finishing_segments_is_finishing_the_whole(cut, second):
    model = new_model()
    model.gradient(LOSS, X, Y)
    parts = model.new_message()
    parts.g[:] = model.g
    low, high = sorted((cut, second))

    means = [model.finish(parts, lo=a, hi=b) for a, b in ((0, low), (low, high), (high, model.parameters))]

    assert means == [model.finish()] * 3
    assert np.array_equal(parts.g, model.g)


def test_results_are_a_function_of_the_inputs_and_the_stream_alone():
    messages = []
    for _ in range(2):
        model = new_model()
        model.gradient(
            LOSS, X[:7], Y[:7], rng=Stream(9, "dropout", step=3)
        )  # leaves other things in the work arrays
        model.gradient(LOSS, X, Y, rng=Stream(5, "dropout", step=8, shard=1))
        messages.append(model.g.copy())
    fresh = new_model()
    fresh.gradient(LOSS, X, Y, rng=Stream(5, "dropout", step=8, shard=1))

    assert np.array_equal(messages[0], messages[1])
    assert np.array_equal(messages[0], fresh.g)


def test_dropout_masks_differ_between_steps_shards_and_layers():
    model = Model([Dropout(0.5)], 1000)
    ones = np.ones((1, 1000), np.float32)

    outputs = [
        model.forward(ones, Stream(0, "dropout", step=step, shard=shard).at(layer=7))[0].copy()
        for step in (0, 1)
        for shard in (0, 1)
    ]

    assert len({each.tobytes() for each in outputs}) == 4
    assert all(set(each.ravel().tolist()) == {0.0, 2.0} for each in outputs)
    assert abs(np.mean(outputs) - 1) < 0.1


def test_two_dropout_layers_of_a_model_have_different_masks():
    model = Model([Dropout(0.5), Dropout(0.5)], 1000)

    kept = model.forward(np.ones((1, 1000), np.float32), Stream(0, "dropout"))[0] > 0

    assert 0.2 < kept.mean() < 0.3


def test_without_a_stream_dropout_does_nothing():
    model = Model([Dropout(0.5)], 5)

    assert np.array_equal(model.predict(X), X)


def test_inputs_labels_and_weights_are_left_as_they_were():
    model, weights = new_model(), np.linspace(0, 1, 24, dtype=np.float32)
    before = [each.copy() for each in (X, Y, weights, model.w)]

    model.gradient(LOSS, X, Y, weights=weights, rng=Stream(0, "dropout"))

    assert all(np.array_equal(a, b) for a, b in zip(before, (X, Y, weights, model.w), strict=True))


def test_a_layer_that_begins_with_relu_leaves_x_as_it_was():
    model, before = Model([Activation("relu"), Dense(1)], 5), X.copy()

    model.gradient(MeanSquaredError(), X, Y)

    assert np.array_equal(X, before)


def test_predictions_belong_to_the_caller():
    model = new_model()

    first = model.predict(X)
    kept = first.copy()
    model.predict(X[::-1].copy())

    assert np.array_equal(first, kept)


def test_predictions_in_batches_of_any_size_are_equal_to_rounding():
    model = new_model()

    np.testing.assert_allclose(model.predict(X, batch=5), model.predict(X), rtol=1e-5)


def test_a_step_allocates_nothing_large():
    model, optimizer = new_model([Dense(256, "relu"), Dropout(0.1), Dense(3)], 500), Adam()
    state = optimizer.new_state(model.parameters)
    rows = np.zeros((256, 500), np.float32)
    labels = np.zeros(256, np.int32)

    def step(t):
        model.gradient(LOSS, rows, labels, rng=Stream(0, "dropout", step=t))
        model.finish()
        optimizer.step(model.w, model.g[:-2], state, t)

    step(1)
    tracemalloc.start()
    step(2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # one activation is 256 KiB; the random bits of dropout are 128 KiB, the optimizer's block 64 KiB
    assert peak < 256 << 10


def test_a_tape_can_not_be_used_after_its_memory_was_reused():
    model = new_model()
    Z, tape = model.forward(X)
    model.forward(X)

    with pytest.raises(ModelError, match="call backward right after forward"):
        model.backward(np.ones_like(Z), tape)


def test_a_tape_can_be_used_once():
    model = new_model()
    Z, tape = model.forward(X)
    model.backward(np.ones_like(Z), tape)

    with pytest.raises(ModelError, match="earlier forward pass"):
        model.backward(np.ones_like(Z), tape)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_names_its_layer(bad):
    model = new_model([Dense(4, "relu"), Dense(1)])
    model.gradient(MeanSquaredError(), X, Y)
    model.message.dp[1]["b"][0] = bad

    with pytest.raises(
        NonFinite, match=rf"gradient of: layer 1 \(dense\) b \({bad}, 1 values\); lower the learning rate"
    ):
        model.finish()


def test_nan_in_the_batch_is_an_error_that_names_layers():
    model, rows = new_model(), X.copy()
    rows[3, 2] = np.nan
    model.gradient(LOSS, rows, Y)

    with pytest.raises(NonFinite, match=r"loss of the batch is nan; .*layer 0 \(dense\) W"):
        model.finish()


def test_a_large_but_finite_gradient_is_no_error():
    model = new_model([Dense(1)])
    model.gradient(MeanSquaredError(), X, Y)
    model.g[: model.parameters] = 1e30  # its square is not a float32

    assert np.isfinite(model.finish())


def test_a_batch_whose_weights_sum_to_zero_is_an_error():
    model = new_model()
    model.gradient(LOSS, X, Y, weights=np.zeros(24))

    with pytest.raises(ModelError, match="sum to 0"):
        model.finish()


def test_rows_labels_and_weights_must_be_as_many():
    with pytest.raises(ModelError, match="X has 24 rows, y has 3"):
        new_model().gradient(LOSS, X, Y[:3])
    with pytest.raises(ModelError, match=r"sample weights have shape \(24, 1\), expected \(24,\)"):
        new_model().gradient(LOSS, X, Y, weights=np.ones((24, 1)))


@pytest.mark.parametrize(
    ("in_shape", "shape", "advice"),
    [
        ((28, 28, 1), (10, 28, 28), r"channel axis is missing; add it with X\[\.\.\., None\]"),
        ((784,), (10, 28, 28), r"Flatten\(\)"),
        ((28, 28), (10, 28, 28, 1), r"axis too many"),
        ((28, 28), (10, 784), r"X.reshape\(-1, 28, 28\)"),
        ((5,), (5,), r"X\[None\]"),
        ((5,), (10, 6), r"X has shape \(10, 6\), expected \(n, 5\)"),
        ((5,), (), "expected"),
    ],
)
def test_x_of_a_wrong_shape_is_told_how_to_become_right(in_shape, shape, advice):
    model = Model([Flatten(), Dense(1)], in_shape)

    with pytest.raises(ModelError, match=advice):
        model.predict(np.zeros(shape))


def test_text_is_no_input():
    with pytest.raises(ModelError, match="expected numbers"):
        new_model().predict(np.array([["a"] * 5]))


def test_float64_and_integers_are_cast_once_at_the_door():
    model = new_model()

    assert model.predict(X.astype(np.float64)).dtype == np.float32
    assert model.cast(X) is X


def test_a_model_needs_layers_and_a_shape():
    with pytest.raises(ModelError, match="no layers"):
        Model([], 5)
    with pytest.raises(ModelError, match="lengths of at least 1"):
        Model([Dense(1)], (0,))
    with pytest.raises(ModelError, match=r"layer 0: dense: samples are single numbers"):
        Model([Dense(1)], ())


def test_parameters_lie_without_gaps_and_on_a_cache_line():
    model = new_model()

    assert model.parameters == 5 * 8 + 8 + 8 * 3 + 3
    assert model.w.ctypes.data % 64 == model.g.ctypes.data % 64 == 0
    assert all(np.shares_memory(view, model.w) for views in model.p for view in views.values())


def test_initial_weights_are_a_function_of_the_seed():
    first, second, other = new_model(), new_model(), Model(LAYERS, 5)
    other.init(seed=2)

    assert np.array_equal(first.w, second.w)
    assert not np.array_equal(first.w, other.w)


def test_equal_layers_start_with_different_weights():
    model = new_model([Dense(5), Dense(5)])

    assert not np.array_equal(model.p[0]["W"], model.p[1]["W"])


def test_a_layer_is_a_small_value():
    layer = Dense(64, "relu")

    assert len(pickle.dumps(layer)) < 200
    assert {layer: 1}[Dense(64, "relu")] == 1


@settings(max_examples=20)
@given(rows=st.integers(0, 40), more=st.integers(0, 40))
def test_work_arrays_fit_any_order_of_batch_sizes(rows, more):
    model = Model([Dense(4, "relu"), Dropout(0.5), Dense(1, "sigmoid")], 2)
    model.init(0)
    batch, y = np.ones((40, 2), np.float32), np.ones(40)
    fresh = Model(model.layers, 2)
    fresh.w[:] = model.w

    model.gradient(BinaryCrossEntropy(), batch[:rows], y[:rows], rng=Stream(1, "dropout"))
    model.gradient(BinaryCrossEntropy(), batch[:more], y[:more], rng=Stream(2, "dropout"))
    fresh.gradient(BinaryCrossEntropy(), batch[:more], y[:more], rng=Stream(2, "dropout"))

    assert np.array_equal(model.g, fresh.g)
