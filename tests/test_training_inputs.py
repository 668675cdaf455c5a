"""What a job reads beside one matrix: several columns of samples for a graph, weights of rows, classes that count alike."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow import registry
from dlflow.data import Batches, Dataset, TableFile, sample_field
from dlflow.errors import ModelError
from dlflow.nn import (
    GRU,
    SGD,
    Adam,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Concatenate,
    Conv2D,
    Dense,
    Embedding,
    Flatten,
    Graph,
    Input,
    MeanSquaredError,
    Model,
    Sequential,
    SparseCategoricalCrossEntropy,
    join,
)
from dlflow.parallel.testing import ThreadRing, on_every_rank
from dlflow.training import Job, fit, train
from dlflow.training.balance import balance
from dlflow.training.checkpoint import load_weights

ROWS = 230
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (ROWS, 4, 4, 1)).astype(np.uint8)
WORDS = RNG.integers(1, 9, (ROWS, 5)).astype(np.int32)
ROW = RNG.standard_normal((ROWS, 3)).astype(np.float32)
LABEL = (IMAGE[:, 1, 1, 0] / 255 + (WORDS[:, 0] > 4) + ROW[:, 0] > 1).astype(np.int32)
WEIGHT = RNG.choice([0.0, 1.0, 2.5], ROWS)
SHARES = {"image": IMAGE.astype(np.float32) / np.float32(255), "words": WORDS, "row": ROW}


def samples(values, dtype, **metadata):
    width = values.dtype.itemsize * values[0].size
    field = pa.field("", pa.binary(width), nullable=False)
    made = pa.FixedSizeBinaryArray.from_buffers(
        field.type, len(values), [None, pa.py_buffer(np.ascontiguousarray(values).tobytes())]
    )
    facts = {**sample_field(values.shape[1:]).metadata, b"dtype": dtype.encode()}
    return made, field.with_metadata({**facts, **{key: str(value) for key, value in metadata.items()}})


def table(folder, *, weight=WEIGHT, label=LABEL, row_group=60, name="rows"):
    columns = {
        "image": samples(IMAGE, "uint8", scale=1 / 255),
        "words": samples(WORDS, "int32"),
        "row": samples(ROW, "float32"),
    }
    fields = [field.with_name(name_) for name_, (_, field) in columns.items()]
    schema = pa.schema([*fields, pa.field("y", pa.int32()), pa.field("weight", pa.float64())])
    made = pa.table([*(array for array, _ in columns.values()), pa.array(label), pa.array(weight)], schema)
    path = folder / f"{name}.parquet"
    pq.write_table(made, path, row_group_size=row_group)
    return Dataset((TableFile.of(path),), x=("image", "words", "row"))


def graph():
    image, words, row = Input((4, 4, 1), "image"), Input(5, "words"), Input(3, "row")
    seen = join(image, Conv2D(2, 3, activation="relu"), Flatten())
    read = join(words, Embedding(9, 3), GRU(4))
    return Graph.of(join((seen, read, row), Concatenate(), Dense(8, "tanh"), Dense(1, "sigmoid")))


def job(where, **settings):
    chosen = {
        "layers": graph(),
        "loss": BinaryCrossEntropy(),
        "optimizer": Adam(0.02),
        "batch": 32,
        "epochs": 2,
        "shards": 4,
        "folder": str(where / "run"),
    }
    if "train" not in settings:
        chosen["train"] = table(where)
    return Job(**chosen | settings)


def test_a_dataset_of_several_columns_gives_each_as_it_is_stored(tmp_path):
    found = replace(table(tmp_path), weight="weight")

    X, y = found.read()

    for made, expected in zip(X, SHARES.values(), strict=True):
        np.testing.assert_allclose(made, expected, rtol=1e-6)
        assert made.dtype == expected.dtype
    assert np.array_equal(y, LABEL)
    assert [form[0] for form in found.forms] == [(4, 4, 1), (5,), (3,), (), ()]


def test_rows_stay_together_with_their_inputs_labels_and_weights(tmp_path):
    batches = Batches(replace(table(tmp_path), weight="weight"), batch=50, seed=3, window_rows=100)
    seen = []
    for step in range(batches.steps):
        (image, words, row), y, weights = batches.take_weighted(1, step, 0, batches.size(step))
        for at in range(len(y)):
            place = int(np.flatnonzero((row[at] == ROW).all(axis=1))[0])
            seen.append(place)
            assert np.array_equal(words[at], WORDS[place])
            np.testing.assert_allclose(image[at], SHARES["image"][place], rtol=1e-6)
            assert y[at] == LABEL[place]
            assert weights[at] == np.float32(WEIGHT[place])

    assert sorted(seen) == list(range(ROWS))
    X, y, weights = batches.take_weighted(0, 0, 5, 5)
    assert [each.shape for each in X] == [(0, 4, 4, 1), (0, 5), (0, 3)]
    assert len(weights) == 0


def test_a_graph_is_trained_by_a_job_to_the_bits_of_its_batches(tmp_path):
    chosen = job(tmp_path, epochs=25)
    outcome = fit(chosen)

    model = chosen.model()
    model.w[:] = load_weights(outcome.weights, sha256=outcome.weights_sha256)
    registry.save(tmp_path / "model", weights=model.w, layers=model.graph)
    again, _ = registry.load(tmp_path / "model")

    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"] / 2
    assert np.array_equal(again.predict(SHARES), model.predict(SHARES))
    assert ((model.predict(SHARES)[:, 0] > 0.5) == LABEL).mean() > 0.85


def test_the_losses_of_a_job_with_weights_are_weighted_means(tmp_path):
    """One step over all rows, so that the loss is that of the first weights."""
    data = replace(table(tmp_path), weight="weight")
    chosen = job(tmp_path, train=data, validation=data, batch=ROWS, epochs=1, optimizer=SGD(1e-30), shards=1)

    (line,) = fit(chosen).history

    model = Model(graph())
    model.init(0)
    model.gradient(BinaryCrossEntropy(), SHARES, LABEL, weights=WEIGHT)
    expected = model.finish()
    assert line["loss"] == pytest.approx(expected, rel=1e-5)
    assert line["val_loss"] == pytest.approx(expected, rel=1e-5)
    right = (model.predict(SHARES)[:, 0] > 0.5) == LABEL
    assert line["val_accuracy"] == pytest.approx((WEIGHT * right).sum() / WEIGHT.sum())


def test_rows_of_weight_one_are_rows_without_weights(tmp_path):
    ones = replace(table(tmp_path, weight=np.ones(ROWS), name="ones"), weight="weight")

    with_weights = fit(job(tmp_path, train=ones, folder=str(tmp_path / "a")))
    without = fit(job(tmp_path, train=replace(ones, weight=None), folder=str(tmp_path / "b")))

    assert with_weights.weights_sha256 == without.weights_sha256


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.where(np.arange(ROWS) == 70, -1.0, 1), "column 'weight', row 70: weight is -1.0"),
        (np.where(np.arange(ROWS) == 7, np.nan, 1), "row 7: weight is nan"),
        (pa.array([None, *[1.0] * (ROWS - 1)]), "missing in row 0"),
    ],
)
def test_weights_that_are_none_are_told_with_their_row(tmp_path, weight, message):
    found = replace(table(tmp_path, weight=weight), weight="weight")

    with pytest.raises(ModelError, match=message):
        fit(job(tmp_path, train=found))


def test_columns_that_do_not_fit_the_inputs_are_told(tmp_path):
    other = replace(table(tmp_path), x=("words", "image", "row"))

    with pytest.raises(ModelError, match=r"expected those of the inputs \{'image'.*name them so in Dataset"):
        fit(job(tmp_path, train=other))
    with pytest.raises(ModelError, match="expected one here"):
        fit(job(tmp_path, layers=(Dense(1),)))


def skewed(folder):
    """Nine of ten rows are of class 0."""
    return table(folder, label=(np.arange(ROWS) % 10 == 0).astype(np.int32), name="skewed")


def test_balanced_classes_count_alike(tmp_path):
    data = skewed(tmp_path)

    two = balance(BinaryCrossEntropy(label_smoothing=0.1), data, 1)
    many = balance(SparseCategoricalCrossEntropy(), data, 2)

    assert two.class_weights == pytest.approx((230 / (2 * 207), 230 / (2 * 23)))
    assert many.class_weights == two.class_weights
    assert two.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("loss", "outputs", "message"),
    [
        (MeanSquaredError(), 1, "mean_squared_error has no classes"),
        (CategoricalCrossEntropy(), 2, "has one-hot labels, expected class numbers"),
        (BinaryCrossEntropy(class_weights=(1, 2)), 1, r"has class_weights \[1, 2\] already"),
        (SparseCategoricalCrossEntropy(), 3, "class 2 has no row among 230"),
    ],
)
def test_what_cannot_be_balanced_is_told(tmp_path, loss, outputs, message):
    with pytest.raises(ModelError, match=message):
        balance(loss, skewed(tmp_path), outputs)


@pytest.mark.parametrize("loss", ["sparse_categorical_cross_entropy", "categorical_cross_entropy"])
def test_sequential_balances_classes_as_their_weights_would(loss):
    y = (np.arange(ROWS) % 10 == 0).astype(int)
    labels = y if loss.startswith("sparse") else np.eye(2)[y]
    models = []
    for weights in ("balanced", dict(enumerate([230 / (2 * 207), 230 / (2 * 23)]))):
        model = Sequential([Dense(2, "softmax")])
        model.compile(optimizer="adam", loss=loss)
        model.fit(ROW, labels, epochs=2, class_weight=weights)
        models.append(model.model.w.copy())

    assert np.array_equal(*models)
    with pytest.raises(ModelError, match="class_weight is 'balance', expected 'balanced'"):
        model.fit(ROW, labels, class_weight="balance")


def test_the_accuracy_of_an_epoch_is_that_of_its_rows_as_they_were_trained_on(tmp_path):
    """The weights stay, so that every step sees the first ones; rows of weight 0 do not count, others count once."""
    data = replace(table(tmp_path), weight="weight")
    model = Model(graph())
    model.init(0)
    right = ((model.predict(SHARES)[:, 0] > 0.5) == LABEL)[WEIGHT > 0].mean()

    history = fit(job(tmp_path, train=data, optimizer=SGD(1e-30))).history

    assert [line["accuracy"] for line in history] == pytest.approx([right, right])


@pytest.mark.parametrize("size", [2, 3])
def test_several_ranks_give_the_weights_and_accuracies_of_one(tmp_path, size):
    data = replace(table(tmp_path), weight="weight")
    alone = fit(job(tmp_path / "one", train=data, validation=data))

    this = job(tmp_path / "many", train=data, validation=data)
    (first, *others) = on_every_rank(ThreadRing(size), lambda comm: train(this, comm))

    assert {each.weights_sha256 for each in (first, *others)} == {alone.weights_sha256}
    for name in ("accuracy", "val_accuracy", "loss"):
        assert [line[name] for line in first.history] == [line[name] for line in alone.history]
