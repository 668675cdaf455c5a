"""Calibration finds the scale and offsets that make probabilities true, and leaves an ordinary model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize

from dlflow.data import Dataset, TableFile, sample_field
from dlflow.errors import ModelError
from dlflow.nn import (
    Activation,
    BinaryCrossEntropy,
    Dense,
    Flatten,
    MeanSquaredError,
    Model,
    SparseCategoricalCrossEntropy,
)
from dlflow.training.calibration import calibrate, check_calibration, fit_calibration

N = 20_000


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_scale_and_offset_of_two_classes_are_found():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(N, 1))
    y = rng.random(N) < sigmoid(z[:, 0])

    found = fit_calibration(3 * z + 2, y)  # too sure, and too often "yes"

    assert found.scale == pytest.approx(1 / 3, rel=0.05)
    assert found.offsets == pytest.approx((-2 / 3,), abs=0.05)
    assert found.log_loss_after < found.log_loss_before - 0.3


@pytest.mark.parametrize("seed", range(3))
def test_no_other_scale_and_offsets_are_better(seed):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(500, 3)) * 4
    y = np.array([rng.choice(3, p=np.exp(z / 4) / np.exp(z / 4).sum()) for z in Z])

    def loss(theta):
        raw = theta[0] * Z + np.array([0, *theta[1:]])
        return float(np.mean(np.log(np.exp(raw).sum(axis=1)) - raw[np.arange(500), y]))

    found = fit_calibration(Z, y)

    assert found.log_loss_after == pytest.approx(minimize(loss, [1, 0, 0]).fun, abs=1e-5)


@pytest.mark.parametrize("y", [np.ones(50), np.arange(50) >= 25], ids=["one class", "told apart wholly"])
def test_rows_that_do_not_say_enough_give_numbers_all_the_same(y):
    found = fit_calibration(np.linspace(-1, 1, 50)[:, None], y)

    assert np.isfinite([found.scale, *found.offsets]).all()
    assert found.log_loss_after <= found.log_loss_before


def dataset(path, X, y):
    x = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * X.shape[1]), len(X), [None, pa.py_buffer(X)])
    schema = pa.schema([sample_field(X.shape[1:]), pa.field("y", pa.int32(), nullable=False)])
    pq.write_table(pa.table([x, pa.array(y, pa.int32())], schema=schema), path)
    return Dataset((TableFile.of(path),))


@pytest.mark.parametrize(
    ("layers", "loss"),
    [
        ((Dense(1),), BinaryCrossEntropy()),
        ((Dense(1, "sigmoid"),), BinaryCrossEntropy()),
        ((Dense(3, "softmax"),), SparseCategoricalCrossEntropy()),
        ((Dense(3), Activation("softmax")), SparseCategoricalCrossEntropy()),
    ],
    ids=["logit", "sigmoid", "softmax", "softmax apart"],
)
def test_scale_and_offsets_are_folded_into_the_last_dense_layer(layers, loss, tmp_path):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(400, 4)).astype(np.float32)
    y = (X[:, 0] + rng.normal(size=400) > 0).astype(np.int32)
    model = Model(layers, 4)
    model.w[...] = rng.normal(size=model.parameters)
    model.p[0]["W"][0] = np.arange(model.out_shape[0]) + 3  # so that a higher score is a better one
    before = model.outputs(X)

    found = calibrate(model, loss, dataset(tmp_path / "rows.parquet", X, y))

    expected = found.scale * before + np.array(found.offsets)
    np.testing.assert_allclose(model.outputs(X), expected, rtol=1e-4, atol=1e-4)
    assert found.log_loss_after < found.log_loss_before


@pytest.mark.parametrize(
    ("layers", "loss", "said"),
    [
        ((Dense(1),), MeanSquaredError(), "predicts a number"),
        ((Dense(1, use_bias=False),), BinaryCrossEntropy(), r"ends with layer 0 \(dense\), expected a dense"),
        ((Dense(1), Flatten()), BinaryCrossEntropy(), r"ends with layer 1 \(flatten\)"),
        ((Dense(1),), BinaryCrossEntropy(from_probabilities=True), "takes probabilities as they are"),
    ],
    ids=["a number", "no bias", "no dense layer", "probabilities"],
)
def test_what_cannot_be_calibrated_is_told(layers, loss, said):
    with pytest.raises(ModelError, match=said):
        check_calibration(Model(layers, 2), loss)


def test_scores_that_go_the_wrong_way_are_told():
    z = np.linspace(-1, 1, 100)

    with pytest.raises(ModelError, match="a higher score means a lower share"):
        fit_calibration(z[:, None], z < 0)
