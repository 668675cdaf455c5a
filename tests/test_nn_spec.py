"""Layers, losses and optimizers as plain dicts: what is written is what is read, and mistakes are told."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlflow.nn
from dlflow.errors import ModelError
from dlflow.nn import (
    ACTIVATIONS,
    INITIALIZERS,
    SGD,
    Activation,
    Adam,
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Dense,
    Dropout,
    Flatten,
    MeanSquaredError,
    SparseCategoricalCrossEntropy,
    layer_from,
    layer_to,
    loss_from,
    loss_to,
    optimizer_from,
    optimizer_to,
)

rates = st.floats(1e-9, 0.99)
functions = st.sampled_from(sorted(ACTIVATIONS))
layers = st.one_of(
    st.builds(
        Dense,
        st.integers(1, 99),
        st.none() | functions,
        st.booleans(),
        st.sampled_from(sorted(INITIALIZERS)),
        l2=rates,
    ),
    st.builds(Activation, functions),
    st.builds(Dropout, rates),
    st.just(Flatten()),
)
weights = st.none() | st.lists(rates, min_size=2, max_size=2).map(tuple)
losses = st.one_of(
    st.builds(BinaryCrossEntropy, weights),
    st.builds(CategoricalCrossEntropy, weights),
    st.builds(SparseCategoricalCrossEntropy, weights),
    st.just(MeanSquaredError()),
)
optimizers = st.one_of(
    st.builds(Adam, rates, rates, rates, rates),
    st.builds(SGD, rates, rates, st.booleans()),
    st.builds(SGD, rates),
)


@given(layers, losses, optimizers)
def test_what_is_written_as_json_is_what_is_read(layer, loss, optimizer):
    def again(spec):
        return json.loads(json.dumps(spec))

    assert layer_from(again(layer_to(layer))) == layer
    assert loss_from(again(loss_to(loss))) == loss
    assert optimizer_from(again(optimizer_to(optimizer))) == optimizer


def test_a_name_alone_and_a_finished_spec_are_accepted():
    assert layer_from("flatten") == Flatten()
    assert loss_from("mean_squared_error") == MeanSquaredError()
    assert optimizer_from(SGD()) == optimizer_from({"optimizer": "sgd"})
    assert optimizer_from({"optimizer": "sgd", "learning_rate": 1}).learning_rate == 1.0


@pytest.mark.parametrize(
    ("read", "spec", "message"),
    [
        (layer_from, {"layer": "dens", "units": 3}, "unknown layer 'dens'; did you mean 'dense'"),
        (layer_from, {"layer": "dense", "unit": 3}, "unknown setting 'unit'; did you mean 'units'"),
        (layer_from, {"layer": "dense"}, "setting 'units' is missing"),
        (layer_from, {"layer": "dense", "units": 2.5}, "units is 2.5, expected a whole number"),
        (layer_from, {"layer": "dense", "units": True}, "units is True, expected a whole number"),
        (layer_from, {"layer": "dense", "units": 0}, "units is 0, expected at least 1"),
        (layer_from, {"layer": "dense", "units": 3, "activation": "rleu"}, "did you mean 'relu'"),
        (layer_from, {"layer": "dense", "units": 3, "initializer": "glorot"}, "did you mean 'glorot_"),
        (layer_from, {"layer": "dense", "units": 3, "l2": -1}, "l2 is -1"),
        (layer_from, {"layer": "dense", "units": 3, "use_bias": 1}, "use_bias is 1, expected true or false"),
        (layer_from, {"layer": "dropout", "rate": 1}, "rate is 1.0, expected 0 <= rate < 1"),
        (layer_from, {"layer": "activation", "function": "tahn"}, "did you mean 'tanh'"),
        (layer_from, {"units": 3}, "has no name; add layer = "),
        (layer_from, 7, "layer is 7, expected a table"),
        (loss_from, "binary_crossentropy", "did you mean 'binary_cross_entropy'"),
        (
            loss_from,
            {"loss": "binary_cross_entropy", "class_weights": 3},
            "class_weights is 3, expected a list",
        ),
        (loss_from, {"loss": "binary_cross_entropy", "class_weights": [1]}, "1 class weights, expected 2"),
        (loss_from, {"loss": "binary_cross_entropy", "class_weights": ["a", 1]}, "'a', expected a number"),
        (optimizer_from, {"optimizer": "adam", "lr": 0.1}, "unknown setting 'lr'"),
        (optimizer_from, {"optimizer": "adam", "learning_rate": "0.1"}, "'0.1', expected a number"),
    ],
)
def test_mistakes_name_the_setting_and_the_remedy(read, spec, message):
    with pytest.raises(ModelError, match=message):
        read(spec)


def test_exported_names_are_sorted_and_there():
    assert all(hasattr(dlflow.nn, name) for name in dlflow.nn.__all__)


def test_the_core_needs_numpy_alone():
    code = (
        "import sys, numpy; before = set(sys.modules); import dlflow.nn;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(*sorted(new - set(sys.stdlib_module_names) - {'numpy'}))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.split() == ["dlflow"]
