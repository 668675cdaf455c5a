"""Every layer: the gradient is the finite difference (float64), and outputs and gradients are PyTorch's (tests/reference)."""

import itertools
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError
from dlflow.nn import (
    ACTIVATIONS,
    GRU,
    LSTM,
    SGD,
    Activation,
    AveragePooling1D,
    AveragePooling2D,
    BatchNormalization,
    Bidirectional,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    LayerNormalization,
    MaxPooling1D,
    MaxPooling2D,
    MeanSquaredError,
    Model,
    MultiHeadAttention,
    PositionalEmbedding,
    Rescaling,
    Reshape,
    Sequential,
    SimpleRNN,
    Stream,
    gradient_check,
)
from dlflow.nn.params import Workspace

REFERENCE = np.load(Path(__file__).parent / "reference" / "layers.npz")
RNG = np.random.default_rng(0)
IMAGES, SERIES = RNG.standard_normal((5, 7, 6, 4)), RNG.standard_normal((5, 9, 4))
TOKENS = RNG.integers(0, 4, (5, 6))
TOKENS[:, 0], TOKENS[:, 3] = 0, [0, 1, 0, 2, 3]  # a step that is padding for all, and one for some
Y = RNG.standard_normal((5, 2))
MIX, MASKED = Conv2D(4, 1), Embedding(4, 4, mask_zero=True)

IMAGE_LAYERS = {
    "conv": [Conv2D(3, 3, activation="tanh")],
    "conv same stride": [Conv2D(6, (3, 2), stride=2, padding="same", activation="gelu")],
    "conv dilation groups": [Conv2D(6, 2, dilation=(2, 1), groups=2, use_bias=False, l2=0.1)],
    "conv softmax": [Conv2D(3, 2, activation="softmax")],
    "conv pool conv": [Conv2D(3, 2, activation="tanh"), MaxPooling2D(2), Conv2D(3, 2)],
    "conv activation pool": [Conv2D(3, 2, padding="same"), Activation("elu"), MaxPooling2D((3, 2))],
    "conv pool activation": [Conv2D(3, 2), MaxPooling2D(2), Activation("softplus")],
    "max overlapping": [MaxPooling2D(3, 2, "same")],
    "average overlapping": [AveragePooling2D(3, 2, "same")],
    "average": [AveragePooling2D(2)],
    "global average": [GlobalAveragePooling2D()],
    "global max": [GlobalMaxPooling2D()],
    "batch normalization": [BatchNormalization(), Activation("tanh"), Conv2D(3, 2)],
    "layer normalization": [LayerNormalization(), Conv2D(3, 2)],
    "dropout": [Dropout(0.2), Conv2D(3, 2)],
    "reshape": [Reshape((6, -1)), Rescaling(0.3, 1.0), Dense(3, "tanh"), Reshape((3, 2, 3))],
}
SERIES_LAYERS = {
    "conv": [
        Conv1D(5, 3, padding="same", dilation=2, activation="tanh"),
        MaxPooling1D(2),
        AveragePooling1D(2),
    ],
    "global average": [GlobalAveragePooling1D()],
    "global max": [GlobalMaxPooling1D()],
    "batch normalization": [BatchNormalization(), Dense(3)],
    "layer normalization": [LayerNormalization(), Dense(3)],
    "attention": [PositionalEmbedding(), MultiHeadAttention(2)],
    "causal attention": [MultiHeadAttention(2, 3, causal=True, dropout=0.3)],
    "waves": [PositionalEmbedding(learned=False), Dense(2, "tanh")],
    "last axis first": [LSTM(3, return_sequences=True), BatchNormalization(), Dense(2, "tanh")],
}
RECURRENT = [SimpleRNN(3), SimpleRNN(3, activation="softplus"), LSTM(3), GRU(3)]


def check(layers, X, rng=None):
    found = gradient_check(
        [*layers, Flatten(), Dense(2)], X.shape[1:], MeanSquaredError(), X, Y, rng=rng, at_most=120
    )
    assert found.error < 1e-7, found


@pytest.mark.parametrize("name", IMAGE_LAYERS)
@pytest.mark.parametrize("rng", [None, Stream(1, "dropout")], ids=["prediction", "training"])
def test_the_gradient_of_layers_of_images_is_the_finite_difference(name, rng):
    check([MIX, *IMAGE_LAYERS[name]], IMAGES, rng)


@pytest.mark.parametrize("name", SERIES_LAYERS)
@pytest.mark.parametrize("rng", [None, Stream(1, "dropout")], ids=["prediction", "training"])
def test_the_gradient_of_layers_of_series_is_the_finite_difference(name, rng):
    check([Dense(4), *SERIES_LAYERS[name]], SERIES, rng)


