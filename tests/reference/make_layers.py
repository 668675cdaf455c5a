"""Make layers.npz: outputs and gradients of single layers, computed by PyTorch in float64.

Run where torch is installed (2.13.0 was used), from anywhere:

    python make_layers.py

Each case has an input X, parameters as dlflow names and shapes them, the output Y, a random gradient dY at the output, and the
gradients dX and d<parameter> of sum(Y * dY).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

RNG = np.random.default_rng(11)
OUT = {}


def case(name, forward, X, **parameters):
    """Run `forward(X, **parameters)` on tensors; store everything. X of whole numbers gets no gradient."""
    X = np.asarray(X)
    leaf = torch.tensor(X, requires_grad=X.dtype.kind == "f")
    leaves = {key: torch.tensor(value, requires_grad=True) for key, value in parameters.items()}
    Y = forward(leaf, **leaves)
    dY = RNG.standard_normal(Y.shape)
    (Y * torch.tensor(dY)).sum().backward()
    OUT.update({f"{name}/X": X, f"{name}/Y": Y.detach().numpy(), f"{name}/dY": dY})
    if leaf.grad is not None:
        OUT[f"{name}/dX"] = leaf.grad.numpy()
    for key, value in parameters.items():
        OUT[f"{name}/{key}"] = value
        grad = leaves[key].grad
        OUT[f"{name}/d{key}"] = np.zeros_like(value) if grad is None else grad.numpy()


def normal(*shape):
    return RNG.standard_normal(shape)


def nchw(function):
    """A function of channels-first images on channels-last ones."""
    return lambda X, **p: function(X.permute(0, 3, 1, 2), **p).permute(0, 2, 3, 1)


def nct(function):
    return lambda X, **p: function(X.permute(0, 2, 1), **p).permute(0, 2, 1)


def same(X, kernel, stride):
    """Padding as Keras pads: the odd zero at the end."""
    missing = []
    for length in reversed(X.shape[2:]):
        total = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        missing += [total // 2, total - total // 2]
    return missing


def activations():
    X = normal(6, 5) * 2
    functions = {
        "elu": F.elu,
        "gelu": lambda Z: F.gelu(Z, approximate="tanh"),
        "leaky_relu": F.leaky_relu,
        "linear": lambda Z: 1 * Z,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "softmax": lambda Z: torch.softmax(Z, -1),
        "softplus": F.softplus,
        "tanh": torch.tanh,
    }
    for name, function in functions.items():
        case(f"activation {name}", function, X)


def convolutions():
    X, S = normal(3, 7, 6, 4), normal(3, 11, 4)
    kernel, bias = normal(3, 2, 4, 6), normal(6)

    def conv2d(**settings):
        return nchw(lambda Z, W, b: F.conv2d(Z, W.permute(3, 2, 0, 1), b, **settings))

    case("conv2d", conv2d(), X, W=kernel, b=bias)
    case("conv2d stride", conv2d(stride=2), X, W=kernel, b=bias)
    case("conv2d dilation", conv2d(dilation=(2, 3)), X, W=kernel, b=bias)
    case("conv2d groups", conv2d(groups=2), X, W=normal(3, 2, 2, 6), b=bias)
    padded = nchw(lambda Z, W, b: F.conv2d(F.pad(Z, same(Z, 3, 2)), W.permute(3, 2, 0, 1), b, stride=2))
    case("conv2d same", padded, X, W=normal(3, 3, 4, 6), b=bias)
    pooled = nchw(lambda Z, W, b: F.max_pool2d(torch.relu(F.conv2d(Z, W.permute(3, 2, 0, 1), b)), 2))
    case("conv2d relu pool", pooled, X, W=kernel, b=bias)
    row = nct(lambda Z, W, b: F.conv1d(Z, W.permute(2, 1, 0), b, stride=2, dilation=2))
    case("conv1d", row, S, W=normal(3, 4, 5), b=normal(5))


def pools():
    X, S = normal(3, 7, 6, 4), normal(3, 11, 4)
    case("max_pooling2d", nchw(lambda Z: F.max_pool2d(Z, 3, 2)), X)
    case("max_pooling2d same", nchw(lambda Z: F.max_pool2d(F.pad(Z, same(Z, 2, 2), value=-np.inf), 2, 2)), X)
    case("average_pooling2d", nchw(lambda Z: F.avg_pool2d(Z, 2)), X)
    case("max_pooling1d", nct(lambda Z: F.max_pool1d(Z, 3, 2)), S)
    case("average_pooling1d", nct(lambda Z: F.avg_pool1d(Z, 3)), S)
    case("global_average_pooling2d", lambda Z: Z.mean((1, 2)), X)
    case("global_max_pooling2d", lambda Z: Z.amax((1, 2)), X)
    case("global_average_pooling1d", lambda Z: Z.mean(1), S)
    case("global_max_pooling1d", lambda Z: Z.amax(1), S)


def normalizations():
    C = 4
    scale, shift, mean, variance = normal(C), normal(C), normal(C), RNG.uniform(0.5, 2, C)
    for name, shape in {"vectors": (9, C), "images": (3, 5, 4, C)}.items():
        for training in (True, False):
            seen = torch.tensor(mean), torch.tensor(variance)

            def batch_norm(Z, scale, shift, seen=seen, training=training):
                flat = Z.reshape(-1, C)
                return F.batch_norm(flat, *seen, scale, shift, training, 0.1, 1e-3).reshape(Z.shape)

            key = f"batch_normalization {name} {'training' if training else 'prediction'}"
            case(key, batch_norm, normal(*shape), scale=scale, shift=shift)
            OUT.update({f"{key}/mean": mean, f"{key}/variance": variance})
            OUT.update({f"{key}/mean after": seen[0].numpy(), f"{key}/variance after": seen[1].numpy()})
    layer_norm = lambda Z, scale, shift: F.layer_norm(Z, (C,), scale, shift, 1e-3)  # noqa: E731
    case("layer_normalization", layer_norm, normal(3, 5, C), scale=scale, shift=shift)


def recurrent(kind, X, W, U, b, c=None, *, backwards=False, sequences=True, truncate=None):
    """Our gate order into PyTorch's, and its cell step by step."""
    order = {"lstm": [0, 1, 3, 2], "gru": [0, 1, 2], "simple_rnn": [0]}[kind]
    cell = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell, "simple_rnn": torch.nn.RNNCell}[kind]
    inputs, H = W.shape[1:]
    made = cell(inputs, H).double()
    weights = {
        "weight_ih": torch.cat([W[gate].T for gate in order]),
        "weight_hh": torch.cat([U[gate].T for gate in order]),
        "bias_ih": torch.cat([b[gate] for gate in order]),
        "bias_hh": torch.zeros(len(order) * H).double(),
    }
    if c is not None:
        weights["bias_hh"] = torch.cat([torch.zeros(2 * H).double(), c])
    state = torch.zeros(len(X), H).double()
    state = (state, state) if kind == "lstm" else state
    outputs = []
    times = range(X.shape[1])
    for count, t in enumerate(reversed(times) if backwards else times):
        if truncate and count and count % truncate == 0:
            state = tuple(s.detach() for s in state) if kind == "lstm" else state.detach()
        state = torch.func.functional_call(made, weights, (X[:, t], state))
        outputs.append(state[0] if kind == "lstm" else state)
    return torch.stack(outputs, 1) if sequences else outputs[-1]


