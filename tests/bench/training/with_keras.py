"""Keras on JAX, compiled, on one core, on one workload: python with_keras.py WORKLOAD."""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402  (after the settings)
import keras  # noqa: E402
import workloads  # noqa: E402
from keras import layers  # noqa: E402
from workloads import TOKENS, VOCABULARY, WORKLOADS, data, measure  # noqa: E402


class Places(layers.Layer):
    def build(self, shape):
        self.W = self.add_weight(shape=shape[1:], initializer="uniform")

    def call(self, X):
        return X + self.W


def network(name):
    conv, pool = (lambda filters: layers.Conv2D(filters, 3, activation="relu")), layers.MaxPooling2D(2)
    match name:
        case "cnn":
            parts = [keras.Input((28, 28, 1)), conv(32), pool, layers.Flatten()]
            return [*parts, layers.Dense(128, "relu"), layers.Dense(10, "softmax")]
        case "conv3":
            parts = [keras.Input((32, 32, 3)), conv(32), pool, conv(64), layers.MaxPooling2D(2), conv(64)]
            return [*parts, layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10, "softmax")]
        case "lstm":
            parts = [keras.Input((TOKENS,)), layers.Embedding(VOCABULARY, 64), layers.LSTM(128, dropout=0.2)]
            return [*parts, layers.Dropout(0.2), layers.Dense(1, "sigmoid")]
        case "tabular":
            parts = [keras.Input((32,)), layers.Dense(64, "relu"), layers.Dense(64, "relu")]
            return [*parts, layers.Dense(1)]
    return [keras.Input((784,)), layers.Dense(512, "relu"), layers.Dense(10, "softmax")]


def transformer():
    X = keras.Input((64,))
    H = Places()(layers.Embedding(1000, 64)(X))
    N = layers.LayerNormalization()(H)
    H = H + layers.MultiHeadAttention(4, 16)(N, N)
    inner = layers.Dense(256, lambda Z: keras.ops.gelu(Z, approximate=True))
    H = H + layers.Dense(64)(inner(layers.LayerNormalization()(H)))
    pooled = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(H))
    return keras.Model(X, layers.Dense(1, "sigmoid")(pooled))


def main():
    name = sys.argv[1]
    X, y = data(name)
    model = transformer() if name == "transformer" else keras.Sequential(network(name))
    losses = {"tabular": "mse", "lstm": "binary_crossentropy", "transformer": "binary_crossentropy"}
    model.compile("adam", losses.get(name, "sparse_categorical_crossentropy"))
    rows = WORKLOADS[name][0]

    # `fit` over many batches is how Keras is fast: one step of `measure` is an epoch of STEPS batches
    def epoch(number):
        model.fit(X, y, batch_size=rows, epochs=1, verbose=0)

    workloads.WORKLOADS = {name: (rows * workloads.STEPS, "")}
    facts = {"version": f"{keras.__version__}, jax {jax.__version__}", "parameters": model.count_params()}
    measure("keras on jax", name, epoch, seconds=2, windows=3, warm=1, **facts)


if __name__ == "__main__":
    main()