@pytest.mark.parametrize("layer", RECURRENT, ids=lambda layer: layer.kind)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"return_sequences": True, "go_backwards": True},
        {"return_state": True},
        {"dropout": 0.3, "recurrent_dropout": 0.4, "return_sequences": True},
    ],
    ids=lambda changes: "+".join(changes) or "last",
)
def test_the_gradient_of_recurrent_layers_is_the_finite_difference_also_with_masks(layer, changes):
    layer = replace(layer, **changes)

    check([Dense(3), layer], SERIES, Stream(1, "dropout"))
    check([MASKED, layer], TOKENS, Stream(1, "dropout"))


@pytest.mark.parametrize("layer", RECURRENT, ids=lambda layer: layer.kind)
def test_the_gradient_in_both_directions_is_the_finite_difference(layer):
    both = replace(layer, return_sequences=True, dropout=0.2)

    check([MASKED, Bidirectional(both), Bidirectional(layer, "sum")], TOKENS, Stream(1, "dropout"))


@pytest.mark.parametrize(
    "layers",
    [
        [GlobalAveragePooling1D()],
        [GlobalMaxPooling1D()],
        [PositionalEmbedding(), MultiHeadAttention(2, causal=True), GlobalAveragePooling1D()],
        [LSTM(3, return_sequences=True, go_backwards=True), GRU(2)],
    ],
    ids=lambda layers: layers[0].kind,
)
def test_the_gradient_with_padding_is_the_finite_difference(layers):
    check([MASKED, *layers], TOKENS)


CASES = {
    **{f"activation {name}": Activation(name) for name in ACTIVATIONS},
    "conv2d": Conv2D(6, (3, 2)),
    "conv2d stride": Conv2D(6, (3, 2), stride=2),
    "conv2d dilation": Conv2D(6, (3, 2), dilation=(2, 3)),
    "conv2d groups": Conv2D(6, (3, 2), groups=2),
    "conv2d same": Conv2D(6, 3, stride=2, padding="same"),
    "conv2d relu pool": Conv2D(6, (3, 2), activation="relu").followed_by(MaxPooling2D(2)),
    "conv1d": Conv1D(5, 3, stride=2, dilation=2),
    "max_pooling2d": MaxPooling2D(3, 2),
    "max_pooling2d same": MaxPooling2D(2, padding="same"),
    "average_pooling2d": AveragePooling2D(2),
    "max_pooling1d": MaxPooling1D(3, 2),
    "average_pooling1d": AveragePooling1D(3),
    "global_average_pooling2d": GlobalAveragePooling2D(),
    "global_max_pooling2d": GlobalMaxPooling2D(),
    "global_average_pooling1d": GlobalAveragePooling1D(),
    "global_max_pooling1d": GlobalMaxPooling1D(),
    **{
        f"batch_normalization {shape} {mode}": BatchNormalization()
        for shape in ("vectors", "images")
        for mode in ("training", "prediction")
    },
    "layer_normalization": LayerNormalization(),
    **{
        kind + name: made(4, **changes)
        for kind, made in {"simple_rnn": SimpleRNN, "lstm": LSTM, "gru": GRU}.items()
        for name, changes in {
            "": {},
            " sequences": {"return_sequences": True},
            " backwards": {"return_sequences": True, "go_backwards": True},
            " truncate": {"return_sequences": True, "truncate": 3},
        }.items()
    },
    "multi_head_attention": MultiHeadAttention(2),
    "multi_head_attention causal": MultiHeadAttention(2, causal=True),
    "multi_head_attention mask": MultiHeadAttention(2),
    "embedding": Embedding(9, 5),
    "positional_embedding": PositionalEmbedding(),
}


def test_every_reference_is_compared():
    assert {name.rpartition("/")[0] for name in REFERENCE} == set(CASES)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_outputs_and_gradients_are_those_of_pytorch(name, dtype, tolerance):
    def of(part, kind=dtype):
        return REFERENCE[f"{name}/{part}"].astype(kind)

    layer, X, space = CASES[name], REFERENCE[f"{name}/X"], Workspace()
    X = X.astype(np.intp if X.dtype.kind == "i" else dtype)
    need, shape = layer.build(X.shape[1:])
    p, dp = ({key: of(key) for key in need} for _ in range(2))
    if f"{name}/counts" in REFERENCE:
        space.mask = of("counts", np.bool_)
    training = Stream(0, "dropout") if name.endswith("training") else None

    output, backward = layer.forward(p, X, training, space)
    output = output.copy()
    dX = backward(of("dY"), dp, X.dtype != np.intp)

    assert output.shape[1:] == shape
    np.testing.assert_allclose(output, of("Y"), rtol=tolerance, atol=tolerance)
    if dX is not None:
        np.testing.assert_allclose(dX, of("dX"), rtol=tolerance, atol=tolerance)
    for key in need.keys() - layer.statistics().keys():
        np.testing.assert_allclose(dp[key], of(f"d{key}"), rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("batch_normalization")])