def recurrents():
    H, inputs, X = 4, 3, normal(5, 7, 3)
    for kind, gates in {"simple_rnn": 1, "lstm": 4, "gru": 3}.items():
        parameters = {"W": normal(gates, inputs, H), "U": normal(gates, H, H), "b": normal(gates, H)}
        if kind == "gru":
            parameters["c"] = normal(H)
        for name, settings in {
            "": {"sequences": False},
            " sequences": {},
            " backwards": {"backwards": True},
            " truncate": {"truncate": 3},
        }.items():
            case(kind + name, lambda Z, k=kind, s=settings, **p: recurrent(k, Z, **p, **s), X, **parameters)


def attention(X, W, b, O, c, *, causal, hidden=None):  # noqa: E741
    inner, heads = len(O), 2
    module = torch.nn.MultiheadAttention(inner, heads, batch_first=True).double()
    weights = {
        "in_proj_weight": W.T,
        "in_proj_bias": b,
        "out_proj.weight": O.T,
        "out_proj.bias": c,
    }
    later = torch.triu(torch.ones(X.shape[1], X.shape[1], dtype=torch.bool), 1) if causal else None
    settings = {"need_weights": False, "attn_mask": later, "key_padding_mask": hidden}
    return torch.func.functional_call(module, weights, (X, X, X), settings)[0]


def attentions():
    E = 6
    parameters = {"W": normal(E, 3 * E), "b": normal(3 * E), "O": normal(E, E), "c": normal(E)}
    X = normal(3, 5, E)
    for causal in (False, True):
        name = f"multi_head_attention{' causal' if causal else ''}"
        case(name, lambda Z, causal=causal, **p: attention(Z, **p, causal=causal), X, **parameters)
    counts = np.arange(5) < np.array([[5], [3], [2]])
    hidden = torch.tensor(~counts)
    case(
        "multi_head_attention mask",
        lambda Z, **p: attention(Z, **p, causal=False, hidden=hidden),
        X,
        **parameters,
    )
    OUT["multi_head_attention mask/counts"] = counts


def embeddings():
    tokens = RNG.integers(0, 9, (4, 7))
    case("embedding", lambda Z, W: F.embedding(Z, W), tokens, W=normal(9, 5))
    X = normal(4, 7, 5)
    case("positional_embedding", lambda Z, W: Z + W, X, W=normal(7, 5))


def main():
    for make in (activations, convolutions, pools, normalizations, recurrents, attentions, embeddings):
        make()
    np.savez_compressed(Path(__file__).with_name("layers.npz"), **OUT)


if __name__ == "__main__":
    main()
