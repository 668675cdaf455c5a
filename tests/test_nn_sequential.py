"""The Keras-like face: two classic problems, equal bits for equal seeds, and errors that teach."""

import numpy as np
import pytest

from dlflow.errors import ModelError, NonFinite
from dlflow.nn import SGD, Adam, Dense, Dropout, Model, Sequential, Stream


def line(rows=100, seed=0):
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, rows)
    return x[:, None], 2 * x + 1 + rng.uniform(0, 1, rows)


def blobs(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return rng.standard_normal((rows, 4)) + 3 * np.eye(3, 4)[y], y


def test_linear_regression_finds_the_line():
    """L1: y = 2 x + 1 + U(0, 1); the noise has mean 1/2 and variance 1/12."""
    X, y = line(200)
    model = Sequential([Dense(1)], seed=1)
    model.compile(optimizer=SGD(learning_rate=0.01), loss="mean_squared_error")

    history = model.fit(X, y, batch_size=1, epochs=100)

    slope, intercept = model.model.w
    assert abs(slope - 2) < 0.1
    assert abs(intercept - 1.5) < 0.05
    assert abs(history[-1]["loss"] - 1 / 12) < 0.02


def test_the_line_is_that_of_least_squares():
    X, y = line()
    model = Sequential([Dense(1)])
    model.compile(optimizer=SGD(learning_rate=0.3), loss="mean_squared_error")

    model.fit(X, y, batch_size=100, epochs=200)

    np.testing.assert_allclose(model.model.w, np.polyfit(X[:, 0], y, 1), rtol=1e-5)


def test_a_small_tanh_network_learns_xor():
    """L2: 4 of 4 right, loss below 0.01."""
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    model = Sequential([Dense(4, "tanh"), Dense(1, "sigmoid")], seed=2)
    model.compile(optimizer=SGD(learning_rate=0.5, momentum=0.9), loss="binary_cross_entropy")

    model.fit(X, y, batch_size=4, epochs=400)

    measured = model.evaluate(X, y)
    assert measured["accuracy"] == 1
    assert measured["loss"] < 0.01
    assert ((model.predict(X)[:, 0] > 0.5) == y).all()


@pytest.mark.parametrize("loss", ["sparse_categorical_cross_entropy", "categorical_cross_entropy"])
def test_three_classes_are_told_apart(loss):
    X, y = blobs()
    labels = y if loss.startswith("sparse") else np.eye(3)[y]
    model = Sequential([{"layer": "dense", "units": 8, "activation": "relu"}, Dense(3, "softmax")])
    model.compile(optimizer={"optimizer": "adam", "learning_rate": 0.01}, loss=loss)

    history = model.fit(X, labels, epochs=20, validation_data=(X, labels))

    assert history[-1]["val_accuracy"] > 0.9
    assert history[-1]["val_loss"] < history[0]["val_loss"] / 2
    np.testing.assert_allclose(model.predict(X).sum(axis=1), 1, rtol=1e-5)


def trained(epochs=(3,), seed=5, **options):
    X, y = blobs()
    model = Sequential([Dense(8, "relu"), Dropout(0.3), Dense(3, "softmax")], seed=seed)
    model.compile(optimizer=Adam(), loss="sparse_categorical_cross_entropy")
    for number in epochs:
        model.fit(X, y, epochs=number, batch_size=32, **options)
    return model


def test_equal_seeds_give_equal_bits():
    first, second, other = trained(), trained(), trained(seed=6)

    assert np.array_equal(first.model.w, second.model.w)
    assert first.history == second.history
    assert not np.array_equal(first.model.w, other.model.w)


def test_fitting_twice_is_fitting_on():
    assert np.array_equal(trained((1, 2)).model.w, trained((3,)).model.w)


def test_rows_of_weight_zero_are_as_if_they_were_not_there():
    X, y = blobs()
    kept = np.arange(120) < 64
    models = []
    for rows, weights in ((slice(None), kept.astype(float)), (kept, None)):
        model = Sequential([Dense(3, "softmax")])
        model.compile(optimizer=SGD(), loss="sparse_categorical_cross_entropy")
        model.fit(X[rows], y[rows], batch_size=32, epochs=3, sample_weight=weights, shuffle=False)
        models.append(model)

    np.testing.assert_allclose(models[0].model.w, models[1].model.w, atol=1e-6)


def test_every_epoch_has_its_own_order_of_all_rows(monkeypatch):
    X = np.arange(10.0)[:, None]
    seen = []

    def finish(self, message=None, **segment):
        seen.append(round(float(self.g[0])))  # at weight 0 the gradient is -2 y: it tells which row this is
        return finished(self, message, **segment)

    finished = Model.finish
    monkeypatch.setattr(Model, "finish", finish)
    model = Sequential([Dense(1, use_bias=False, initializer="zeros")])
    model.compile(optimizer=SGD(learning_rate=1e-30), loss="mean_squared_error")
    model.fit(np.ones_like(X), -X / 2, batch_size=1, epochs=2)

    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert first == Stream(0, "shuffle").permutation(10).tolist()


def test_progress_is_reported_once_per_epoch():
    lines = []

    model = trained(report=lines.append)

    assert lines == model.history
    assert [each["epoch"] for each in lines] == [0, 1, 2]


def test_the_loss_of_evaluate_includes_weight_decay():
    X, y = line()
    free, bound = Sequential([Dense(1)], 1), Sequential([Dense(1, l2=0.5)], 1)
    for model in (free, bound):
        model.compile(optimizer="sgd", loss="mean_squared_error")

    extra = bound.evaluate(X, y)["loss"] - free.evaluate(X, y)["loss"]

    assert extra == pytest.approx(0.5 * float(bound.model.w[0]) ** 2, rel=1e-5)


def test_accuracy_counts_the_weights_of_the_samples():
    X, y = np.array([[1.0], [-1.0], [2.0]]), np.array([1, 1, 1])
    model = Sequential([Dense(1, "sigmoid", initializer="ones")], 1)
    model.compile(optimizer="sgd", loss="binary_cross_entropy")

    assert model.evaluate(X, y)["accuracy"] == pytest.approx(2 / 3)
    assert model.evaluate(X, y, sample_weight=np.array([1, 6, 1]))["accuracy"] == pytest.approx(1 / 4)


def test_the_summary_counts_parameters():
    model = Sequential([Dense(8), Dropout(0.5), Dense(3)], 4)

    assert model.summary().splitlines()[-1].split() == ["total", "67"]
    assert "dense                       (8,)                          40" in model.summary()


def test_training_that_diverges_says_where():
    X, y = line()
    model = Sequential([Dense(4, "relu"), Dense(1)])
    model.compile(optimizer=SGD(learning_rate=1e6), loss="mean_squared_error")

    with pytest.raises(NonFinite, match=r"epoch 0, step \d+: loss of the batch .* lower the learning rate"):
        model.fit(X, y, epochs=3)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, X, y: m.fit(X, y), r"call compile\("),
        (lambda m, X, y: m.compile(optimizer="adma", loss="mean_squared_error"), "did you mean 'adam'"),
        (lambda m, X, y: m.compile(optimizer="adam", loss="mse"), "known: .*'mean_squared_error'"),
        (lambda m, X, y: compiled(m).fit(X, y[:5]), "X has 120 rows, y has 5"),
        (lambda m, X, y: compiled(m).fit(X[:, 0], y), r"reshape one feature per row with X.reshape\(-1, 1\)"),
        (lambda m, X, y: compiled(m).fit(X, y, batch_size=0), "batches of 0"),
        (lambda m, X, y: compiled(m).fit(X[:0], y[:0]), "0 rows"),
        (lambda m, X, y: compiled(m).evaluate(X[:0], y[:0]), "no rows to evaluate"),
        (lambda m, X, y: compiled(m).fit(X, y, sample_weight=np.ones(3)), r"expected \(120,\)"),
        (lambda m, X, y: compiled(m).fit(X, y, sample_weight=-np.ones(120)), "0 or more"),
        (lambda m, X, y: compiled(m).fit(np.where(X > 2, np.nan, X), y), "X holds nan or inf in row"),
        (lambda m, X, y: compiled(m).fit(X, y + 1), r"label of row 2 is 3 .* expected a class from 0 to 2"),
        (lambda m, X, y: m.summary(), "give in_shape, or fit"),
    ],
)
def test_mistakes_are_told_what_to_do(act, message):
    with pytest.raises(ModelError, match=message):
        act(Sequential([Dense(3)]), *blobs())


