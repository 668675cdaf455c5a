"""Every layer in ONNX, verified in onnxruntime."""

import json

import numpy as np
import onnx
import pytest

from dlflow.errors import ModelError, ModelFileError
from dlflow.export import difference, save_onnx
from dlflow.export.layers import LAYERS
from dlflow.nn import (
    ACTIVATIONS,
    GRU,
    LSTM,
    Activation,
    Add,
    AveragePooling1D,
    AveragePooling2D,
    BatchNormalization,
    Bidirectional,
    Concatenate,
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
    Graph,
    Input,
    LayerNormalization,
    MaxPooling1D,
    MaxPooling2D,
    Model,
    MultiHeadAttention,
    PositionalEmbedding,
    Rescaling,
    Reshape,
    SimpleRNN,
    Stream,
    join,
    spec,
)

IMAGE, SERIES = (9, 8, 4), (7, 4)
RECURRENT = [
    each
    for kind in (GRU, LSTM, SimpleRNN)
    for each in (
        kind(5),
        kind(5, return_sequences=True),
        kind(5, return_state=True),
        kind(5, go_backwards=True, return_sequences=True),
        Bidirectional(kind(3, return_sequences=True)),
        Bidirectional(kind(3), merge="sum"),
    )
]
CASES = [
    *[([Dense(6), Activation(name)], (5,)) for name in sorted(ACTIVATIONS)],
    *[([Dense(6, name)], SERIES) for name in ("relu", "softmax", "gelu")],
    ([Dense(6, use_bias=False), Dropout(0.5), Dense(2)], (5,)),
    ([Flatten(), Dense(3), Reshape((3, 1))], IMAGE),
    ([Rescaling(1 / 255), Rescaling(2.0, -1.0)], IMAGE),
    ([Conv2D(6, 3, activation="relu"), MaxPooling2D(2), Conv2D(3, 2, padding="same")], IMAGE),
    ([Conv2D(6, (3, 2), stride=(2, 1), padding="same", groups=2, use_bias=False)], IMAGE),
    ([Conv2D(4, 2, dilation=2, activation="softmax")], IMAGE),
    ([Conv1D(6, 3, padding="same", stride=2, activation="elu"), MaxPooling1D(2)], SERIES),
    ([Conv1D(4, 2, dilation=2, groups=2), AveragePooling1D(3, 2, padding="same")], SERIES),
    ([MaxPooling2D(3, stride=2, padding="same"), AveragePooling2D((2, 3), padding="same")], IMAGE),
    ([GlobalAveragePooling2D()], IMAGE),
    ([GlobalMaxPooling2D()], IMAGE),
    ([GlobalAveragePooling1D()], SERIES),
    ([GlobalMaxPooling1D()], SERIES),
    ([BatchNormalization(), LayerNormalization()], IMAGE),
    ([PositionalEmbedding(), MultiHeadAttention(2)], SERIES),
    ([PositionalEmbedding(learned=False), MultiHeadAttention(2, size=3, causal=True)], SERIES),
    *[([layer], SERIES) for layer in RECURRENT],
    ([SimpleRNN(5, activation="relu")], SERIES),
]


def random_model(layers, in_shape=()):
    """A model whose weights are all different from what they are at first."""
    model = Model(layers, in_shape)
    model.init(1)
    model.w += 0.3 * Stream(0, "sample").uniform(model.w.shape)
    return model


@pytest.mark.parametrize(("layers", "in_shape"), CASES)
@pytest.mark.parametrize("rows", [1, 3])
def test_onnxruntime_says_what_the_model_says(tmp_path, layers, in_shape, rows):
    model = random_model(layers, in_shape)
    X = np.random.default_rng(0).standard_normal((rows, *in_shape), dtype=np.float32)

    save_onnx(tmp_path / "m.onnx", model)

    assert difference(tmp_path / "m.onnx", model, X) < 2e-5


def test_a_text_classifier_takes_tokens(tmp_path):
    model = random_model([Embedding(30, 4), LSTM(5), Dense(2, "softmax")], (6,))

    save_onnx(tmp_path / "m.onnx", model, metadata={"classes": ["nein", "ja"]})

    tokens = np.arange(18).reshape(3, 6)
    assert difference(tmp_path / "m.onnx", model, tokens) < 1e-5
    file = onnx.load(tmp_path / "m.onnx")
    assert json.loads(file.metadata_props[0].value) == {"classes": ["nein", "ja"]}
    assert [each.name for each in file.graph.input] == ["X"]


def test_a_model_with_branches_keeps_the_names_of_its_inputs(tmp_path):
    image, row, words = Input(IMAGE, "image"), Input(3, "row"), Input(5, "words")
    seen = join(image, Conv2D(4, 3, activation="relu"), GlobalMaxPooling2D())
    start = join(words, Embedding(9, 4), LSTM(4, return_state=True))
    read = join((join(words, Embedding(9, 4)), start), LSTM(4))
    both = join((seen, join(row, Dense(4))), Add())
    model = random_model(Graph.of(join((both, read, row), Concatenate(), Dense(1, "sigmoid"))))
    rng = np.random.default_rng(0)
    X = {
        "image": rng.standard_normal((2, *IMAGE)),
        "row": rng.standard_normal((2, 3)),
        "words": rng.integers(0, 9, (2, 5)),
    }

    save_onnx(tmp_path / "m.onnx", model)

    assert difference(tmp_path / "m.onnx", model, X) < 1e-5
    assert {each.name for each in onnx.load(tmp_path / "m.onnx").graph.input} == set(X)


def test_every_layer_has_its_form():
    assert set(LAYERS) == set(spec.LAYERS.values())


@pytest.mark.parametrize(
    ("layers", "in_shape", "message"),
    [
        (
            [Embedding(9, 2, mask_zero=True), GRU(2)],
            (4,),
            "layer 0: embedding with mask_zero cannot be exported",
        ),
        ([SimpleRNN(2, activation="elu")], SERIES, "simple_rnn with activation 'elu' cannot be exported"),
    ],
)
def test_what_onnx_does_not_have_is_told(tmp_path, layers, in_shape, message):
    with pytest.raises(ModelError, match=message):
        save_onnx(tmp_path / "m.onnx", Model(layers, in_shape))

    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_and_a_name_that_is_taken_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        save_onnx(tmp_path / "file" / "m", Model([Dense(1)], 2))
    with pytest.raises(ModelError, match="'Y'"):
        save_onnx(tmp_path / "m", Model(Graph.of(join(Input(2, "Y"), Dense(1)))))
    with pytest.raises(ModelError, match="no JSON"):
        save_onnx(tmp_path / "m", Model([Dense(1)], 2), metadata={"x": object()})
