"""Make training.npz: losses with their gradients, optimizer paths, clipping and schedules, computed by PyTorch in float64.

Run where torch is installed (2.13.0 was used), from anywhere:

    python make_training.py
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

STEPS = 25


def losses(rng):
    """Mean losses of logits Z (9, 4), their labels and their gradients at Z."""
    Z = 2 * rng.standard_normal((9, 4))
    y, soft = rng.integers(0, 4, 9), rng.dirichlet(np.ones(4), 9)
    bits, values = rng.integers(0, 2, (9, 4)).astype(float), 2 * rng.standard_normal((9, 4))
    steps = rng.integers(-1, 4, (3, 3))
    smooth = bits * 0.8 + 0.1

    def torch_of(array):
        return torch.tensor(array)

    made = {
        "mse_half_sum": (values, lambda Z: 0.5 * ((Z - torch_of(values)) ** 2).sum(1).mean()),
        "mae": (values, lambda Z: functional.l1_loss(Z, torch_of(values))),
        "huber": (values, lambda Z: functional.huber_loss(Z, torch_of(values), delta=0.7)),
        "kl": (
            soft,
            lambda Z: functional.kl_div(functional.log_softmax(Z, 1), torch_of(soft), reduction="batchmean"),
        ),
        "bce_smooth": (bits, lambda Z: functional.binary_cross_entropy_with_logits(Z, torch_of(smooth))),
        "bce_probabilities": (
            bits,
            lambda Z: functional.binary_cross_entropy(torch.sigmoid(Z), torch_of(bits)),
        ),
        "cce_smooth": (soft, lambda Z: functional.cross_entropy(Z, torch_of(soft), label_smoothing=0.1)),
        "scce_smooth": (y, lambda Z: functional.cross_entropy(Z, torch_of(y), label_smoothing=0.1)),
        "scce_probabilities": (y, lambda Z: functional.nll_loss(torch.log(torch.softmax(Z, 1)), torch_of(y))),
        "scce_ignored": (
            steps,
            lambda Z: functional.cross_entropy(Z, torch_of(steps.reshape(-1)), ignore_index=-1),
        ),
    }
    out = {"Z": Z}
    for name, (labels, loss) in made.items():
        at = torch.tensor(Z, requires_grad=True)
        mean = loss(at)
        mean.backward()
        out |= {f"{name}/y": labels, f"{name}/loss": mean.item(), f"{name}/gradient": at.grad.numpy()}
    return out


def paths(rng):
    """Where 25 given gradients lead from w."""
    w, G = rng.standard_normal(40), rng.standard_normal((STEPS, 40))
    optim = torch.optim
    made = {
        "adamw": lambda v: optim.AdamW(v, lr=0.01, betas=(0.9, 0.99), eps=1e-7, weight_decay=0.1),
        "rmsprop": lambda v: optim.RMSprop(v, lr=0.01, alpha=0.9, eps=1e-7),
        "rmsprop_momentum": lambda v: optim.RMSprop(v, lr=0.01, alpha=0.9, eps=1e-7, momentum=0.8),
        "rmsprop_centered": lambda v: optim.RMSprop(
            v, lr=0.01, alpha=0.9, eps=1e-7, momentum=0.8, centered=True
        ),
        "adagrad": lambda v: optim.Adagrad(v, lr=0.1, eps=1e-7, initial_accumulator_value=0.5),
    }
    out = {"w": w, "G": G}
    for name, make in made.items():
        v = torch.tensor(w, requires_grad=True)
        optimizer = make([v])
        for g in G:
            v.grad = torch.tensor(g)
            optimizer.step()
        out[f"path/{name}"] = v.detach().numpy()
    v, average = torch.tensor(w), None
    optimizer = optim.SGD([v], lr=0.1)
    for g in G:
        v.grad = torch.tensor(g)
        optimizer.step()
        average = v.clone() if average is None else 0.9 * average + 0.1 * v
    out["path/average"] = average.numpy()
    parts = [torch.nn.Parameter(torch.zeros(size)) for size in (30, 10)]
    for name, limit in (("clipped", 2.0), ("unclipped", 1000.0)):
        for part, g in zip(parts, np.split(G[0], [30]), strict=True):
            part.grad = torch.tensor(g, dtype=torch.float32)
        torch.nn.utils.clip_grad_norm_(parts, limit)
        out[name] = np.concatenate([part.grad.numpy() for part in parts])
    return out


def schedules():
    """Rates of the first 60 updates."""
    made = {
        "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5),
        "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 59, eta_min=0.01),
    }
    out = {}
    for name, make in made.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        schedule, rates = make(optimizer), []
        for _ in range(60):
            rates.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        out[f"rates/{name}"] = np.array(rates)
    return out


def main():
    rng = np.random.default_rng(11)
    out = losses(rng) | paths(rng) | schedules()
    np.savez_compressed(Path(__file__).with_name("training.npz"), **out)


if __name__ == "__main__":
    main()