def compiled(model):
    model.compile(optimizer="adam", loss="sparse_categorical_cross_entropy")
    return model


def test_a_built_model_takes_no_more_layers():
    model = Sequential([], 4)
    model.add(Dense(2))
    model.add({"layer": "activation", "function": "softmax"})
    assert model.model.out_shape == (2,)

    with pytest.raises(ModelError, match=r"expected add\(\) before fit\(\)"):
        model.add(Dense(1))


def test_a_loss_that_does_not_fit_is_refused_when_it_is_chosen():
    with pytest.raises(ModelError, match="'relu', expected 'sigmoid'"):
        Sequential([Dense(1, "relu")], 4).compile(optimizer="sgd", loss="binary_cross_entropy")


def test_accumulated_batches_are_one_step():
    X, y = blobs()
    models = []
    for options in ({"batch_size": 48}, {"batch_size": 16, "accumulate": 3}):
        model = Sequential([Dense(8, "tanh"), Dense(3, "softmax")])
        model.compile(optimizer=SGD(0.1), loss="sparse_categorical_cross_entropy")
        model.fit(X, y, epochs=3, **options)
        models.append(model)

    np.testing.assert_allclose(models[0].model.w, models[1].model.w, atol=1e-6)
    assert models[0].history[-1]["loss"] == pytest.approx(models[1].history[-1]["loss"], rel=1e-6)


