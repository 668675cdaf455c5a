"""Networks on real data, from Python: images (MNIST), texts (SMS), series (bikes by the hour)."""

import csv
import gzip
import re
from collections import Counter

import numpy as np
import pytest

from dlflow.nn import (
    GRU,
    LSTM,
    SGD,
    Adam,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    MaxPooling1D,
    MaxPooling2D,
    Rescaling,
    Sequential,
    SimpleRNN,
    Stream,
)
from dlflow.training.numerics import one_blas_thread

pytestmark = pytest.mark.slow


@pytest.fixture
def data(data_dir):
    if not data_dir.is_dir():
        pytest.skip(f"no real data at {data_dir}; set DLFLOW_DATA to the folder of data sets")
    with one_blas_thread():
        yield data_dir


def idx(path, shape, offset):
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset).reshape(shape)


@pytest.mark.parametrize(
    ("optimizer", "epochs"),
    [(Adam(), 4), (SGD(learning_rate=0.05, momentum=0.9), 4)],
    ids=["adam", "sgd"],
)
def test_a_small_convolutional_network_reads_digits(data, optimizer, epochs, capsys):
    folder = data / "mnist"
    X, y = (
        idx(folder / "train-images-idx3-ubyte.gz", (-1, 28, 28, 1), 16),
        idx(folder / "train-labels-idx1-ubyte.gz", -1, 8),
    )
    X_test, y_test = (
        idx(folder / "t10k-images-idx3-ubyte.gz", (-1, 28, 28, 1), 16),
        idx(folder / "t10k-labels-idx1-ubyte.gz", -1, 8),
    )
    layers = [Rescaling(1 / 255), Conv2D(32, 3, activation="relu"), MaxPooling2D(2), Flatten()]
    model = Sequential([*layers, Dense(128, "relu"), Dropout(0.3), Dense(10, "softmax")])
    model.compile(optimizer=optimizer, loss="sparse_categorical_cross_entropy")

    model.fit(X, y, batch_size=128, epochs=epochs)
    accuracy = float(np.mean(model.predict(X_test).argmax(axis=1) == y_test))

    with capsys.disabled():
        print(f"\nMNIST, {optimizer.kind}, {epochs} epochs: accuracy {accuracy:.4f}")
    assert accuracy >= 0.985


WORD = re.compile(r"[a-z']+|[0-9]+|[^\sa-z0-9]")
LENGTH, VOCABULARY = 60, 4000


def tokens(texts, numbers):
    """Numbers of the words, 1 for unknown ones; short texts begin with padding, long ones lose their end."""
    out = np.zeros((len(texts), LENGTH), np.int64)
    for row, text in zip(out, texts, strict=True):
        words = [numbers.get(word, 1) for word in WORD.findall(text.lower())][:LENGTH]
        row[LENGTH - len(words) :] = words
    return out


def test_an_lstm_finds_unwanted_messages_as_well_as_a_bag_of_words(data, capsys):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    from sklearn.linear_model import LogisticRegression

    lines = dict.fromkeys((data / "sms_spam" / "sms.tsv").read_text("utf-8").splitlines())
    labels, texts = zip(*(line.split("\t", 1) for line in lines), strict=True)
    y = np.array([label == "spam" for label in labels], float)
    order = Stream(0, "shuffle").permutation(len(y))
    train, test = order[: -len(y) // 5], order[-len(y) // 5 :]
    words = Counter(word for row in train for word in WORD.findall(texts[row].lower()))
    numbers = {word: rank for rank, (word, _) in enumerate(words.most_common(VOCABULARY - 2), 2)}
    X = tokens(texts, numbers)
    model = Sequential(
        [
            Embedding(VOCABULARY, 32, mask_zero=True),
            LSTM(128, dropout=0.2, recurrent_dropout=0.2),
            Dense(1, "sigmoid"),
        ]
    )
    model.compile(optimizer=Adam(learning_rate=0.002), loss="binary_cross_entropy")

    model.fit(X[train], y[train], batch_size=64, epochs=6)
    accuracy = float(np.mean((model.predict(X[test])[:, 0] > 0.5) == y[test]))
    bag = text.CountVectorizer()
    linear = LogisticRegression(max_iter=1000).fit(bag.fit_transform([texts[row] for row in train]), y[train])
    baseline = linear.score(bag.transform([texts[row] for row in test]), y[test])

    with capsys.disabled():
        print(f"\nSMS, {len(y)} different texts: LSTM {accuracy:.4f}, bag of words {baseline:.4f}")
    assert accuracy >= baseline - 0.01
    assert accuracy > 0.97


HOURS = 48


@pytest.fixture
def bikes(data):
    """Windows of two days by the hour, and the count of the next hour, in hundreds; the last fifth of the time is the test."""
    with (data / "bike_sharing" / "hour.csv").open() as file:
        rows = list(csv.DictReader(file))
    count = np.array([float(row["cnt"]) for row in rows]) / 100
    hour, day = (np.array([float(row[name]) for row in rows]) for name in ("hr", "workingday"))
    angle = 2 * np.pi * (hour + 1) / 24  # of the hour to come
    series = np.stack([count, np.sin(angle), np.cos(angle), day], axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(series, HOURS, axis=0)[:-1].transpose(0, 2, 1)
    X, y = np.ascontiguousarray(windows, np.float32), count[HOURS:]
    cut = len(y) * 4 // 5
    return (X[:cut], y[:cut]), (X[cut:], y[cut:])


@pytest.mark.parametrize(
    "layers",
    [
        [SimpleRNN(32)],
        [LSTM(32)],
        [GRU(32)],
        [
            Conv1D(32, 5, activation="relu"),
            MaxPooling1D(2),
            Conv1D(32, 5, activation="relu"),
            Flatten(),
            Dense(32, "relu"),
        ],
    ],
    ids=["simple_rnn", "lstm", "gru", "conv1d"],
)
def test_the_next_hour_of_a_series_is_foreseen_better_than_by_the_last_or_the_mean_of_a_day(
    bikes, layers, capsys
):
    (X, y), (X_test, y_test) = bikes
    model = Sequential([*layers, Dense(1)])
    model.compile(optimizer=Adam(learning_rate=0.003), loss="mean_squared_error")

    model.fit(X, y, batch_size=128, epochs=8)

    def rmse(predicted):
        return 100 * float(np.sqrt(np.mean((predicted - y_test) ** 2)))

    errors = {
        "model": rmse(model.predict(X_test)[:, 0]),
        "last value": rmse(X_test[:, -1, 0]),
        "mean of a day": rmse(X_test[:, -24:, 0].mean(axis=1)),
    }
    with capsys.disabled():
        print(
            f"\nbikes, {layers[0].kind}: "
            + ", ".join(f"{name} {error:.1f}" for name, error in errors.items())
        )
    assert errors["model"] < 0.7 * errors["last value"]
    assert errors["model"] < errors["mean of a day"]
