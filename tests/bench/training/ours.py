"""dlflow.nn on one workload: python ours.py WORKLOAD. The caller sets OPENBLAS_NUM_THREADS and OPENBLAS_CORETYPE."""

import sys

import numpy as np
from threadpoolctl import threadpool_info
from workloads import VOCABULARY, WORKLOADS, data, measure

from dlflow.nn import (
    LSTM,
    Adam,
    Add,
    BinaryCrossEntropy,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    Graph,
    Input,
    LayerNormalization,
    MaxPooling2D,
    MeanSquaredError,
    Model,
    MultiHeadAttention,
    PositionalEmbedding,
    SparseCategoricalCrossEntropy,
    Stream,
    join,
)


def transformer():
    h = join(Input(64, "X"), Embedding(1000, 64), PositionalEmbedding())
    h = join((h, join(h, LayerNormalization(), MultiHeadAttention(4))), Add())
    h = join((h, join(h, LayerNormalization(), Dense(256, "gelu"), Dense(64))), Add())
    return Graph.of(join(h, LayerNormalization(), GlobalAveragePooling1D(), Dense(1, "sigmoid")))


def architecture(name):
    conv, pool = (lambda filters: Conv2D(filters, 3, activation="relu")), MaxPooling2D(2)
    match name:
        case "cnn":
            return [conv(32), pool, Flatten(), Dense(128, "relu"), Dense(10, "softmax")]
        case "conv3":
            layers = [conv(32), pool, conv(64), pool, conv(64), Flatten()]
            return [*layers, Dense(64, "relu"), Dense(10, "softmax")]
        case "lstm":
            return [
                Embedding(VOCABULARY, 64),
                LSTM(128, dropout=0.2),
                Dropout(0.2),
                Dense(1, "sigmoid"),
            ]
        case "tabular":
            return [Dense(64, "relu"), Dense(64, "relu"), Dense(1)]
        case "transformer":
            return transformer()
    return [Dense(512, "relu"), Dense(10, "softmax")]


def main():
    name = sys.argv[1]
    X, y = data(name)
    rows = WORKLOADS[name][0]
    losses = {
        "tabular": MeanSquaredError(),
        "lstm": BinaryCrossEntropy(),
        "transformer": BinaryCrossEntropy(),
    }
    loss, model = losses.get(name, SparseCategoricalCrossEntropy()), Model(architecture(name), X.shape[1:])
    model.init(0)
    adam = Adam()
    state = adam.new_state(model.parameters)
    taken = 0

    def step(number):
        nonlocal taken
        taken += 1
        at = slice(number * rows, (number + 1) * rows)
        model.gradient(loss, X[at], y[at], rng=Stream(0, "dropout", step=taken))
        model.finish()
        adam.step(model.w, model.g[:-2], state, taken)

    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    kernel = ", ".join(f"{pool['architecture']} x {pool['num_threads']}" for pool in blas)
    measure("dlflow", name, step, kernel=kernel, numpy=np.__version__, parameters=model.parameters)


if __name__ == "__main__":
    main()
