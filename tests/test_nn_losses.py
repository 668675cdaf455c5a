"""Losses are exact where naive formulas overflow, and wrong labels are told what to do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dlflow.errors import ModelError
from dlflow.nn import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Dense,
    Huber,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    Model,
    SparseCategoricalCrossEntropy,
    gradient_check,
)
from dlflow.nn.params import Workspace

F4 = np.dtype(np.float32)
logits = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e4, 1e4, width=32)
)


def total(loss, Z, y, weights=None):
    Z = np.asarray(Z, np.float32)
    y = loss.labels(np.asarray(y), Z.shape[1:], F4)
    return loss(Z, y, weights, "linear", Workspace())


@given(logits)
def test_binary_cross_entropy_of_huge_logits_is_finite_and_right(Z):
    y = np.arange(Z.size).reshape(Z.shape) % 2

    made = total(BinaryCrossEntropy(), Z, y)

    exact = np.logaddexp(0, np.where(y == 1, -1, 1) * Z.astype(np.float64)).mean(axis=1).sum()
    assert made.total == pytest.approx(exact, rel=1e-5, abs=1e-6)
    assert np.isfinite(made.gradient).all()


@given(logits.filter(lambda Z: Z.shape[1] > 1))
def test_both_cross_entropies_of_classes_agree_and_are_finite(Z):
    y = np.arange(len(Z)) % Z.shape[1]

    sparse = total(SparseCategoricalCrossEntropy(), Z, y)
    dense = total(CategoricalCrossEntropy(), Z, np.eye(Z.shape[1])[y])

    assert np.isfinite(sparse.total)
    assert sparse.total == pytest.approx(dense.total, rel=1e-6)
    np.testing.assert_allclose(sparse.gradient, dense.gradient, atol=1e-6)
    np.testing.assert_allclose(sparse.gradient.sum(axis=1), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (BinaryCrossEntropy(class_weights=(1, 3)), [[1], [0], [1]]),
        (SparseCategoricalCrossEntropy(class_weights=(2, 5)), [0, 1, 1]),
        (CategoricalCrossEntropy(class_weights=(2, 5)), np.eye(2)[[0, 1, 1]]),
    ],
)
def test_a_class_weight_is_the_weight_of_its_samples(loss, y):
    Z = np.array([[0.3, -1], [2, 0.5], [-0.7, 0.1]])[:, : 1 if loss.kind.startswith("binary") else 2]
    own = np.array([1, 0.5, 2], np.float32)
    labels = np.asarray(y).reshape(3, -1)
    numbers = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
    each = np.array(loss.class_weights, np.float32)[numbers]

    with_classes = total(loss, Z, y, own)
    by_hand = total(type(loss)(), Z, y, own * each)

    assert with_classes.total == pytest.approx(by_hand.total, rel=1e-6)
    assert with_classes.weight == pytest.approx(float((own * each).sum()))
    np.testing.assert_allclose(with_classes.gradient, by_hand.gradient, rtol=1e-6)


def test_a_sample_of_weight_two_counts_as_two_samples():
    Z, y = np.array([[0.5, 1], [2, -1]]), np.array([[0.0, 1], [1, 1]])

    weighted = total(MeanSquaredError(), Z, y, np.array([2, 1], np.float32))
    repeated = total(MeanSquaredError(), Z[[0, 0, 1]], y[[0, 0, 1]])

    assert (weighted.total, weighted.weight) == pytest.approx((repeated.total, repeated.weight))


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (
            SparseCategoricalCrossEntropy(),
            [0, 3, 1],
            r"label of row 1 is 3 \(1 such\), expected a class from 0 to 2",
        ),
        (SparseCategoricalCrossEntropy(), [0, 1, -1], r"label of row 2 is -1 .* number the classes from 0"),
        (SparseCategoricalCrossEntropy(), [0, np.nan, 1], "label of row 1 is nan"),
        (SparseCategoricalCrossEntropy(), [0, 0.5, 1], "label of row 1 is 0.5 .* 'mean_squared_error'"),
        (SparseCategoricalCrossEntropy(), [0, np.inf, 1], "label of row 1 is inf"),
        (SparseCategoricalCrossEntropy(), np.eye(3), "use loss 'categorical_cross_entropy'"),
        (
            SparseCategoricalCrossEntropy(),
            ["cat", "dog", "cat"],
            "labels are of type <U3 .* expected numbers",
        ),
        (SparseCategoricalCrossEntropy(), 1, "labels are one number"),
        (CategoricalCrossEntropy(), [0, 2, 1], "use loss 'sparse_categorical_cross_entropy' or numpy.eye"),
        (CategoricalCrossEntropy(), np.ones((3, 3)), "row that sums to 1.*'binary_cross_entropy'"),
        (CategoricalCrossEntropy(), [[1, 0, 0], [2, -1, 0], [0, 0, 1]], r"label of row 1 is -1\.0"),
        (CategoricalCrossEntropy(), np.full((3, 3), np.nan), "label of row 0 is nan"),
        (CategoricalCrossEntropy(), np.eye(4)[:3], r"labels have shape \(3, 4\)"),
        (BinaryCrossEntropy(), [[0, 1, 0], [1, 1, -1], [0, 0, 0]], r"label of row 1 is -1\.0 .* map -1 to 0"),
        (BinaryCrossEntropy(), [[0, 1, 0], [1, 1, 2], [0, 0, 0]], "'sparse_categorical_cross_entropy'"),
        (BinaryCrossEntropy(), [0, 1, 0], r"labels have shape \(3,\), the model's output \(3, 3\)"),
        (MeanSquaredError(), [[0, 1, 0], [1, np.nan, 2], [0, 0, 0]], "label of row 1 is nan"),
        (MeanSquaredError(), np.ones((3, 2)), "labels have shape"),
    ],
)
def test_labels_that_do_not_fit_say_what_to_do(loss, y, message):
    with pytest.raises(ModelError, match=message):
        loss.labels(np.asarray(y), (3,), F4)


def test_checked_labels_pass_unchanged():
    for loss, y in (
        (SparseCategoricalCrossEntropy(), np.array([0, 2])),
        (MeanSquaredError(), np.ones((2, 3), np.float32)),
    ):
        once = loss.labels(y, (3,), F4)

        assert loss.labels(once, (3,), F4) is once or np.shares_memory(loss.labels(once, (3,), F4), once)


@pytest.mark.parametrize(
    ("loss", "layer", "message"),
    [
        (BinaryCrossEntropy(), Dense(1, "relu"), "last activation is 'relu', expected 'sigmoid' or none"),
        (BinaryCrossEntropy(class_weights=(1, 2)), Dense(2), "class weights with 2 outputs"),
        (SparseCategoricalCrossEntropy(), Dense(3, "sigmoid"), "expected 'softmax' or none"),
        (SparseCategoricalCrossEntropy(), Dense(1), "use 'binary_cross_entropy' for two classes"),
        (CategoricalCrossEntropy(class_weights=(1, 2)), Dense(3), "2 class weights, expected 3"),
    ],
)
def test_a_loss_that_does_not_fit_the_last_layer_is_refused(loss, layer, message):
    model = Model([layer], 4)

    with pytest.raises(ModelError, match=message):
        loss.check(model.out_shape, model.head)


def test_labels_of_rows_for_a_model_of_positions_are_told_to_flatten():
    model = Model([Dense(3)], (2, 4))
    with pytest.raises(ModelError, match=r"expected class numbers of shape \(5, 2\); .*add Flatten"):
        model.gradient(SparseCategoricalCrossEntropy(), np.ones((5, 2, 4)), np.zeros(5, int))


@pytest.mark.parametrize("make", [BinaryCrossEntropy, CategoricalCrossEntropy, SparseCategoricalCrossEntropy])
def test_a_class_weight_is_a_number_of_zero_or_more(make):
    with pytest.raises(ModelError, match="weight of class 1 is -2"):
        make(class_weights=(1, -2))


@given(hnp.arrays(np.float32, 5, elements=st.floats(-85, 85, width=32)))
def test_probabilities_are_exact_also_when_very_small(z):
    model = Model([Dense(1, "sigmoid")], 1)
    model.p[0]["W"][:] = 1

    made = model.predict(z[:, None])[:, 0]

    np.testing.assert_allclose(made, 1 / (1 + np.exp(-z.astype(np.float64))), rtol=1e-5)
    assert np.array_equal(made, BinaryCrossEntropy().scores(z[:, None], "sigmoid")[:, 0])


RNG = np.random.default_rng(5)
STEPS = RNG.standard_normal((6, 4, 3))  # 6 samples of 4 time steps
NUMBERS = RNG.integers(0, 3, (6, 4))
VALUES, BITS = RNG.standard_normal((6, 4, 3)), RNG.integers(0, 2, (6, 4, 3)).astype(float)
HOLES = np.where(RNG.uniform(size=VALUES.shape) < 0.3, np.nan, 1)
SOFT = RNG.dirichlet(np.ones(3), (6, 4))
MASK = RNG.integers(0, 3, (6, 4)).astype(float)
EVERY = [
    (MeanSquaredError(half=True), VALUES),
    (MeanSquaredError(outputs="sum", skip_missing=True), VALUES * HOLES),
    (MeanAbsoluteError(), VALUES),
    (MeanAbsoluteError(skip_missing=True), VALUES * HOLES),
    (Huber(0.5), VALUES),
    (Huber(skip_missing=True), VALUES * HOLES),
    (BinaryCrossEntropy(label_smoothing=0.1), BITS),
    (BinaryCrossEntropy(skip_missing=True), BITS * HOLES),
    (CategoricalCrossEntropy(label_smoothing=0.2, class_weights=(1, 2, 0.5)), SOFT),
    (SparseCategoricalCrossEntropy(label_smoothing=0.2, class_weights=(1, 2, 0.5)), NUMBERS),
    (SparseCategoricalCrossEntropy(ignored=-1), np.where(MASK == 2, -1, NUMBERS)),
    (KLDivergence(), SOFT),
]


@pytest.mark.parametrize(("loss", "y"), EVERY)
@pytest.mark.parametrize("weights", [None, MASK, MASK[:, 0] + 1])
def test_gradients_of_positions_are_finite_differences(loss, y, weights):
    layers = [Dense(5, "tanh"), Dense(3)]

    assert gradient_check(layers, (4, 3), loss, STEPS, y, weights=weights).error < 1e-7


@pytest.mark.parametrize(
    ("loss", "y", "head"),
    [
        (MeanSquaredError(), VALUES, "tanh"),
        (BinaryCrossEntropy(from_probabilities=True), BITS, "sigmoid"),
        (SparseCategoricalCrossEntropy(from_probabilities=True), NUMBERS, "softmax"),
    ],
)
def test_a_head_is_part_of_the_gradient(loss, y, head):
    assert gradient_check([Dense(3, head)], (4, 3), loss, STEPS, y).error < 1e-7


@pytest.mark.parametrize(("loss", "y"), EVERY)
def test_what_is_masked_is_as_if_it_were_not_there(loss, y):
    Z, kept = STEPS.astype(np.float32), MASK[:, 0] > 0
    y = loss.labels(y, Z.shape[1:], F4)

    masked = loss(Z, y, kept.astype(np.float32), "linear", Workspace())
    left = loss(Z[kept], y[kept], None, "linear", Workspace())

    assert (masked.total, masked.weight) == pytest.approx((left.total, left.weight), rel=1e-6)
    np.testing.assert_array_equal(masked.gradient[~kept], 0)
    np.testing.assert_allclose(masked.gradient[kept], left.gradient, rtol=1e-6)
    hits = loss.hits(Z, y, kept.astype(np.float32), "linear"), loss.hits(Z[kept], y[kept], None, "linear")
    assert hits[0] == hits[1]


@pytest.mark.parametrize(("loss", "y"), EVERY)
@given(cut=st.integers(0, 6))
def test_sums_of_shards_are_the_sum_of_the_batch(loss, y, cut):
    Z, weights = STEPS.astype(np.float32), MASK.astype(np.float32)
    y = loss.labels(y, Z.shape[1:], F4)

    whole = loss(Z, y, weights, "linear", Workspace())
    parts = [loss(Z[at], y[at], weights[at], "linear", Workspace()) for at in (slice(cut), slice(cut, None))]

    assert sum(part.weight for part in parts) == pytest.approx(whole.weight, rel=1e-6)
    assert sum(part.total for part in parts) == pytest.approx(whole.total, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(np.concatenate([part.gradient for part in parts]), whole.gradient, rtol=1e-6)


def test_only_labels_that_may_be_missing_are():
    with pytest.raises(ModelError, match="label of row 0 is nan"):
        MeanSquaredError().labels(np.array([np.nan, 1]), (1,), F4)
    with pytest.raises(ModelError, match="label of row 1 is inf"):
        MeanSquaredError(skip_missing=True).labels(np.array([np.nan, np.inf]), (1,), F4)
    with pytest.raises(ModelError, match=r"label of row 2 is 2\.0"):
        BinaryCrossEntropy(skip_missing=True).labels(np.array([np.nan, 1, 2]), (1,), F4)
    with pytest.raises(ModelError, match="label of row 1 is -2"):
        SparseCategoricalCrossEntropy(ignored=-1).labels(np.array([-1, -2]), (3,), F4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Huber(0), "delta is 0, expected a positive number"),
        (lambda: MeanSquaredError(outputs="max"), "outputs is 'max', expected 'mean' or 'sum'"),
        (lambda: BinaryCrossEntropy(label_smoothing=1), "label_smoothing is 1, expected 0 <="),
        (lambda: CategoricalCrossEntropy(label_smoothing=-0.1), "label_smoothing is -0.1"),
    ],
)
def test_settings_of_losses_that_cannot_work_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()
