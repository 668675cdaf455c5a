"""How each layer is written in ONNX.

Images and series keep their channels last, as here; ONNX wants them second, so its convolutions and pools stand between two
transpositions, which onnxruntime removes where two meet.

A new layer needs one function here, in LAYERS.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from dlflow.errors import ModelError
from dlflow.export.recurrent import bidirectional, recurrent
from dlflow.export.writer import Writer
from dlflow.nn import (
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
    Layer,
    LayerNormalization,
    MaxPooling1D,
    MaxPooling2D,
    MultiHeadAttention,
    PositionalEmbedding,
    Rescaling,
    Reshape,
    SimpleRNN,
)
from dlflow.nn.activations import LEAK
from dlflow.nn.params import Shape, Views, Workspace
from dlflow.nn.windows import Axis, axis_of, pair

__all__ = ["LAYERS", "write_layer"]

Kind = TypeVar("Kind", bound=Layer)
Maker = Callable[[Writer, Layer, Views, list[str], Shape, Shape], str]


def write_layer(w: Writer, layer: Layer, p: Views, xs: list[str], in_shape: Shape, out_shape: Shape) -> str:
    """Add the nodes of one layer; give the name of its output. Shapes are those of one sample, of the first input.

    Raises: ModelError for a layer or setting that ONNX does not have.
    """
    write = LAYERS.get(type(layer))
    if write is None:
        raise ModelError(
            f"layer {layer.kind!r} has no form in ONNX here, expected one of {sorted(made.kind for made in LAYERS)!r}; "
            "add one to dlflow.export.layers"
        )
    return write(w, layer, p, xs, in_shape, out_shape)


def _activate(w: Writer, x: str, name: str | None) -> str:
    match name:
        case None | "linear":
            return x
        case "relu" | "tanh" | "sigmoid" | "softplus":
            return w.add(name.capitalize(), x)
        case "leaky_relu":
            return w.add("LeakyRelu", x, alpha=LEAK)
        case "elu":
            return w.add("Elu", x, alpha=1.0)
        case "gelu":
            return w.add("Gelu", x, approximate="tanh")
        case "softmax":
            return w.add("Softmax", x, axis=-1)
    raise ModelError(f"activation {name!r} has no form in ONNX here; add one to dlflow.export.layers")


def _activation(w: Writer, layer: Layer, _p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    return _activate(w, xs[0], _of(layer, Activation).function)


def _dense(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    made = w.add("MatMul", xs[0], w.constant(p["W"], "W"))
    if "b" in p:
        made = w.add("Add", made, w.constant(p["b"], "b"))
    return _activate(w, made, _of(layer, Dense).activation)


def _same(_w: Writer, _layer: Layer, _p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    return xs[0]


def _reshape(w: Writer, _layer: Layer, _p: Views, xs: list[str], _in: Shape, out_shape: Shape) -> str:
    return w.reshape(xs[0], 0, *out_shape)


def _rescaling(w: Writer, layer: Layer, _p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    chosen = _of(layer, Rescaling)
    made = w.add("Mul", xs[0], w.constant(float(chosen.scale)))
    return w.add("Add", made, w.constant(float(chosen.offset))) if chosen.offset else made


def _pads(*axes: Axis) -> dict[str, list[int]]:
    return {
        "kernel_shape": [axis.kernel for axis in axes],
        "strides": [axis.stride for axis in axes],
        "pads": [axis.before for axis in axes] + [axis.after for axis in axes],
    }


def _conv2d(w: Writer, layer: Layer, p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    chosen = _of(layer, Conv2D)
    axes = chosen.axes(in_shape)
    inputs = [w.transpose(xs[0], 0, 3, 1, 2), w.constant(p["W"].transpose(3, 2, 0, 1), "W")]
    if "b" in p:
        inputs.append(w.constant(p["b"], "b"))
    made = w.add("Conv", *inputs, group=chosen.groups, dilations=list(pair(chosen.dilation)), **_pads(*axes))
    return _activate(w, w.transpose(made, 0, 2, 3, 1), chosen.activation)


def _conv1d(w: Writer, layer: Layer, p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    chosen = _of(layer, Conv1D)
    axis = axis_of(chosen.kind, in_shape[0], chosen.kernel, chosen.stride, chosen.dilation, chosen.padding)
    inputs = [w.transpose(xs[0], 0, 2, 1), w.constant(p["W"].transpose(2, 1, 0), "W")]
    if "b" in p:
        inputs.append(w.constant(p["b"], "b"))
    made = w.add("Conv", *inputs, group=chosen.groups, dilations=[chosen.dilation], **_pads(axis))
    return _activate(w, w.transpose(made, 0, 2, 1), chosen.activation)


def _pool2d(w: Writer, layer: Layer, _p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    if not isinstance(layer, (AveragePooling2D, MaxPooling2D)):
        raise TypeError(layer)
    size = pair(layer.size)
    stride = size if layer.stride is None else pair(layer.stride)
    axes = [axis_of(layer.kind, in_shape[i], size[i], stride[i], 1, layer.padding) for i in (0, 1)]
    op = "MaxPool" if isinstance(layer, MaxPooling2D) else "AveragePool"
    return w.transpose(w.add(op, w.transpose(xs[0], 0, 3, 1, 2), **_pads(*axes)), 0, 2, 3, 1)


def _pool1d(w: Writer, layer: Layer, _p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    if not isinstance(layer, (AveragePooling1D, MaxPooling1D)):
        raise TypeError(layer)
    stride = layer.size if layer.stride is None else layer.stride
    axis = axis_of(layer.kind, in_shape[0], layer.size, stride, 1, layer.padding)
    op = "MaxPool" if isinstance(layer, MaxPooling1D) else "AveragePool"
    return w.transpose(w.add(op, w.transpose(xs[0], 0, 2, 1), **_pads(axis)), 0, 2, 1)


def _global_pool(w: Writer, layer: Layer, _p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    axes = w.constant(list(range(1, len(in_shape))), "axes")
    maximum = isinstance(layer, (GlobalMaxPooling1D, GlobalMaxPooling2D))
    return w.add("ReduceMax" if maximum else "ReduceMean", xs[0], axes, keepdims=0)


def _embedding(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    if _of(layer, Embedding).mask_zero:
        raise ModelError(
            "embedding with mask_zero cannot be exported: ONNX knows no masks; give sequences of one length and mask_zero=False"
        )
    tokens = w.add("Cast", xs[0], to=7)  # int64; nothing is done where it is that already
    return w.add("Gather", w.constant(p["W"], "W"), tokens, axis=0)


def _positions(w: Writer, layer: Layer, p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    rows, _ = layer.forward(p, np.zeros((1, *in_shape), np.float32), None, Workspace())
    return w.add("Add", xs[0], w.constant(rows[0].copy(), "positions"))


def _batch_normalization(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    factor = p["scale"] / np.sqrt(p["variance"] + np.float32(_of(layer, BatchNormalization).epsilon))
    made = w.add("Mul", xs[0], w.constant(factor, "scale"))
    return w.add("Add", made, w.constant(p["shift"] - p["mean"] * factor, "shift"))


def _layer_normalization(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    scale, shift = w.constant(p["scale"], "scale"), w.constant(p["shift"], "shift")
    epsilon = _of(layer, LayerNormalization).epsilon
    return w.add("LayerNormalization", xs[0], scale, shift, axis=-1, epsilon=epsilon)


def _concatenate(w: Writer, _layer: Layer, _p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    return w.add("Concat", *xs, axis=-1)


def _add(w: Writer, _layer: Layer, _p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    return w.add("Sum", *xs)


def _attention(w: Writer, layer: Layer, p: Views, xs: list[str], in_shape: Shape, _out: Shape) -> str:
    chosen, steps = _of(layer, MultiHeadAttention), in_shape[0]
    heads = chosen.heads
    size = len(p["O"]) // heads
    projections = [(xs[0], "W", "b"), (xs[-1], "N", "n")] if "N" in p else [(xs[0], "W", "b")]
    found = []
    for x, weights, bias in projections:
        made = w.add("Add", w.add("MatMul", x, w.constant(p[weights], weights)), w.constant(p[bias], bias))
        count = p[weights].shape[1] // (heads * size)
        parts = w.transpose(w.reshape(made, 0, -1, count, heads, size), 2, 0, 3, 1, 4)
        found += [w.add("Gather", parts, w.constant(number), axis=0) for number in range(count)]
    Q, K, V = found
    A = w.add("MatMul", Q, w.transpose(K, 0, 1, 3, 2))
    A = w.add("Mul", A, w.constant(size**-0.5))
    if chosen.causal:
        lowest = np.finfo(np.float32).min / 2
        A = w.add("Add", A, w.constant(np.triu(np.full((steps, steps), lowest, np.float32), 1), "later"))
    seen = w.transpose(w.add("MatMul", w.add("Softmax", A, axis=-1), V), 0, 2, 1, 3)
    joined = w.reshape(seen, 0, steps, heads * size)
    return w.add("Add", w.add("MatMul", joined, w.constant(p["O"], "O")), w.constant(p["c"], "c"))


def _recurrent(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    if not isinstance(layer, (GRU, LSTM, SimpleRNN)):
        raise TypeError(layer)
    return recurrent(w, layer, p, xs)


def _bidirectional(w: Writer, layer: Layer, p: Views, xs: list[str], _in: Shape, _out: Shape) -> str:
    return bidirectional(w, _of(layer, Bidirectional), p, xs[0])


def _of(layer: Layer, kind: type[Kind]) -> Kind:
    if not isinstance(layer, kind):
        raise TypeError(layer)
    return layer


LAYERS: dict[type[Layer], Maker] = {
    Activation: _activation,
    Add: _add,
    AveragePooling1D: _pool1d,
    AveragePooling2D: _pool2d,
    BatchNormalization: _batch_normalization,
    Bidirectional: _bidirectional,
    Concatenate: _concatenate,
    Conv1D: _conv1d,
    Conv2D: _conv2d,
    Dense: _dense,
    Dropout: _same,
    Embedding: _embedding,
    Flatten: _reshape,
    GRU: _recurrent,
    GlobalAveragePooling1D: _global_pool,
    GlobalAveragePooling2D: _global_pool,
    GlobalMaxPooling1D: _global_pool,
    GlobalMaxPooling2D: _global_pool,
    LSTM: _recurrent,
    LayerNormalization: _layer_normalization,
    MaxPooling1D: _pool1d,
    MaxPooling2D: _pool2d,
    MultiHeadAttention: _attention,
    PositionalEmbedding: _positions,
    Rescaling: _rescaling,
    Reshape: _reshape,
    SimpleRNN: _recurrent,
}
