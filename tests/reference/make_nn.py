"""Make nn.npz: losses, gradients and optimizer paths of small dense networks, computed by PyTorch in float64.

Run where torch is installed (2.13.0 was used), from anywhere:

    python make_nn.py

Weights lie in the flat vector as dlflow lays them out: W (inputs, outputs), then b, layer by layer.
"""

import itertools
from pathlib import Path

import numpy as np
import torch

SIZES = {"mse": (5, 7, 3), "bce": (5, 6, 1), "cce": (5, 8, 4), "scce": (5, 8, 6, 4)}
HIDDEN = {"mse": ["tanh"], "bce": ["relu"], "cce": ["elu"], "scce": ["sigmoid", "softplus"]}
FUNCTIONS = {
    "elu": torch.nn.functional.elu,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "softplus": torch.nn.functional.softplus,
    "tanh": torch.tanh,
}
CLASS_WEIGHTS = [0.5, 2.0, 1.0, 3.0]
STEPS = 25


def forward(case, w, X):
    at, H = 0, X
    for layer, (inputs, outputs) in enumerate(zip(SIZES[case], SIZES[case][1:], strict=False)):
        W = w[at : at + inputs * outputs].reshape(inputs, outputs)
        at += inputs * outputs
        H = H @ W + w[at : at + outputs]
        at += outputs
        if layer < len(HIDDEN[case]):
            H = FUNCTIONS[HIDDEN[case][layer]](H)
    return H


def mean_loss(case, w, X, y, weights):
    """Weighted mean: the sum of weighted losses over the sum of weights."""
    Z = forward(case, w, X)
    if case == "mse":
        losses = ((Z - y) ** 2).mean(dim=1)
    elif case == "bce":
        losses = torch.nn.functional.binary_cross_entropy(torch.sigmoid(Z)[:, 0], y, reduction="none")
    elif case == "cce":
        losses = torch.nn.functional.cross_entropy(Z, y, reduction="none")
    else:
        return torch.nn.functional.cross_entropy(Z, y, weight=torch.tensor(CLASS_WEIGHTS).double())
    return (losses * weights).sum() / weights.sum()


def optimizers(parameters):
    return {
        "sgd": torch.optim.SGD(parameters, lr=0.1),
        "momentum": torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        "nesterov": torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True),
        "adam": torch.optim.Adam(parameters, lr=0.01, betas=(0.9, 0.99), eps=1e-7),
    }


def main():
    rng = np.random.default_rng(7)
    out, rows = {}, 11
    labels = {
        "mse": rng.standard_normal((rows, 3)),
        "bce": rng.integers(0, 2, rows).astype(float),
        "cce": rng.dirichlet(np.ones(4), rows),
        "scce": rng.integers(0, 4, rows),
    }
    for case, sizes in SIZES.items():
        parameters = sum((i + 1) * o for i, o in itertools.pairwise(sizes))
        X, w0 = rng.standard_normal((rows, 5)), 0.5 * rng.standard_normal(parameters)
        weights = np.ones(rows) if case == "scce" else rng.uniform(0, 3, rows)
        data = [torch.tensor(each) for each in (X, labels[case], weights)]
        w = torch.tensor(w0, requires_grad=True)
        loss = mean_loss(case, w, *data)
        loss.backward()
        out |= {f"{case}/X": X, f"{case}/y": labels[case], f"{case}/weights": weights, f"{case}/w": w0}
        out |= {f"{case}/loss": loss.item(), f"{case}/gradient": w.grad.numpy().copy()}
        for name in optimizers([torch.zeros(1, requires_grad=True)]):
            v = torch.tensor(w0, requires_grad=True)
            optimizer = optimizers([v])[name]
            for _ in range(STEPS):
                optimizer.zero_grad()
                mean_loss(case, v, *data).backward()
                optimizer.step()
            out[f"{case}/{name}"] = v.detach().numpy().copy()
    np.savez_compressed(Path(__file__).with_name("nn.npz"), **out)


if __name__ == "__main__":
    main()
