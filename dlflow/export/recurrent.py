"""Recurrent layers in ONNX: its gates have another order, and its sequences the time first.

here   LSTM i, f, o, g    GRU r, z, n        W (G, I, H), U (G, H, H), b (G, H), of a GRU c (H,)
ONNX   LSTM i, o, f, c    GRU z, r, h        W (1, G H, I), R (1, G H, H), B (1, 2 G H): input biases, then recurrent ones
"""

from dataclasses import replace

import numpy as np

from dlflow.errors import ModelError
from dlflow.export.writer import Writer
from dlflow.nn import GRU, LSTM, Bidirectional, SimpleRNN
from dlflow.nn.params import Array, Views

__all__ = ["bidirectional", "recurrent"]

OP = {GRU: "GRU", LSTM: "LSTM", SimpleRNN: "RNN"}
ORDER = {GRU: (1, 0, 2), LSTM: (0, 2, 1, 3), SimpleRNN: (0,)}
FUNCTIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus", "tanh": "Tanh"}


def recurrent(w: Writer, layer: GRU | LSTM | SimpleRNN, p: Views, xs: list[str]) -> str:
    """One layer in one direction; the second input is the state to begin with.

    Raises: ModelError for an activation that the RNN of ONNX does not have.
    """
    kind = type(layer)
    if layer.stateful:
        raise ModelError(
            f"{layer.kind} is stateful, which a file that answers rows one by one cannot be; export the model without stateful, the weights fit"
        )
    X = w.transpose(xs[0], 1, 0, 2)
    if layer.go_backwards:  # its outputs stay in the order in which they are made
        X = w.reverse(X, 0)
    settings = {"hidden_size": layer.units}
    if isinstance(layer, GRU):
        settings["linear_before_reset"] = 1
    attributes: dict[str, object] = dict(settings)
    if isinstance(layer, SimpleRNN):
        if layer.activation not in FUNCTIONS:
            raise ModelError(
                f"simple_rnn with activation {layer.activation!r} cannot be exported, expected one of {sorted(FUNCTIONS)!r}"
            )
        attributes["activations"] = [FUNCTIONS[layer.activation]]
    inputs = [X, *(w.constant(each, name) for each, name in zip(_weights(layer, p), "WRB", strict=True))]
    if len(xs) > 1:
        states = w.add_many("Split", 2, xs[1], axis=1, num_outputs=2) if layer.states == 2 else [xs[1]]
        inputs += ["", *(w.add("Unsqueeze", state, w.constant([0])) for state in states)]
    Y, *last = w.add_many(OP[kind], 1 + layer.states, *inputs, **attributes)
    if layer.return_state:
        flat = [w.add("Squeeze", state, w.constant([0])) for state in last]
        return flat[0] if len(flat) == 1 else w.add("Concat", *flat, axis=-1)
    if layer.return_sequences:
        return w.transpose(w.add("Squeeze", Y, w.constant([1])), 1, 0, 2)
    return w.add("Squeeze", last[0], w.constant([0]))


def bidirectional(w: Writer, layer: Bidirectional, p: Views, x: str) -> str:
    """Both directions, the second turned round."""
    of = layer.of
    if not isinstance(of, (GRU, LSTM, SimpleRNN)):
        raise TypeError(of)
    made = []
    for prefix, each in (("forward ", of), ("backward ", replace(of, go_backwards=True))):
        own = {name.removeprefix(prefix): view for name, view in p.items() if name.startswith(prefix)}
        y = recurrent(w, each, own, [x])
        made.append(w.reverse(y, 1) if each.go_backwards and each.return_sequences else y)
    return w.add("Add", *made) if layer.merge == "sum" else w.add("Concat", *made, axis=-1)


def _weights(layer: GRU | LSTM | SimpleRNN, p: Views) -> tuple[Array, Array, Array]:
    order = list(ORDER[type(layer)])
    G, I, H = p["W"].shape  # noqa: E741  (the letter of the formula)
    W = p["W"][order].transpose(0, 2, 1).reshape(1, G * H, I)
    R = p["U"][order].transpose(0, 2, 1).reshape(1, G * H, H)
    again = np.zeros((G, H), np.float32)
    if "c" in p:
        again[2] = p["c"]
    B = np.concatenate([p["b"][order].reshape(-1), again.reshape(-1)])[None]
    return W, R, B
