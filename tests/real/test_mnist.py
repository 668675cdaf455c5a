"""L3: a multi-layer perceptron on the digits of MNIST reaches 0.98."""

import gzip

import numpy as np
import pytest

from dlflow.nn import Adam, Dense, Dropout, EarlyStopping, ReduceOnPlateau, Sequential

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits(data_dir):
    folder = data_dir / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set DLFLOW_DATA to the folder of data sets")

    def read(name, skip):
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=skip)

    def part(name):
        X = read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784)
        return X.astype(np.float32) / 255, read(f"{name}-labels-idx1-ubyte.gz", 8)

    return part("train"), part("t10k")


def test_a_perceptron_reads_98_of_100_digits(digits, tmp_path):
    (X, y), (X_test, y_test) = digits
    model = Sequential([Dense(512, "relu"), Dropout(0.2), Dense(10, "softmax")], seed=1)
    model.compile(
        optimizer=Adam(1e-3), loss="sparse_categorical_cross_entropy", metrics=["top_2_accuracy", "macro_f1"]
    )

    model.fit(
        X,
        y,
        batch_size=128,
        epochs=12,
        validation_split=1 / 12,
        callbacks=[EarlyStopping(patience=4), ReduceOnPlateau(patience=1, factor=0.3)],
    )

    found = model.evaluate(X_test, y_test)
    assert found["accuracy"] >= 0.98
    assert found["top_2_accuracy"] >= 0.99
    model.save(tmp_path / "mnist.safetensors")
    assert np.array_equal(
        Sequential.load(tmp_path / "mnist.safetensors").predict(X_test), model.predict(X_test)
    )
