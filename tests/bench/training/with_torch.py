"""PyTorch, eager, fused Adam, one thread, on one workload: python with_torch.py WORKLOAD [channels_last]."""

import sys

import torch
from torch import nn
from workloads import VOCABULARY, WORKLOADS, data, measure


class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.drop = nn.Embedding(VOCABULARY, 64), nn.Dropout(0.2)
        self.lstm, self.out = nn.LSTM(64, 128, batch_first=True), nn.Linear(128, 1)

    def forward(self, X):
        H, _ = self.lstm(self.drop(self.embedding(X)))
        return self.out(self.drop(H[:, -1])).flatten()


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.place = nn.Embedding(1000, 64), nn.Parameter(0.02 * torch.randn(64, 64))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(3))
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(64, 256), nn.GELU("tanh"), nn.Linear(256, 64))
        self.out = nn.Linear(64, 1)

    def forward(self, X):
        H = self.embedding(X) + self.place
        N = self.norms[0](H)
        H = H + self.attention(N, N, N, need_weights=False)[0]
        H = H + self.inner(self.norms[1](H))
        return self.out(self.norms[2](H).mean(1)).flatten()


def network(name):
    if name == "lstm":
        return Reads(), nn.BCEWithLogitsLoss()
    if name == "transformer":
        return Transformer(), nn.BCEWithLogitsLoss()
    if name == "tabular":
        parts = [nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0)]
        return nn.Sequential(*parts), nn.MSELoss()
    if name == "cnn":
        parts = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        parts += [nn.Linear(5408, 128), nn.ReLU(), nn.Linear(128, 10)]
    elif name == "conv3":
        parts = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU()]
        parts += [nn.MaxPool2d(2), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()]
        parts += [nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10)]
    else:
        parts = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*parts), nn.CrossEntropyLoss()


def main():
    name, channels_last = sys.argv[1], "channels_last" in sys.argv
    torch.set_num_threads(1)
    torch.manual_seed(0)
    X, y = (torch.from_numpy(each) for each in data(name))
    net, loss = network(name)
    if X.ndim == 4:
        X = X.permute(0, 3, 1, 2).contiguous()
        if channels_last:
            X = X.contiguous(memory_format=torch.channels_last)
            net = net.to(memory_format=torch.channels_last)
    y = y.float() if name == "tabular" else y
    adam = torch.optim.Adam(net.parameters(), fused=True)
    rows = WORKLOADS[name][0]

    def step(number):
        at = slice(number * rows, (number + 1) * rows)
        adam.zero_grad(set_to_none=True)
        loss(net(X[at]), y[at]).backward()
        adam.step()

    facts = {"version": torch.__version__, "parameters": sum(p.numel() for p in net.parameters())}
    measure("torch channels_last" if channels_last else "torch", name, step, **facts)


if __name__ == "__main__":
    main()
