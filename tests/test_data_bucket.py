"""Batches of similar length: every row once, in an order that is still random, cut to the longest; and what is trained on them."""

from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.data import Batches, Dataset, TableFile
from dlflow.errors import ModelError
from dlflow.nn import (
    LSTM,
    Adam,
    BinaryCrossEntropy,
    Dense,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Model,
    PositionalEmbedding,
)
from dlflow.parallel.testing import ThreadRing, on_every_rank
from dlflow.training import Job, fit, train
from dlflow.training.checkpoint import load_weights
from tests.projects import run
from tests.test_data_batches import InMemory, layouts, settings_of_batches
from tests.test_training_trainer import told

LENGTH = 20


class Tokens(InMemory):
    """Row i has (7 i) % 21 tokens, which are i + 1, and the label i."""

    shape = (LENGTH,)
    dtype = np.dtype(np.int32)

    def group(self, file, group):
        _, numbers = super().group(file, group)
        return np.where(np.arange(LENGTH) < (7 * numbers[:, None]) % 21, numbers[:, None] + 1, 0).astype(
            np.int32
        ), numbers


def tokens(groups, kind=None):
    return (kind or Tokens)(tuple(TableFile(str(number), tuple(rows)) for number, rows in enumerate(groups)))


def taken(batches, epoch, pieces=1):
    """Rows and labels of each step, each step taken in so many pieces."""
    for step in range(batches.steps):
        edges = [batches.size(step) * piece // pieces for piece in range(pieces + 1)]
        yield [batches.take(epoch, step, low, high) for low, high in pairwise(edges)]


class Before(Tokens):
    """The same with the padding before the tokens."""

    def group(self, file, group):
        X, numbers = super().group(file, group)
        return X[:, ::-1], numbers


@settings(max_examples=40)
@given(layouts, settings_of_batches, st.integers(1, 4), st.sampled_from([Tokens, Before]))
def test_every_row_is_in_one_batch_whole_but_for_its_padding_however_it_is_taken(
    layout, options, pieces, kind
):
    whole = [y.tolist() for ((_, y),) in taken(Batches(tokens(layout), bucket=True, **options), 3)]
    for step, parts in enumerate(taken(Batches(tokens(layout, kind), bucket=True, **options), 3, pieces)):
        assert list(chain.from_iterable(y.tolist() for _, y in parts)) == whole[step]
        for X, y in parts:
            counted = (7 * y) % 21
            assert np.array_equal((X != 0).sum(axis=1), counted)
            assert not len(y) or X.shape[1] == max(1, counted.max())
            assert np.all((X == 0) | (y[:, None] + 1 == X))

    assert sorted(chain.from_iterable(whole)) == list(range(sum(map(sum, layout))))


def share_of_padding(batches):
    parts = [X for each in taken(batches, 0) for X, _ in each]
    return sum(np.count_nonzero(X == 0) for X in parts) / sum(X.size for X in parts)


def test_little_is_padding_and_batches_of_all_lengths_come_at_any_time():
    data, options = tokens([[500] * 8]), {"batch": 16, "seed": 5}
    bucketed = Batches(data, bucket=True, **options)
    lengths = [((7 * y) % 21).mean() for each in taken(bucketed, 0) for _, y in each]

    assert share_of_padding(bucketed) < 0.15
    assert share_of_padding(Batches(data, **options)) > 0.45
    assert abs(np.corrcoef(lengths, np.arange(len(lengths)))[0, 1]) < 0.2
    of_epochs = [
        [frozenset(y.tolist()) for each in taken(bucketed, epoch) for _, y in each] for epoch in (0, 1)
    ]
    assert len(set(of_epochs[0]) & set(of_epochs[1])) < 3  # other rows meet in every epoch


def test_rows_of_other_kinds_have_no_buckets():
    with pytest.raises(ModelError, match="bucket: column 'x' has no sequences of tokens"):
        Batches(InMemory((TableFile("0", (5,)),)), batch=2, seed=1, bucket=True)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """400 texts of 1 to 20 of 30 words, of which word 5 decides."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("bucket") / "texts.parquet"
    X = np.where(
        np.arange(LENGTH) < rng.integers(1, LENGTH + 1, 400)[:, None], rng.integers(1, 30, (400, LENGTH)), 0
    )
    field = pa.field(
        "x", pa.binary(4 * LENGTH), nullable=False, metadata={"dtype": "int32", "shape": f"[{LENGTH}]"}
    )
    rows = pa.FixedSizeBinaryArray.from_buffers(
        field.type, 400, [None, pa.py_buffer(X.astype(np.int32).tobytes())]
    )
    labels = pa.array((X == 5).any(axis=1).astype(np.int32))
    pq.write_table(
        pa.table([rows, labels], pa.schema([field, pa.field("y", pa.int32())])), path, row_group_size=90
    )
    return Dataset((TableFile.of(path),))


LAYERS = (Embedding(30, 8, mask_zero=True), LSTM(8, dropout=0.1), Dense(1, activation="sigmoid"))


def reader(texts, folder, **settings):
    chosen = {
        "layers": LAYERS,
        "batch": 32,
        "epochs": 3,
        "shards": 4,
        "validation": texts,
        "bucket": True,
        **settings,
    }
    return Job(loss=BinaryCrossEntropy(), optimizer=Adam(0.02), train=texts, folder=str(folder), **chosen)


def test_a_model_trained_on_buckets_has_the_bits_of_one_rank_and_tells_its_padding(texts, tmp_path):
    outcome = fit(reader(texts, tmp_path / "one"))
    plain = fit(reader(texts, tmp_path / "plain", bucket=False))
    this = reader(texts, tmp_path / "three")
    outcomes = on_every_rank(ThreadRing(3), lambda comm: train(this, comm))

    assert {each.weights_sha256 for each in outcomes} == {outcome.weights_sha256}
    assert told(outcomes[1].history) == told(outcome.history)
    assert all(line["padding"] < 0.1 for line in outcome.history)
    X, y = texts.read()
    assert {line["padding"] for line in plain.history} == {np.count_nonzero(X == 0) / X.size}
    model = Model(
        LAYERS, (LENGTH,)
    )  # the answers to texts with all their padding are those of the validation without
    model.w[...] = load_weights(outcome.weights, sha256=outcome.weights_sha256)
    Z = model.outputs(X)[:, 0].astype(np.float64)
    loss = np.mean(np.logaddexp(0, Z) - y * Z)
    assert outcome.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((Embedding(30, 8), LSTM(8), Dense(1)), "it answers otherwise to a sequence with more padding"),
        (  # of padding before the tokens: it moves them
            (
                Embedding(30, 8, mask_zero=True),
                PositionalEmbedding(False),
                GlobalAveragePooling1D(),
                Dense(1),
            ),
            "it answers otherwise to a sequence with more padding",
        ),
        (
            (Embedding(30, 8, mask_zero=True), Flatten(), Dense(1)),
            "bucket: the model needs sequences of 20 tokens: ",
        ),
        (
            (Embedding(30, 8, mask_zero=True), LSTM(8, return_sequences=True), Dense(1)),
            "needs sequences of 20 tokens",
        ),
    ],
)
def test_models_that_see_padding_are_refused(texts, tmp_path, layers, why):
    with pytest.raises(ModelError, match=why):
        fit(reader(texts, tmp_path, layers=layers))


def test_a_model_of_full_length_does_not_take_less(texts):
    with pytest.raises(ModelError, match="expected"):
        Model(LAYERS, (LENGTH,)).outputs(texts.read()[0][:, :7])


def test_a_pipeline_asks_for_buckets_with_one_word(tmp_path):
    lines = [
        f"{'spam' if number % 3 else 'ham'}\t{'word ' * (1 + number % 9)}{'buy' if number % 3 else 'hello'} {number}\n"
        for number in range(300)
    ]
    (tmp_path / "texts.tsv").write_text("".join(lines))
    (tmp_path / "pipeline.toml").write_text(FILE)

    (record,) = run(tmp_path)["models"]

    assert record["history"][0]["padding"] < 0.2
    assert record["metrics"]["test"]["accuracy"] > 0.9


FILE = """
name = "texts"
[sources.texts]
kind = "text"
path = "texts.tsv"
label = "first"
columns = { label = "string", text = "string" }
[tables.words]
source = "texts"
steps = [
  { do = "split", by = ["text"], test = 0.3 },
  { do = "features", label = "label", columns = { text = { encode = "tokens", length = 20, vocabulary = 20 } } },
]
partition_by = ["split"]
[models.m]
table = "words"
layers = [{ layer = "embedding", vocabulary = 22, units = 8, mask_zero = true }, { layer = "lstm", units = 8 }, { layer = "dense", units = 1 }]
loss = "binary_cross_entropy"
optimizer = { kind = "adam", learning_rate = 0.02 }
batch = 32
epochs = 6
bucket = true
"""
