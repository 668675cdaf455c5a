"""Models with branches, and how neighbours become one step."""

import json

import numpy as np
import pytest

from dlflow import registry
from dlflow.errors import ModelError, NonFinite
from dlflow.nn import (
    GRU,
    LSTM,
    SGD,
    Activation,
    Adam,
    Add,
    AveragePooling1D,
    AveragePooling2D,
    BatchNormalization,
    Bidirectional,
    BinaryCrossEntropy,
    Concatenate,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Functional,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    Graph,
    Input,
    LayerNormalization,
    MaxNorm,
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
    SparseCategoricalCrossEntropy,
    Stream,
    gradient_check,
    graph_from,
    graph_to,
    join,
    layer_from,
    layer_to,
)
from dlflow.nn.spec import LAYERS

RNG = np.random.default_rng(0)
ROWS = 24
INPUTS = {
    "image": RNG.standard_normal((ROWS, 6, 6, 1)),
    "words": RNG.integers(0, 9, (ROWS, 5)),
    "row": RNG.standard_normal((ROWS, 3)),
}
LABELS = (INPUTS["row"][:, 0] + INPUTS["image"][:, 2, 2, 0] > 0).astype(float)


def branches():
    image, words, row = Input((6, 6, 1), "image"), Input(5, "words"), Input(3, "row")
    seen = join(image, Conv2D(4, 3, activation="tanh"), MaxPooling2D(2), Flatten())
    read = join(words, Embedding(9, 4, mask_zero=True), LSTM(4))
    return Graph.of(join((seen, read, row), Concatenate(), Dense(4, "tanh"), Dense(1, "sigmoid")))


def residual():
    x = Input((5, 4), "x")
    h = join((x, join(x, LayerNormalization(), MultiHeadAttention(2))), Add())
    h = join((h, join(h, LayerNormalization(), Dense(6, "gelu"), Dense(4)), x), Add())
    return Graph.of(join((h, h), Concatenate(), Flatten(), Dense(2)))


def test_the_gradient_of_branches_is_the_finite_difference():
    found = gradient_check(branches(), (), BinaryCrossEntropy(), INPUTS, LABELS)

    assert found.error < 1e-7, found


def test_the_gradient_through_values_that_are_read_more_than_once_is_the_finite_difference():
    X = RNG.standard_normal((6, 5, 4))

    found = gradient_check(residual(), (), MeanSquaredError(), X, RNG.standard_normal((6, 2)))

    assert found.error < 1e-7, found


def test_a_graph_of_layers_in_order_is_the_model_of_these_layers():
    layers = [Dense(4, "relu"), Dropout(0.5), Dense(2, "softmax")]
    chain, graph = Model(layers, 3), Model(Graph.of(join(Input(3, "X"), *layers)))
    X, y = INPUTS["row"], LABELS.astype(int)

    for model in (chain, graph):
        model.init(7)
        model.gradient(SparseCategoricalCrossEntropy(), X, y, rng=Stream(0, "dropout"))

    assert np.array_equal(chain.g, graph.g)
    assert chain.head == graph.head == "softmax"


def test_inputs_may_be_a_tuple_or_a_dict_in_any_order():
    model = Functional(branches())

    by_name = model.predict(dict(reversed(INPUTS.items())))

    assert np.array_equal(by_name, model.predict(tuple(INPUTS.values())))
    assert by_name.shape == (ROWS, 1)


def test_branches_are_trained_and_saved_and_read(tmp_path):
    model = Functional(branches(), seed=3)
    model.compile(optimizer=Adam(learning_rate=0.02), loss="binary_cross_entropy")

    history = model.fit(INPUTS, LABELS, epochs=30, batch_size=8, validation_data=(INPUTS, LABELS))
    graph = model.model.graph
    registry.save(tmp_path / "model", weights=model.model.w, layers=graph)
    again, _ = registry.load(tmp_path / "model")

    assert history[-1]["val_loss"] < history[0]["loss"] / 2
    assert history[-1]["val_accuracy"] > 0.9
    assert again.graph == graph
    assert np.array_equal(again.predict(INPUTS), model.predict(INPUTS))


def test_a_graph_as_json_is_the_graph():
    for graph in (branches(), residual()):
        assert graph_from(json.loads(json.dumps(graph_to(graph)))) == graph