def test_a_validation_split_takes_the_last_rows():
    X, y = blobs(100)
    models = []
    for rows, options in (
        (slice(None), {"validation_split": 0.25, "sample_weight": np.arange(100.0)}),
        (
            slice(75),
            {"validation_data": (X[75:], y[75:], np.arange(75.0, 100)), "sample_weight": np.arange(75.0)},
        ),
    ):
        model = Sequential([Dense(3, "softmax")])
        model.compile(optimizer="adam", loss="sparse_categorical_cross_entropy")
        model.fit(X[rows], y[rows], epochs=2, **options)
        models.append(model)

    assert models[0].history == models[1].history
    assert np.array_equal(models[0].model.w, models[1].model.w)


@pytest.mark.parametrize("loss", ["sparse_categorical_cross_entropy", "categorical_cross_entropy"])
def test_class_weights_are_sample_weights(loss):
    X, y = blobs()
    labels = y if loss.startswith("sparse") else np.eye(3)[y]
    models = []
    for options in ({"class_weight": {0: 2.0, 2: 0.5}}, {"sample_weight": np.array([2, 1, 0.5])[y]}):
        model = Sequential([Dense(3, "softmax")])
        model.compile(optimizer="adam", loss=loss)
        model.fit(X, labels, **options)
        models.append(model)

    assert np.array_equal(models[0].model.w, models[1].model.w)


def test_metrics_are_told_by_name():
    import sklearn.metrics as sk

    X, y = blobs()
    model = Sequential([Dense(3, "softmax")])
    model.compile(
        optimizer="adam", loss="sparse_categorical_cross_entropy", metrics=["top_2_accuracy", "macro_f1"]
    )

    line = model.fit(X, y, validation_data=(X, y))[0]

    P = model.predict(X)
    assert line["val_macro_f1"] == pytest.approx(sk.f1_score(y, P.argmax(axis=1), average="macro"))
    assert line["val_top_2_accuracy"] == pytest.approx(sk.top_k_accuracy_score(y, P, k=2))
    with pytest.raises(ModelError, match="unknown metric 'auk' for this loss; did you mean 'auc'"):
        model.compile(optimizer="adam", loss="binary_cross_entropy", metrics=["auk"])


def test_metrics_pass_over_what_does_not_count():
    X = np.arange(6.0).reshape(3, 2, 1)  # 3 rows of 2 positions
    model = Sequential([Dense(1, initializer="ones")])
    model.compile(optimizer="sgd", loss={"loss": "mean_squared_error", "skip_missing": True}, metrics=["mae"])
    y = X + np.array([[[1], [np.nan]], [[2], [3]], [[100], [4]]])

    found = model.evaluate(X, y, sample_weight=np.array([[1, 1], [1, 1], [0, 1]]))

    assert found["mae"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert found["loss"] == pytest.approx((1 + 4 + 9 + 16) / 4)


def test_the_average_of_the_weights_is_what_is_validated_and_used():
    X, y = blobs()
    plain, averaged = trained(), Sequential([Dense(8, "relu"), Dropout(0.3), Dense(3, "softmax")], seed=5)
    averaged.compile(optimizer=Adam(average=0.9), loss="sparse_categorical_cross_entropy")

    for _ in range(3):  # in three calls, as the plain one in one
        line = averaged.fit(X, y, batch_size=32, validation_data=(X, y))[0]

    assert [each["loss"] for each in averaged.history] == [each["loss"] for each in plain.history]
    assert not np.array_equal(averaged.model.w, plain.model.w)
    assert averaged.evaluate(X, y)["loss"] == line["val_loss"]


def test_the_history_has_the_accuracy_of_the_training_rows():
    X, y = blobs()
    model = Sequential([Dense(3, "softmax")], seed=1)
    model.compile(optimizer=SGD(1e-30), loss="sparse_categorical_cross_entropy")

    line = model.fit(X, y, accumulate=2, sample_weight=np.where(y == 2, 0.0, 3.0))[0]

    assert line["accuracy"] == pytest.approx((model.predict(X).argmax(axis=1) == y)[y != 2].mean())