def test_running_statistics_move_as_in_pytorch(name):
    X = REFERENCE[f"{name}/X"]
    model = Model([BatchNormalization(momentum=0.9)], X.shape[1:], dtype=np.float64)
    for key in ("scale", "shift", "mean", "variance"):
        model.p[0][key][...] = REFERENCE[f"{name}/{key}"]

    model.gradient(MeanSquaredError(), X, X, rng=Stream(0, "dropout") if "training" in name else None)
    model.finish()
    model.w *= 0.5  # as an optimizer with weight decay does
    model.settle()

    for key in ("mean", "variance"):
        np.testing.assert_allclose(model.p[0][key], REFERENCE[f"{name}/{key} after"], atol=1e-12)
        assert not model.message.dp[0][key].any()


@given(cuts=st.lists(st.integers(0, 24), max_size=4))
@settings(max_examples=25)
def test_running_statistics_of_shards_are_their_weighted_mean(cuts):
    layers = [Dense(3, "tanh"), BatchNormalization(momentum=0.0), Dense(1)]
    model = Model(layers, 4, dtype=np.float64)
    model.init(3)
    X = np.random.default_rng(1).standard_normal((24, 4))
    edges = [0, *sorted(cuts), 24]
    parts = [X[low:high] for low, high in itertools.pairwise(edges)]
    total = model.new_message()
    for part in parts:
        model.gradient(MeanSquaredError(), part, part[:, 0], rng=Stream(0, "dropout"))
        total.g[:] += model.g

    model.finish(total)
    model.settle()

    seen = [np.tanh(part @ model.p[0]["W"]) for part in parts if len(part)]
    means = sum(len(each) * each.mean(0) for each in seen) / 24
    variances = sum(len(each) * each.var(0, ddof=1) if len(each) > 1 else np.zeros(3) for each in seen) / 24
    np.testing.assert_allclose(model.p[1]["mean"], means, atol=1e-12)
    np.testing.assert_allclose(model.p[1]["variance"], variances, atol=1e-12)


def test_prediction_leaves_the_running_statistics_alone_and_uses_them():
    model = Model([BatchNormalization()], 3)
    model.init(0)
    model.p[0]["mean"][...] = 5
    before = model.w.copy()

    predicted = model.predict(np.full((4, 3), 5.0))

    assert np.array_equal(model.w, before)
    assert not predicted.any()


def test_an_empty_shard_changes_no_statistics():
    model = Model([BatchNormalization(), Dense(1)], 3)
    model.init(0)

    model.gradient(MeanSquaredError(), np.zeros((0, 3)), np.zeros(0), rng=Stream(0, "dropout"))

    assert not model.g.any()


@pytest.mark.parametrize("make", [SimpleRNN, LSTM, GRU])
def test_padding_changes_nothing_wherever_it_is(make):
    model = Model([MASKED, make(3, return_sequences=True), make(3)], 6)
    model.init(0)
    first = model.predict(np.array([[1, 2, 3, 0, 0, 0]]))

    assert np.array_equal(model.predict(np.array([[0, 0, 1, 0, 2, 3]])), first)
    assert not np.array_equal(model.predict(np.array([[1, 1, 1, 1, 2, 3]])), first)


def test_attention_that_is_causal_does_not_see_what_comes_later():
    model = Model([MultiHeadAttention(2, causal=True)], (6, 4))
    model.init(0)
    X = RNG.standard_normal((1, 6, 4)).astype(np.float32)
    changed = X.copy()
    changed[:, 4:] += 1

    same = model.predict(X) == model.predict(changed)

    assert same[:, :4].all()
    assert not same[:, 4:].any()


def test_recurrent_dropout_differs_between_directions_and_kinds():
    layer = LSTM(8, dropout=0.5, recurrent_dropout=0.5)
    model = Model([Bidirectional(layer)], (5, 8))
    model.init(0)
    p = model.p[0]
    for name in ("W", "U", "b"):
        p[f"backward {name}"][...] = p[f"forward {name}"]
    X = np.ones((2, 5, 8), np.float32)

    made = model.forward(X, Stream(0, "dropout"))[0].copy()
    plain = model.predict(X)

    assert np.array_equal(plain[:, :8], plain[:, 8:])
    assert not np.array_equal(made[:, :8], made[:, 8:])


