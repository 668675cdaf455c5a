"""Layers that read several things, that are used in several places, or that go on from batch to batch."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlflow.errors import ModelError
from dlflow.export import difference, save_onnx
from dlflow.nn import (
    GRU,
    LSTM,
    Adam,
    BatchNormalization,
    Bidirectional,
    BinaryCrossEntropy,
    Concatenate,
    Dense,
    Embedding,
    Flatten,
    Functional,
    GlobalAveragePooling1D,
    Graph,
    Input,
    MaxNorm,
    MeanSquaredError,
    Model,
    MultiHeadAttention,
    Sequential,
    SimpleRNN,
    Stream,
    gradient_check,
    graph_from,
    graph_to,
    join,
)
from dlflow.nn.params import Workspace
from dlflow.scorer import write_scorer
from dlflow.training import Job
from tests.training_jobs import dataset

with np.load(Path(__file__).parent / "reference" / "joined.npz") as file:
    REFERENCE = dict(file)
RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.integers(0, 9, (2, 12, 5))
LEFT[:, 3:] *= RNG.integers(0, 2, (12, 2))  # some padding
SAME = (LEFT[:, 0] == RIGHT[:, 0]).astype(float)
KINDS = {"simple_rnn": SimpleRNN, "lstm": LSTM, "gru": GRU}


@pytest.mark.parametrize(("name", "size"), [("cross", 3), ("cross mask", 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_attention_to_another_sequence_is_that_of_pytorch(name, size, dtype, tolerance):
    def of(part):
        found = REFERENCE[f"{name}/{part}"]
        return found if found.dtype == np.bool_ else found.astype(dtype)

    layer, space, Xs = MultiHeadAttention(2, size), Workspace(), (of("X"), of("M"))
    need, shape = layer.build_joined(tuple(X.shape[1:] for X in Xs))
    p, dp = ({key: of(key) for key in need} for _ in range(2))
    space.masks = (None, of("counts"))

    Y, backward = layer.forward_joined(p, Xs, None, space)
    Y = Y.copy()
    gradients = backward(of("dY"), dp, True)

    assert {key: view.shape for key, view in p.items()} == need
    assert Y.shape[1:] == shape
    np.testing.assert_allclose(Y, of("Y"), rtol=tolerance, atol=tolerance)
    for name_, made in zip(("dX", "dM"), gradients, strict=True):
        np.testing.assert_allclose(made, of(name_), rtol=tolerance, atol=5 * tolerance)
    for key in need:
        np.testing.assert_allclose(dp[key], of(f"d{key}"), rtol=tolerance, atol=5 * tolerance)


def asking(**settings):
    """The left sequence asks the right one; both have padding."""
    left, right = (join(Input(5, name), Embedding(9, 4, mask_zero=True)) for name in ("left", "right"))
    right = join(right, Dense(6, "tanh"))
    seen = join((left, right), MultiHeadAttention(2, **settings))
    return Graph.of(join(seen, GlobalAveragePooling1D(), Dense(1, "sigmoid")))


@pytest.mark.parametrize("settings", [{}, {"size": 3, "dropout": 0.3}])
def test_the_gradient_of_attention_to_another_sequence_is_the_finite_difference_also_with_padding(settings):
    found = gradient_check(
        asking(**settings), (), BinaryCrossEntropy(), (LEFT, RIGHT), SAME, rng=Stream(1, "dropout")
    )

    assert found.error < 1e-7, found


def test_padding_of_both_sequences_changes_nothing():
    model = Model(asking())
    model.w[:] = RNG.standard_normal(model.parameters)
    right = RIGHT.copy()
    right[:, 3:] = 0
    expected = model.predict((LEFT, right))

    for place, layer in enumerate(model.layers):
        if isinstance(layer, Embedding):
            model.p[place]["W"][0] += 5  # what padding is embedded as

    np.testing.assert_allclose(model.predict((LEFT, right)), expected, rtol=1e-5)
    assert not np.allclose(model.predict((LEFT, np.maximum(right, 1))), expected)
    assert not np.allclose(model.predict((np.maximum(LEFT, 1), right)), expected)


def test_attention_to_another_sequence_is_exported(tmp_path):
    x, m = Input((4, 6), "x"), Input((5, 3), "m")
    model = Model(Graph.of(join((x, m), MultiHeadAttention(2), Flatten(), Dense(2))))
    model.init(0)
    X = {"x": RNG.standard_normal((7, 4, 6)), "m": RNG.standard_normal((7, 5, 3))}

    save_onnx(tmp_path / "model.onnx", model)

    assert difference(tmp_path / "model.onnx", model, X) < 1e-5


def twins(**settings):
    """Two texts, read by the same layers."""
    layers = Embedding(9, 3, mask_zero=True), LSTM(4, dropout=0.2, **settings)
    sides = [join(Input(5, name), *layers, shared="reader") for name in ("left", "right")]
    return Graph.of(join(sides, Concatenate(), Dense(3, "tanh"), Dense(1, "sigmoid")))


def test_the_gradient_of_layers_used_in_two_places_is_the_finite_difference():
    found = gradient_check(twins(l2=0.1), (), BinaryCrossEntropy(), (LEFT, RIGHT), SAME)

    assert found.error < 1e-7, found


def test_layers_that_share_a_name_have_one_set_of_weights(tmp_path):
    model = Functional(twins(constraint=MaxNorm(2.0)), seed=1)
    core = model.model
    one, two = Model(twins()), Model(twins())
    model.compile(optimizer=Adam(0.01), loss="binary_cross_entropy")

    model.fit((LEFT, RIGHT), SAME, epochs=3, batch_size=4)
    model.save(tmp_path / "twins.safetensors")
    again = Sequential.load(tmp_path / "twins.safetensors")
    save_onnx(tmp_path / "model.onnx", Model(twins_without_mask()))

    single = [slot.name for slot in core.slots]
    assert single == ["W", "W", "U", "b", "W", "b", "W", "b"]
    assert core.p[0]["W"] is core.p[2]["W"]
    assert one.parameters == two.parameters == sum(slot.stop - slot.start for slot in core.slots)
    assert isinstance(again, Functional)
    assert again.model.graph == core.graph == graph_from(json.loads(json.dumps(graph_to(core.graph))))
    assert np.array_equal(again.predict((LEFT, RIGHT)), model.predict((LEFT, RIGHT)))


def twins_without_mask():
    sides = [join(Input((5, 2), name), GRU(4), shared="reader") for name in ("left", "right")]
    return Graph.of(join(sides, Concatenate(), Dense(1)))


def test_what_is_shared_is_exported_with_the_same_weights(tmp_path):
    model = Model(twins_without_mask())
    model.init(2)
    X = {name: RNG.standard_normal((6, 5, 2)) for name in ("left", "right")}

    save_onnx(tmp_path / "model.onnx", model)

    assert difference(tmp_path / "model.onnx", model, X) < 1e-5


def test_two_uses_of_a_layer_drop_different_values():
    x = Input((6, 8), "x")
    sides = [join(x, SimpleRNN(4, dropout=0.5), shared="reader") for _ in range(2)]
    model = Model(Graph.of(join(sides, Concatenate())))
    model.init(0)
    X = model.cast(RNG.standard_normal((20, 6, 8)))

    calm, _ = model.forward(X)
    calm = calm.copy()
    trained, _ = model.forward(X, Stream(0, "dropout"))

    assert np.array_equal(calm[:, :4], calm[:, 4:])
    assert not np.allclose(trained[:, :4], trained[:, 4:])


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            join(Input(4, "b"), Dense(3), shared="x"),
            r"shares 'x.0' and is Dense\(.*give both the same settings",
        ),
        (
            join(Input(5, "b"), Dense(2), shared="x"),
            r"whose weights are \{'W': \(4, 2\).*inputs of the same form",
        ),
    ],
)
def test_layers_that_cannot_share_are_told(second, message):
    first = join(Input(4, "a"), Dense(2), shared="x")

    with pytest.raises(ModelError, match=message):
        Model(Graph.of(join((first, second), Concatenate())))


def test_what_follows_one_place_is_not_shared():
    sides = [join(Input(4, name), BatchNormalization(), shared="x") for name in "ab"]

    with pytest.raises(ModelError, match="follows what it sees in one place"):
        Graph.of(join(sides, Concatenate()))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_a_stateful_layer_goes_on_as_pytorch_does(name, dtype, tolerance):
    def of(part):
        return REFERENCE[f"{name}/{part}"].astype(dtype)

    layer, space = KINDS[name](3, return_sequences=True, stateful=True), Workspace()
    need, _ = layer.build((5, 4))
    p = {key: of(key) for key in need}

    for batch in range(2):
        dp = {key: np.zeros_like(view) for key, view in p.items()}
        Y, backward = layer.forward(p, of("X")[batch], None, space)
        np.testing.assert_allclose(Y, of(f"Y{batch}"), rtol=tolerance, atol=tolerance)
        dX = backward(of("dY")[batch], dp, True)

        np.testing.assert_allclose(dX, of(f"dX{batch}"), rtol=tolerance, atol=5 * tolerance)
        for key in "WUb":
            np.testing.assert_allclose(dp[key], of(f"d{key}{batch}"), rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_pieces_of_a_long_series_give_what_the_whole_gives(kind):
    X = RNG.standard_normal((4, 12, 3))
    layers = [kind(5, stateful=True, return_sequences=True), Dense(2)]
    whole = Sequential(layers, (12, 3), seed=1).predict(X)
    pieces = Sequential(layers, (4, 3), seed=1)

    parts = [pieces.predict(X[:, at : at + 4]) for at in (0, 4, 8)]
    pieces.reset_states()
    first = pieces.predict(X[:, :4])

    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-6)
    assert np.array_equal(first, parts[0])
    assert not np.allclose(pieces.predict(X[:, :4]), first)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_gradient_over_two_batches_is_that_of_truncation(kind):
    """Pieces of 3 steps, each begun where the one before ended, are the series cut at 3 by `truncate`."""
    X, y = RNG.standard_normal((4, 6, 2)), RNG.standard_normal((4, 6, 3))
    cut = Model([kind(3, return_sequences=True, truncate=3)], (6, 2), dtype=np.float64)
    pieces = Model([kind(3, return_sequences=True, stateful=True)], (3, 2), dtype=np.float64)
    cut.init(0)
    pieces.w[:] = cut.w
    loss = MeanSquaredError()

    cut.gradient(loss, X, y)
    total = np.zeros_like(cut.g)
    for at in (0, 3):
        pieces.gradient(loss, X[:, at : at + 3], y[:, at : at + 3])
        total += pieces.g

    np.testing.assert_allclose(total, cut.g, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_gradient_of_a_stateful_layer_is_the_finite_difference(kind):
    layers = [kind(4, stateful=True), Dense(1)]

    found = gradient_check(layers, (5, 2), MeanSquaredError(), RNG.standard_normal((3, 5, 2)), np.ones(3))

    assert found.error < 1e-7, found


def last_piece(rows=8, pieces=6, steps=4):
    """A series for each of some rows, in pieces; the label is what the piece before held: only the state can know it."""
    sign = RNG.choice([-1.0, 1.0], (pieces, rows))
    X = sign[..., None, None] * np.ones((steps, 1))
    y = np.concatenate([np.zeros((1, rows)), sign[:-1]])
    return X.reshape(-1, steps, 1), y.reshape(-1), rows


def test_training_with_a_state_learns_what_lies_before_the_batch():
    X, y, rows = last_piece()
    errors = {}
    for stateful in (True, False):
        model = Sequential([LSTM(8, stateful=stateful), Dense(1)], (4, 1), seed=2)
        model.compile(optimizer=Adam(0.03), loss="mean_squared_error")
        model.fit(X, y, batch_size=rows, epochs=120, shuffle=False)
        errors[stateful] = model.evaluate(X, y, batch_size=rows)["loss"]

    assert errors[True] < errors[False] / 3, errors


def test_every_epoch_and_every_evaluation_begins_with_zero():
    X, y, rows = last_piece()
    model = Sequential([GRU(3, stateful=True), Dense(1)], (4, 1), seed=2)
    model.compile(
        optimizer=Adam(1e-30), loss="mean_squared_error"
    )  # the weights stay: only states could differ

    history = model.fit(X, y, batch_size=rows, epochs=3, shuffle=False, validation_data=(X, y))
    losses = [line["loss"] for line in history] + [line["val_loss"] for line in history]

    assert np.ptp(losses) < 1e-6
    assert model.evaluate(X, y, batch_size=rows)["loss"] == history[-1]["val_loss"]


def stateful(**settings):
    model = Sequential([LSTM(3, stateful=True), Dense(1)], (5, 1))
    model.compile(optimizer="adam", loss="mean_squared_error")
    return model.fit(np.zeros((6, 5, 1)), np.zeros(6), **settings)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda _: stateful(batch_size=3), "got shuffle=True and 6 rows in batches of 3"),
        (lambda _: stateful(batch_size=4, shuffle=False), "expected shuffle=False and batches of one size"),
        (lambda _: LSTM(3, stateful=True, go_backwards=True), "stateful and go_backwards"),
        (lambda _: Bidirectional(GRU(3, stateful=True)), "of is stateful"),
        (
            lambda _: Model(Graph.of(join((Input((5, 2), "x"), Input(3, "s")), GRU(3, stateful=True)))),
            "stateful with a second input",
        ),
        (
            lambda _: Graph.of(
                join([join(Input((5, 2), n), GRU(3, stateful=True), shared="x") for n in "ab"], Concatenate())
            ),
            "follows what it sees in one place",
        ),
        (lambda folder: write_scorer(folder / "m.pyz", carrying()), "the model is stateful"),
        (lambda folder: save_onnx(folder / "m.onnx", carrying()), "lstm is stateful"),
        (
            lambda folder: Job(
                layers=(LSTM(3, stateful=True), Dense(1)),
                loss=MeanSquaredError(),
                optimizer=Adam(),
                train=dataset(folder / "x.parquet", 10),
                folder=str(folder),
            ),
            "no row goes on from another",
        ),
        (lambda _: Model(asking(causal=True)), "causal with two sequences"),
        (
            lambda _: Model(Graph.of(join((Input((5, 2), "x"), Input(3, "s")), MultiHeadAttention(1)))),
            "expected two sequences",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(act, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        act(tmp_path)


def carrying():
    return Model([LSTM(3, stateful=True), Dense(1)], (5, 1))


def test_a_batch_of_another_size_is_told_to_reset():
    model = Sequential([replace(GRU(3), stateful=True), Dense(1)], (5, 1))
    model.predict(np.zeros((4, 5, 1)))

    with pytest.raises(ModelError, match=r"3 samples after a batch of 4.*call reset_states\(\) first"):
        model.predict(np.zeros((3, 5, 1)))
