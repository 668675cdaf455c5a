"""Training with embeddings: rows travel instead of tables, with the same bits for any number of ranks, and fewer bytes."""

from dataclasses import replace
from math import prod

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlflow.data import Dataset, TableFile
from dlflow.errors import ModelError, NonFinite
from dlflow.nn import SGD, Adam, BinaryCrossEntropy, Dense, Embedding, Flatten, Reshape
from dlflow.parallel.cost import LINKS
from dlflow.parallel.testing import Clocked, ThreadRing, on_every_rank
from dlflow.training import fit, train, update
from tests.training_jobs import job

VOCABULARY, TOKENS, UNITS, ROWS = 500, 6, 8, 300
SHAPES = [(2,), (3,), (2, 2, 2)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Rows of tokens, of which some are frequent."""
    chance = np.random.default_rng(0)
    X = (chance.random((ROWS, TOKENS)) ** 3 * VOCABULARY).astype(np.int32)
    field = pa.field(
        "x", pa.binary(4 * TOKENS), nullable=False, metadata={"dtype": "int32", "shape": f"[{TOKENS}]"}
    )
    values = pa.FixedSizeBinaryArray.from_buffers(field.type, ROWS, [None, pa.py_buffer(X.tobytes())])
    label = pa.array((X.sum(1) > X.sum(1).mean()).astype(np.int32))
    path = tmp_path_factory.mktemp("texts") / "train.parquet"
    pq.write_table(pa.table([values, label], schema=pa.schema([field, pa.field("y", pa.int32())])), path)
    return Dataset((TableFile.of(path),))


LAYERS = (
    Embedding(VOCABULARY, UNITS),
    Flatten(),
    Dense(16, activation="relu"),
    Dense(1, activation="sigmoid"),
)


def reading(texts, folder, name="run", **settings):
    chosen = {
        "layers": LAYERS,
        "loss": BinaryCrossEntropy(),
        "train": texts,
        "validation": None,
        "batch": 32,
        "epochs": 2,
    }
    return job(folder, name, **{**chosen, **settings})


@pytest.fixture
def whole(monkeypatch):
    """Tables are summed as any other parameter."""
    monkeypatch.setattr(update, "_sparse", lambda model, job: ())


OPTIMIZERS = {
    "adam": Adam(0.01),
    "sgd": SGD(0.1),
    "lazy": Adam(0.01, lazy=True),
    "global norm": Adam(0.01, clip_global_norm=0.05),
    "average": SGD(0.1, average=0.9),
}


@pytest.mark.parametrize("by_segments", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_number_of_ranks_gives_the_bits_of_one(texts, tmp_path, monkeypatch, optimizer, by_segments):
    if by_segments:
        monkeypatch.setattr(update, "ALL_BYTES", -1)
    this = reading(texts, tmp_path, optimizer=optimizer)
    alone = fit(replace(this, folder=str(tmp_path / "one")))

    for shape in SHAPES:
        ring = ThreadRing(prod(shape), shape=shape)
        elsewhere = replace(this, folder=str(tmp_path / str(shape)))
        outcomes = on_every_rank(ring, lambda comm, there=elsewhere: train(there, comm))
        assert {outcome.weights_sha256 for outcome in outcomes} == {alone.weights_sha256}


@pytest.mark.parametrize("settings", [{}, {"layers": (Embedding(VOCABULARY, UNITS, l2=1e-3), *LAYERS[1:])}])
def test_rows_and_whole_tables_give_the_same_bits(texts, tmp_path, request, settings):
    by_rows = fit(reading(texts, tmp_path, "rows", **settings))
    request.getfixturevalue("whole")

    assert fit(reading(texts, tmp_path, "whole", **settings)).weights_sha256 == by_rows.weights_sha256


def test_rows_are_sent_where_they_are_less_and_tables_where_not(texts, tmp_path):
    """32 rows of 6 tokens touch 192 of 500 rows at most; 300 rows, all."""
    sent = {}
    for batch in (32, 300):
        comms = [Clocked(comm, LINKS["tcp"]) for comm in ThreadRing(2).comms]
        this = reading(texts, tmp_path, f"{batch}", batch=batch, epochs=1)
        outcome = on_every_rank(comms, lambda comm, this=this: train(this, comm))[0]
        sent[batch] = comms[0].nbytes / outcome.steps
        table = 4 * VOCABULARY * UNITS
        parameters = 4 * outcome.parameters

    assert sent[32] < parameters - table + 32 * TOKENS * 4 * (UNITS + 1) / 2 + 1000
    assert sent[300] > table


def test_what_overflows_in_a_table_stops_all_ranks_with_the_same_words(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(update, "ALL_BYTES", -1)
    this = reading(texts, tmp_path, optimizer=SGD(1e38), epochs=20)
    messages = []

    def work(comm):
        try:
            train(this, comm)
        except NonFinite as error:
            messages.append(str(error))
            raise

    with pytest.raises(NonFinite, match="embedding"):
        on_every_rank(ThreadRing(3), work)

    assert len(messages) == 3
    assert len(set(messages)) == 1


def test_a_lazy_optimizer_with_an_embedding_behind_other_layers_is_refused(texts, tmp_path):
    hidden = (Reshape((TOKENS,)), Dense(4), *LAYERS)

    with pytest.raises(
        ModelError, match=r"adam is lazy, and layer 2 \(embedding\) is not among the first layers"
    ):
        fit(reading(texts, tmp_path, optimizer=Adam(lazy=True), layers=hidden))