def test_initial_recurrent_weights_are_orthogonal_and_an_lstm_remembers_at_first():
    model = Model([LSTM(5)], (3, 2), dtype=np.float64)
    model.init(0)
    U = model.p[0]["U"].transpose(1, 0, 2).reshape(5, 20)

    np.testing.assert_allclose(U @ U.T, np.eye(5), atol=1e-12)
    assert model.p[0]["b"].tolist() == [[0] * 5, [1] * 5, [0] * 5, [0] * 5]


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same"]),
    data=st.data(),
)
def test_a_convolution_is_its_definition(batch, height, width, kernel, stride, dilation, padding, data):
    layer = Conv2D(3, kernel, stride, padding, dilation)
    seed = data.draw(st.integers(0, 99))
    X = np.random.default_rng(seed).standard_normal((batch, height, width, 2))
    try:
        model = Model([layer], X.shape[1:], dtype=np.float64)
    except ModelError:
        assert padding == "valid"
        return
    model.init(seed)
    W, (high, wide) = model.p[0]["W"], layer.axes(X.shape[1:])
    around = np.pad(X, ((0, 0), (high.before, high.after), (wide.before, wide.after), (0, 0)))
    expected = np.zeros((batch, *model.out_shape))
    for y, x, i, j in np.ndindex(*model.out_shape[:2], *kernel):
        seen = around[:, y * stride + i * dilation, x * stride + j * dilation]
        expected[:, y, x] += seen @ W[i, j]

    np.testing.assert_allclose(model.predict(X), expected, atol=1e-12)


def test_a_batch_cut_into_other_blocks_gives_the_same(monkeypatch):
    model = Model([Conv2D(6, 3, activation="relu"), MaxPooling2D(2), Flatten(), Dense(2)], (12, 12, 3))
    model.init(0)
    X = RNG.standard_normal((4, 12, 12, 3)).astype(np.float32)
    model.gradient(MeanSquaredError(), X, np.ones((4, 2)))
    whole = model.g.copy()

    for block in (1 << 9, 1 << 12, 1 << 14):
        monkeypatch.setattr("dlflow.nn.columns.BLOCK_BYTES", block)
        model.gradient(MeanSquaredError(), X, np.ones((4, 2)))
        np.testing.assert_allclose(model.g, whole, rtol=0, atol=2e-5)