EXAMPLES = [
    *(
        Activation("gelu"),
        Add(),
        Concatenate(),
        Dense(3, "relu", l1=0.1, constraint=MaxNorm(2.0)),
        Dropout(0.2),
    ),
    *(Flatten(), Rescaling(0.5, 1.0), Reshape((3, -1)), Conv1D(3, 5, 2, "same", groups=1, l2=0.1)),
    *(Conv2D(3, (2, 3), stride=2, dilation=(1, 2)), AveragePooling1D(3), AveragePooling2D((2, 3), 1)),
    *(
        MaxPooling1D(3, padding="same"),
        MaxPooling2D(3, (2, 1)),
        GlobalAveragePooling1D(),
        GlobalMaxPooling1D(),
    ),
    *(GlobalAveragePooling2D(), GlobalMaxPooling2D(), BatchNormalization(0.9), LayerNormalization(1e-5)),
    *(Embedding(9, 3, mask_zero=True, l2=0.1), PositionalEmbedding(learned=False)),
    *(MultiHeadAttention(2, 5, causal=True), SimpleRNN(3, activation="relu"), GRU(3, truncate=5)),
    *(LSTM(3, return_state=True, recurrent_dropout=0.1), Bidirectional(LSTM(3, dropout=0.5), "sum")),
]


def test_every_layer_as_json_is_the_layer():
    for layer in EXAMPLES:
        assert layer_from(json.loads(json.dumps(layer_to(layer)))) == layer
    assert {layer.kind for layer in EXAMPLES} == set(LAYERS)


def test_penalties_and_constraints_are_for_the_kernels_of_every_layer():
    layers = [Embedding(9, 3, l2=0.1), Bidirectional(LSTM(4, l2=0.1, constraint=MaxNorm(0.5))), Dense(1)]

    found = gradient_check(layers, 5, MeanSquaredError(), INPUTS["words"], LABELS)
    model = Model(layers, 5)
    model.w[:] = 1
    model.constrain()

    assert found.error < 1e-7, found
    assert [slot.name for slot, _ in model._penalties] == [
        "W",
        *("forward W", "forward U", "backward W", "backward U"),
    ]
    assert abs(np.linalg.norm(model.p[1]["backward U"], axis=tuple(range(2))).max() - 0.5) < 1e-6
    assert model.p[1]["backward b"].max() == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"layer": "embedding", "vocabulary": 9, "units": 2, "input_length": 5},
            "the length is that of the data; leave it out",
        ),
        (
            {"layer": "dense", "units": 2, "input_shape": [4]},
            "the model takes it from the data; leave it out",
        ),
        ({"layer": "conv2d", "filters": 2, "kernel": "3"}, "kernel is '3', expected a whole number"),
        ({"layer": "conv2d", "filters": 2, "kernel": [3, "a"]}, "kernel is 'a', expected a whole number"),
        ({"layer": "bidirectional", "of": {"layer": "lstmm", "units": 2}}, "did you mean 'lstm'"),
    ],
)
def test_settings_of_layers_that_do_not_fit_are_told(spec, message):
    with pytest.raises(ModelError, match=message):
        layer_from(spec)


def test_the_summary_has_every_node():
    text = Functional(branches()).summary()

    assert [line.split()[0] for line in text.splitlines()] == [
        "layer",
        *[layer.kind for layer in branches().layers],
        "total",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Graph.of(Input(3, "x")), "the model has no layers"),
        (lambda: join(Input(3, "x")), "1 sources and 0 layers"),
        (lambda: join(3, Dense(1)), "object is not iterable|no value of a graph"),
        (lambda: join([3], Dense(1)), "3 is no value of a graph; begin with Input"),
        (
            lambda: Model(Graph.of(join((Input(3, "x"), Input(4, "y")), Add()))),
            r"inputs have shapes \(3,\), \(4,\)",
        ),
        (
            lambda: Model(Graph.of(join((Input((3, 2), "x"), Input((4, 2), "y")), Concatenate()))),
            r"put Flatten\(\) before it",
        ),
        (lambda: Model(Graph.of(join((Input(3, "x"), Input(3, "y")), Dense(1)))), "2 inputs, expected one"),
        (lambda: Graph.of(join((Input(3, "x"), Input(3, "x")), Add())), "expected different names"),
        (lambda: Model(Graph.of(join((Input((3, 2), "x"), Input(3, "s")), LSTM(4)))), r"a state \(8,\)"),
        (lambda: Functional(branches()).add(Dense(1)), "expected a whole one"),
        (lambda: graph_from({"inputs": {}}), "expected inputs .* and nodes"),
        (lambda: graph_from({"inputs": {"x": [3]}, "nodes": [{"layer": "flatten"}]}), "from = "),
        (
            lambda: graph_from({"inputs": {"x": [3]}, "nodes": [{"layer": "flatten", "from": [1]}]}),
            "expected places before 1",
        ),
        (
            lambda: graph_from(
                {"inputs": {"x": [3], "y": [3]}, "nodes": [{"layer": "flatten", "from": [0]}]}
            ),
            "nobody reads input 'y'",
        ),
    ],
)
def test_graphs_that_do_not_fit_are_told(make, message):
    with pytest.raises((ModelError, TypeError), match=message):
        make()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({"image": 0, "words": 0, "rwo": 0}, "input 'rwo' is none of this model; did you mean 'row'"),
        ({"image": 0, "words": 0}, "input 'row' is missing"),
        ((1, 2), r"X is 2 arrays, expected 3: \['image', 'words', 'row'\]"),
        (np.zeros((3, 2)), "X is a ndarray, expected 3"),
        (
            {**INPUTS, "image": np.zeros((ROWS, 6, 6))},
            r"input 'image': image has shape .* add it with image\[\.\.\., None\]",
        ),
        ({**INPUTS, "words": INPUTS["words"] + 9}, "input 'words': embedding: X.* expected a token"),
        ({**INPUTS, "row": np.zeros((2, 3))}, "inputs have .* rows, expected as many in each"),
    ],
)
def test_inputs_that_do_not_fit_are_told(X, message):
    with pytest.raises(ModelError, match=message):
        Functional(branches()).predict(X)


