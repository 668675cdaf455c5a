"""The array module is a parameter: a model on arrays that are not NumPy's gives the same bits, and never turns them into NumPy's."""

import copy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.mixins import NDArrayOperatorsMixin

from dlflow.errors import ModelError
from dlflow.nn import (
    LSTM,
    SGD,
    Activation,
    Adagrad,
    Adam,
    AdamW,
    Add,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Graph,
    Input,
    LayerNormalization,
    Model,
    Rescaling,
    Reshape,
    RMSprop,
    Stream,
    join,
    loss_from,
)
from dlflow.nn.portable import PORTABLE
from dlflow.nn.spec import LOSSES

CALLS = Counter()


def bare(value):
    if isinstance(value, Other):
        return value.inner
    return type(value)(bare(each) for each in value) if isinstance(value, (tuple, list)) else value


def dressed(value):
    return Other(value) if isinstance(value, np.ndarray) else value


class Other(NDArrayOperatorsMixin):
    """An array that answers NumPy's functions and its own methods, and refuses to become, or to be mixed with, one of NumPy."""

    def __init__(self, inner):
        self.inner = inner

    def __array__(self, *_args, **_named):
        raise TypeError("turned into an array of NumPy")

    def __array_ufunc__(self, function, method, *inputs, out=None, **named):
        CALLS[function.__name__] += 1
        if any(isinstance(each, np.ndarray) and each.ndim for each in (*inputs, *(out or ()))):
            raise TypeError(f"{function.__name__} of this array and one of NumPy")
        if out is not None:
            named["out"] = bare(out)
        made = getattr(function, method)(*bare(inputs), **named)
        return out[0] if out is not None else dressed(made)

    def __array_function__(self, function, _types, inputs, named):
        CALLS[function.__name__] += 1
        made = function(*bare(inputs), **{name: bare(value) for name, value in named.items()})
        return named["out"] if named.get("out") is not None else dressed(made)

    def __getitem__(self, at):
        return dressed(self.inner[bare(at)])

    def __setitem__(self, at, value):
        assert not isinstance(value, np.ndarray)
        self.inner[bare(at)] = bare(value)

    def __len__(self):
        return len(self.inner)

    def __float__(self):
        return float(self.inner)

    def __getattr__(self, name):
        value = getattr(self.inner, name)
        if not callable(value):
            return dressed(value)
        return lambda *args, **named: dressed(value(*bare(args), **{k: bare(v) for k, v in named.items()}))


MODULE = SimpleNamespace(
    __name__="other",
    zeros=lambda *args: Other(np.zeros(*args)),
    ones=lambda *args: Other(np.ones(*args)),
    empty=lambda *args: Other(np.empty(*args)),
    asarray=lambda made: Other(made.copy()),
)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 6, 4))


def graph():
    x = Input((6, 4), "x")
    h = join(x, Rescaling(0.5), BatchNormalization(), Dense(4, "gelu", l2=0.1), LayerNormalization())
    h = join((h, join(h, Dense(4, "relu"))), Add())
    h = join((h, join(x, Activation("tanh"))), Concatenate(), Reshape((4, 12)), Dense(3, "elu"))
    return Graph.of(join(h, Flatten(), Dense(2)))


def test_a_model_on_arrays_of_numpy_can_be_copied_and_pickled():
    model = Model(graph(), arrays=np)
    model.init(1)

    again = copy.deepcopy(model)  # goes the way of pickle

    assert np.array_equal(again.predict(X), model.predict(X))


def test_the_graph_holds_every_layer_that_is_said_to_work():
    assert {layer.kind for layer in graph().layers} == set(PORTABLE)


@pytest.mark.parametrize(
    "optimizer", [SGD(0.1, momentum=0.9), Adam(average=0.9), AdamW(), RMSprop(), Adagrad(start=0.1)]
)
@pytest.mark.parametrize("loss", sorted(LOSSES.keys() - {"sparse_categorical_cross_entropy"}))
def test_training_on_other_arrays_gives_the_bits_of_numpy(optimizer, loss):
    y, weights, chosen = np.eye(2)[RNG.integers(0, 2, 24)], RNG.random(24), loss_from(loss)
    found = []
    for arrays in (np, MODULE):
        CALLS.clear()
        model = Model(graph(), arrays=arrays)
        model.init(3)
        state = optimizer.new_state(model.parameters, arrays=arrays)
        for t in (1, 2, 3):
            model.gradient(chosen, X[:16], y[:16], weights=weights[:16], rng=Stream(0, "dropout", step=t))
            mean = model.finish()
            optimizer.step(model.w, model.g[:-2], state, t)
            model.settle()
        found.append((bare(model.w), bare(state), mean, bare(model.predict(X))))

    assert isinstance(model.w, Other)
    assert CALLS["matmul"] > 10
    for mine, expected in zip(found[1], found[0], strict=True):
        assert np.array_equal(mine, expected)


@pytest.mark.parametrize(
    "layer", [Conv2D(3, 3), Dropout(0.5), Embedding(9, 3), LSTM(3)], ids=lambda layer: layer.kind
)
def test_layers_that_need_numpy_are_refused_by_name(layer):
    with pytest.raises(
        ModelError, match=rf"layer 1 \({layer.kind}\) computes on NumPy's arrays alone, not on those of other"
    ):
        Model([Dense(3), layer], (6, 4, 2), arrays=MODULE)