STEPS = {
    "convolutions": [Conv2D(16, 3, activation="relu"), MaxPooling2D(2), Conv2D(16, 3, padding="same")],
    "pools": [Conv2D(8, 3), MaxPooling2D(3, 2), AveragePooling2D(2), GlobalAveragePooling2D()],
    "normalization": [Conv2D(16, 3), BatchNormalization(), Activation("gelu")],
    **{
        layer.kind: [Reshape((98, 64)), replace(layer, return_sequences=True), layer]
        for layer in (SimpleRNN(64), LSTM(64), GRU(64))
    },
    "attention": [
        *(Reshape((98, 64)), PositionalEmbedding(), LayerNormalization()),
        *(MultiHeadAttention(2, causal=True), Dense(64, "tanh"), GlobalAveragePooling1D()),
    ],
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_allocates_nothing_large(name):
    model = Model([*STEPS[name], Flatten(), Dense(2)], (28, 28, 8))
    model.init(0)
    X, y = np.ones((64, 28, 28, 8), np.float32), np.zeros((64, 2))

    def step(number):
        model.gradient(MeanSquaredError(), X, y, rng=Stream(0, "dropout", step=number))
        model.finish()
        model.settle()

    step(1)
    step(2)
    tracemalloc.start()
    step(3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 400 << 10  # an array of activations is 1.6 MiB


def test_the_gradient_of_an_embedding_allocates_what_the_tokens_need():
    model = Model([Embedding(5000, 256, mask_zero=True), GRU(8), Dense(1)], 100)
    tokens, y = np.random.default_rng(0).integers(0, 5000, (32, 100)), np.zeros(32)
    model.gradient(MeanSquaredError(), tokens, y)

    tracemalloc.start()
    model.gradient(MeanSquaredError(), tokens, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 400 << 10  # the rows of the tokens are 3.2 MiB, the table is 5


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([Conv2D(3, 3)], (28, 28), "the channel axis is missing"),
        (
            [Conv2D(3, 9)],
            (5, 5, 1),
            "a window of 9 does not fit into 5; take a smaller one, or padding 'same'",
        ),
        ([Conv2D(3, 3, groups=2)], (5, 5, 2), "2 channels and 3 filters in 2 groups"),
        (
            [Conv1D(3, 3)],
            (9,),
            r"conv1d: samples have shape \(9,\), .*add the channel axis with X\[\.\.\., None\]",
        ),
        ([MaxPooling2D(2)], (28, 28), "max_pooling2d: .*the channel axis is missing"),
        ([LSTM(3)], (9,), r"lstm: samples have shape \(9,\), expected \(time, features\); add the axis"),
        ([GRU(3)], (9, 3, 2), "use Reshape before it"),
        ([MultiHeadAttention(3)], (9, 4), "4 units do not divide into 3 heads"),
        ([MultiHeadAttention(2)], (4,), "put an Embedding or Dense before it"),
        ([PositionalEmbedding()], (4,), "put it after an Embedding"),
        ([Reshape((3, -1))], (8,), r"8 numbers of shape \(8,\) do not fit \(3, -1\)"),
        ([BatchNormalization()], (), "samples are single numbers"),
    ],
)
def test_samples_of_a_wrong_shape_are_told_what_to_do(layers, shape, message):
    with pytest.raises(ModelError, match=message):
        Model(layers, shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv2D(0, 3), "conv2d: filters is 0"),
        (lambda: Conv2D(3, (3, 0)), "conv2d: kernel is 0"),
        (lambda: Conv2D(3, (3, 1, 1)), r"kernel is \(3, 1, 1\), expected one number or two"),
        (lambda: Conv2D(3, 3, padding="full"), "padding is 'full', expected 'valid' or 'same'"),
        (lambda: Conv1D(3, 3, activation="rleu"), "did you mean 'relu'"),
        (lambda: Conv1D(3, 3, l2=-1.0), "conv1d: l2 is -1.0"),
        (lambda: MaxPooling1D(0), "max_pooling1d: size is 0"),
        (lambda: Embedding(0, 3), "embedding: vocabulary is 0"),
        (
            lambda: Embedding(9, 3, input_length=5),
            "input_length is 5, expected nothing: the length is that of the data",
        ),
        (lambda: LSTM(3, dropout=1.0), "lstm: dropout is 1.0"),
        (lambda: GRU(3, truncate=0), "gru: truncate is 0"),
        (lambda: LSTM(3, return_sequences=True, return_state=True), "expected one of them"),
        (lambda: SimpleRNN(3, activation="gelu"), "activation is 'gelu'"),
        (lambda: Bidirectional(Dense(3)), "expected a SimpleRNN, LSTM or GRU"),
        (lambda: Bidirectional(LSTM(3), "mean"), "merge is 'mean', expected 'concat' or 'sum'"),
        (lambda: BatchNormalization(momentum=1.0), "momentum is 1.0"),
        (lambda: LayerNormalization(epsilon=0.0), "epsilon is 0.0"),
        (lambda: MultiHeadAttention(0), "heads is 0"),
    ],
)
def test_wrong_settings_are_told(make, message):
    with pytest.raises(ModelError, match=message):
        make()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1, 9]], r"X\[0, 1\] is 9, expected a token from 0 to 8; .*raise vocabulary"),
        ([[1, -1]], r"X\[0, 1\] is -1"),
        ([[0.5, 1]], r"X\[0, 0\] is 0.5, expected a whole number; give the numbers of the tokens"),
        ([[np.nan, 1]], "is nan, expected a whole number"),
    ],
)
def test_what_is_no_token_is_told_with_its_place(X, message):
    with pytest.raises(ModelError, match=message):
        Model([Embedding(9, 2)], 2).predict(np.array(X))


def test_tokens_as_floats_are_tokens():
    model = Model([Embedding(9, 2)], 2)
    model.init(0)

    assert np.array_equal(model.predict(np.array([[1.0, 8.0]])), model.predict(np.array([[1, 8]])))


@pytest.mark.parametrize(
    "X", [np.full((4, 3, 3, 1), 255, np.uint8), np.linspace(0, 255, 36).reshape(4, 3, 3, 1)]
)
def test_unscaled_pixels_are_warned_of_unless_the_model_scales_them(X):
    def fit(*layers):
        model = Sequential([*layers, Flatten(), Dense(1)])
        model.compile(optimizer=SGD(1e-9), loss="mean_squared_error")
        model.fit(X, np.zeros(4))

    with pytest.warns(UserWarning, match=r"pixels from 0 to 255 .*Rescaling\(1 / 255\)"):
        fit()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(Rescaling(1 / 255))