def test_several_arrays_for_a_model_of_one_are_told():
    with pytest.raises(ModelError, match="use Functional"):
        Sequential([Dense(1)]).predict((np.zeros((2, 3)), np.zeros((2, 3))))


def test_what_is_not_finite_names_the_layer_of_the_graph():
    model = Model(branches())
    model.init(0)
    model.gradient(BinaryCrossEntropy(), INPUTS, LABELS)
    model.message.dp[4]["U"][0, 1, 2] = np.nan

    with pytest.raises(NonFinite, match=r"gradient of: layer 4 \(lstm\) U \(nan, 1 values\)"):
        model.finish()


FUSED = {
    "dense": ([Flatten(), Dense(5), Activation("gelu"), Dense(2)], 3),
    "conv, activation, pool": ([Conv2D(3, 3), Activation("relu"), MaxPooling2D(2), Flatten(), Dense(2)], 3),
    "conv, pool, activation": ([Conv2D(3, 3), MaxPooling2D(2), Activation("tanh"), Flatten(), Dense(2)], 3),
    "conv with gelu, pool": ([Conv2D(3, 3, activation="gelu"), MaxPooling2D(2), Flatten(), Dense(2)], 4),
    "conv, pool with overlap": ([Conv2D(3, 3), MaxPooling2D(3, 2), Flatten(), Dense(2)], 4),
    "conv, normalization": ([Conv2D(3, 3), BatchNormalization(), Activation("relu"), Flatten(), Dense(2)], 5),
    "conv1d": ([Conv1D(3, 3), Activation("relu"), Flatten(), Dense(2)], 3),
    "head": ([Flatten(), Dense(2), Activation("softmax")], 2),
    "activation of a dense that has one": ([Flatten(), Dense(5, "relu"), Activation("tanh"), Dense(2)], 4),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_steps_are_the_layers_one_by_one(name):
    layers, steps = FUSED[name]
    shape = (9, 2) if name == "conv1d" else (7, 8, 2)
    X, y = RNG.standard_normal((10, *shape)), RNG.standard_normal((10, 2))
    fused = Model(layers, shape, dtype=np.float64)
    plain = Model(layers, shape, dtype=np.float64, fuse=False)

    for model in (fused, plain):
        model.init(5)
        model.gradient(MeanSquaredError(), X, y, rng=Stream(0, "dropout"))

    assert len(fused._body) == steps
    assert len(plain._body) == len(layers) - (name == "head")
    np.testing.assert_allclose(fused.g, plain.g, rtol=0, atol=1e-12)


def test_a_value_that_two_layers_read_is_not_fused_away():
    x = Input(3, "x")
    h = join(x, Dense(3))
    graph = Graph.of(join((h, join(h, Activation("tanh"))), Add(), Dense(1)))

    assert len(Model(graph)._body) == 4
    assert gradient_check(graph, (), MeanSquaredError(), INPUTS["row"], LABELS).error < 1e-7


def test_a_graph_trains_the_same_whatever_the_name_of_its_output():
    model = Functional(residual())
    model.compile(optimizer=SGD(0.01), loss="mean_squared_error")
    X, y = RNG.standard_normal((20, 5, 4)), RNG.standard_normal((20, 2))

    history = model.fit(X, y, epochs=5)

    assert history[-1]["loss"] < history[0]["loss"]
