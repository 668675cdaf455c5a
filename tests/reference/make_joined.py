"""Make joined.npz: attention of one sequence to another, and recurrent layers over two batches, computed by PyTorch in float64.

Run where torch is installed (2.13.0 was used), from anywhere:

    python make_joined.py

Each case has inputs, parameters as dlflow names and shapes them, outputs, random gradients at the outputs, and the gradients of
sum(Y * dY) at inputs and parameters.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

RNG = np.random.default_rng(17)
OUT = {}


def normal(*shape):
    return RNG.standard_normal(shape)


def leaf(value):
    return torch.tensor(value, requires_grad=True)


def cross_attention(name, *, heads, size, counted):
    B, T, S, E, F = 3, 4, 5, 6, 7
    inner = heads * size
    shapes = {
        "W": (E, inner),
        "b": (inner,),
        "N": (F, 2 * inner),
        "n": (2 * inner,),
        "O": (inner, E),
        "c": (E,),
    }
    p = {key: leaf(normal(*shape)) for key, shape in shapes.items()}
    X, M, dY = leaf(normal(B, T, E)), leaf(normal(B, S, F)), normal(B, T, E)
    counts = np.ones((B, S), bool)
    if counted:
        counts[0, 3:], counts[2, :2] = False, False

    def split(Z):
        return Z.reshape(B, Z.shape[1], heads, size).transpose(1, 2)

    Q = split(X @ p["W"] + p["b"])
    K, V = (split(each) for each in (M @ p["N"] + p["n"]).split(inner, dim=2))
    hidden = torch.tensor(counts)[:, None, None, :]
    seen = nn.functional.scaled_dot_product_attention(Q, K, V, attn_mask=hidden)
    Y = seen.transpose(1, 2).reshape(B, T, inner) @ p["O"] + p["c"]
    (Y * torch.tensor(dY)).sum().backward()
    OUT.update({f"{name}/X": X.detach(), f"{name}/M": M.detach(), f"{name}/Y": Y.detach(), f"{name}/dY": dY})
    OUT.update({f"{name}/counts": counts, f"{name}/dX": X.grad, f"{name}/dM": M.grad})
    for key, value in p.items():
        OUT.update({f"{name}/{key}": value.detach(), f"{name}/d{key}": value.grad})


# the gates of PyTorch in the order of dlflow: LSTM i, f, g, o -> i, f, o, g
KINDS = {"simple_rnn": (nn.RNN, [0]), "lstm": (nn.LSTM, [0, 1, 3, 2]), "gru": (nn.GRU, [0, 1, 2])}


def two_batches(name):
    """The second batch begins where the first ended; no gradient goes from it to the first."""
    kind, order = KINDS[name]
    B, T, I, H, G = 3, 5, 4, 3, len(order)  # noqa: E741
    layer = kind(I, H, batch_first=True).double()
    X, dY = normal(2, B, T, I), normal(2, B, T, H)
    state = None
    for batch in range(2):
        layer.zero_grad()
        leaf_X = leaf(X[batch])
        Y, state = layer(leaf_X, state)
        (Y * torch.tensor(dY[batch])).sum().backward()
        state = tuple(each.detach() for each in state) if name == "lstm" else state.detach()
        OUT.update({f"{name}/Y{batch}": Y.detach(), f"{name}/dX{batch}": leaf_X.grad})
        OUT[f"{name}/dW{batch}"] = (
            layer.weight_ih_l0.grad.reshape(G, H, I)[order].transpose(1, 2).numpy().copy()
        )
        OUT[f"{name}/dU{batch}"] = (
            layer.weight_hh_l0.grad.reshape(G, H, H)[order].transpose(1, 2).numpy().copy()
        )
        OUT[f"{name}/db{batch}"] = layer.bias_ih_l0.grad.reshape(G, H)[order].numpy().copy()
    OUT.update({f"{name}/X": X, f"{name}/dY": dY})
    OUT[f"{name}/W"] = layer.weight_ih_l0.detach().reshape(G, H, I)[order].transpose(1, 2)
    OUT[f"{name}/U"] = layer.weight_hh_l0.detach().reshape(G, H, H)[order].transpose(1, 2)
    b, again = (each.detach().reshape(G, H)[order].clone() for each in (layer.bias_ih_l0, layer.bias_hh_l0))
    if name == "gru":  # its last bias is within the product with r
        OUT[f"{name}/c"] = again[2].clone()
        again[2] = 0
    OUT[f"{name}/b"] = b + again


def main():
    torch.manual_seed(5)
    cross_attention("cross", heads=2, size=3, counted=False)
    cross_attention("cross mask", heads=2, size=2, counted=True)
    for name in KINDS:
        two_batches(name)
    arrays = {key: np.asarray(value) for key, value in OUT.items()}
    np.savez_compressed(Path(__file__).with_name("joined.npz"), **arrays)
    print(len(arrays), "arrays")


if __name__ == "__main__":
    main()
