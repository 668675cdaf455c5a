"""Layers, losses and optimizers from plain dicts and back, so that a TOML file and a model file can describe them.

>>> layer_from({"layer": "dense", "units": 64, "activation": "relu"})
Dense(l1=0.0, l2=0.0, penalize=(), constraint=None, units=64, activation='relu', use_bias=True, initializer='glorot_uniform')
>>> optimizer_to(optimizer_from({"optimizer": "adam", "learning_rate": 0.01}))
{'optimizer': 'adam', 'learning_rate': 0.01}
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dlflow.errors import ModelError
from dlflow.nn.attention import MultiHeadAttention
from dlflow.nn.bidirectional import Bidirectional
from dlflow.nn.callbacks import Callback, EarlyStopping, EpochRate, HistoryFile, ReduceOnPlateau, SaveModel
from dlflow.nn.choice import choose, suggestion
from dlflow.nn.constraints import Constraint, MaxNorm, NonNegative, UnitNorm
from dlflow.nn.convolution import Conv1D, Conv2D
from dlflow.nn.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    KLDivergence,
    SparseCategoricalCrossEntropy,
)
from dlflow.nn.embedding import Embedding, PositionalEmbedding
from dlflow.nn.graph import Graph, Node
from dlflow.nn.gru import GRU
from dlflow.nn.layers import Activation, Dense, Dropout, Layer
from dlflow.nn.losses import Loss
from dlflow.nn.lstm import LSTM
from dlflow.nn.normalization import BatchNormalization, LayerNormalization
from dlflow.nn.optimizer import Optimizer
from dlflow.nn.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from dlflow.nn.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    MaxPooling1D,
    MaxPooling2D,
)
from dlflow.nn.regression import Huber, MeanAbsoluteError, MeanSquaredError
from dlflow.nn.schedules import Constant, Cosine, Exponential, Schedule, Step, WarmUp
from dlflow.nn.shape import Add, Concatenate, Flatten, Rescaling, Reshape
from dlflow.nn.simple_rnn import SimpleRNN

__all__ = [
    "CALLBACKS",
    "CONSTRAINTS",
    "LAYERS",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "callback_from",
    "callback_to",
    "graph_from",
    "graph_to",
    "layer_from",
    "layer_to",
    "loss_from",
    "loss_to",
    "optimizer_from",
    "optimizer_to",
]

LAYERS: dict[str, type[Layer]] = {
    made.kind: made
    for made in (
        *(Activation, Add, Concatenate, Dense, Dropout, Flatten, Rescaling, Reshape),
        *(Conv1D, Conv2D, AveragePooling1D, AveragePooling2D, MaxPooling1D, MaxPooling2D),
        *(GlobalAveragePooling1D, GlobalAveragePooling2D, GlobalMaxPooling1D, GlobalMaxPooling2D),
        *(BatchNormalization, LayerNormalization, Embedding, PositionalEmbedding, MultiHeadAttention),
        *(Bidirectional, GRU, LSTM, SimpleRNN),
    )
}
LOSSES: dict[str, type[Loss]] = {
    made.kind: made
    for made in (
        BinaryCrossEntropy,
        CategoricalCrossEntropy,
        Huber,
        KLDivergence,
        MeanAbsoluteError,
        MeanSquaredError,
        SparseCategoricalCrossEntropy,
    )
}
OPTIMIZERS: dict[str, type[Optimizer]] = {made.kind: made for made in (Adagrad, Adam, AdamW, RMSprop, SGD)}
SCHEDULES: dict[str, type[Schedule]] = {
    made.kind: made for made in (Constant, Cosine, Exponential, Step, WarmUp)
}
CONSTRAINTS: dict[str, type[Constraint]] = {made.kind: made for made in (MaxNorm, NonNegative, UnitNorm)}
CALLBACKS: dict[str, type[Callback]] = {
    made.kind: made for made in (EarlyStopping, EpochRate, HistoryFile, ReduceOnPlateau, SaveModel)
}
_NESTED: dict[type, tuple[str, Mapping[str, type]]] = {
    Constraint: ("constraint", CONSTRAINTS),
    Layer: ("layer", LAYERS),
    Schedule: ("schedule", SCHEDULES),
}

# settings that other libraries have and these layers do not need
NOT_NEEDED = {
    "input_dim": "the model takes it from the data; leave it out",
    "input_length": "the length is that of the data; leave it out",
    "input_shape": "the model takes it from the data; leave it out",
}

Thing = TypeVar("Thing")


def callback_from(spec: Mapping[str, Any] | str | Callback) -> Callback:
    """The callback of `{"callback": name, ...}`, or of its name alone; one of your own is given as it is.

    Raises: ModelError with a "did you mean".
    """
    return spec if isinstance(spec, Callback) else _from(spec, "callback", CALLBACKS)


def callback_to(callback: Callback) -> dict[str, Any]:
    """The dict that `callback_from` reads."""
    return _to(callback, "callback", callback.kind)


def layer_from(spec: Mapping[str, Any] | str | Layer) -> Layer:
    """The layer of `{"layer": name, setting: value, ...}`, or of its name alone.

    Raises: ModelError with a "did you mean" for a wrong name, setting or type.
    """
    return spec if isinstance(spec, Layer) else _from(spec, "layer", LAYERS)


def layer_to(layer: Layer) -> dict[str, Any]:
    """The dict that `layer_from` reads; settings at their default are left out."""
    return _to(layer, "layer", layer.kind)


def graph_from(spec: Mapping[str, Any]) -> Graph:
    """The graph of `{"inputs": {name: shape, ...}, "nodes": [{"layer": ..., "from": [places]}, ...]}`.

    Places count the inputs first, then the nodes.

    Raises: ModelError as `layer_from`, or for nodes that do not fit together.
    """
    inputs, nodes = spec.get("inputs"), spec.get("nodes")
    if not isinstance(inputs, Mapping) or not isinstance(nodes, (list, tuple)):
        raise ModelError(
            f"graph has {sorted(spec)!r}, expected inputs (shapes by name) and nodes (a list of layers)"
        )
    made = []
    for node in nodes:
        if not isinstance(node, Mapping) or not isinstance(node.get("from"), (list, tuple)):
            raise ModelError(f"graph: node is {node!r}, expected a layer with from = [places that it reads]")
        layer = layer_from({name: value for name, value in node.items() if name not in {"from", "shared"}})
        shared = _typed(node.get("shared", ""), str, "graph: shared")
        made.append(Node(layer, _typed(node["from"], tuple[int, ...], "graph: from"), shared))
    shapes = {
        name: _typed(shape, tuple[int, ...], f"graph: shape of {name!r}") for name, shape in inputs.items()
    }
    return Graph(tuple(shapes.items()), tuple(made))


def graph_to(graph: Graph) -> dict[str, Any]:
    """The dict that `graph_from` reads."""
    return {
        "inputs": {name: list(shape) for name, shape in graph.inputs},
        "nodes": [
            layer_to(node.layer)
            | {"from": list(node.sources)}
            | ({"shared": node.shared} if node.shared else {})
            for node in graph.nodes
        ],
    }


def loss_from(spec: Mapping[str, Any] | str | Loss) -> Loss:
    """The loss of `{"loss": name, ...}`, or of its name alone.

    Raises: ModelError with a "did you mean".
    """
    return spec if isinstance(spec, Loss) else _from(spec, "loss", LOSSES)


def loss_to(loss: Loss) -> dict[str, Any]:
    """The dict that `loss_from` reads."""
    return _to(loss, "loss", loss.kind)


def optimizer_from(spec: Mapping[str, Any] | str | Optimizer) -> Optimizer:
    """The optimizer of `{"optimizer": name, ...}`, or of its name alone.

    Raises: ModelError with a "did you mean".
    """
    return spec if isinstance(spec, Optimizer) else _from(spec, "optimizer", OPTIMIZERS)


def optimizer_to(optimizer: Optimizer) -> dict[str, Any]:
    """The dict that `optimizer_from` reads."""
    return _to(optimizer, "optimizer", optimizer.kind)


def _from(spec: object, what: str, known: Mapping[str, type[Thing]]) -> Thing:
    if isinstance(spec, str):
        spec = {what: spec}
    if not isinstance(spec, Mapping):
        raise ModelError(f"{what} is {spec!r}, expected a table such as {{{what} = {next(iter(known))!r}}}")
    if what not in spec:
        raise ModelError(
            f"{what} {dict(spec)!r} has no name; add {what} = one of {', '.join(map(repr, sorted(known)))}"
        )
    made = choose(spec[what], known, what)
    settings = {name: value for name, value in spec.items() if name != what}
    known_fields = {field.name: field for field in fields(made) if field.init}  # type: ignore[arg-type]
    types = get_type_hints(made)
    for name in settings.keys() - known_fields.keys():
        if name in NOT_NEEDED:
            raise ModelError(f"{what} {spec[what]!r}: unknown setting {name!r}; {NOT_NEEDED[name]}")
        raise ModelError(f"{what} {spec[what]!r}: unknown setting {name!r}; {suggestion(name, known_fields)}")
    for name, field in known_fields.items():
        if field.default is MISSING and name not in settings:
            raise ModelError(f"{what} {spec[what]!r}: setting {name!r} is missing; add it")
    where = f"{what} {spec[what]!r}"
    return made(**{name: _typed(value, types[name], f"{where}: {name}") for name, value in settings.items()})


def _typed(value: Any, wanted: Any, where: str) -> Any:
    """The value as this type: a whole number passes as float, a list as tuple, true never as a number."""
    origin = get_origin(wanted)
    if wanted in _NESTED:
        what, known = _NESTED[wanted]
        return value if isinstance(value, wanted) else _from(value, what, known)
    if origin in {Union, UnionType}:
        kinds = [kind for kind in get_args(wanted) if kind is not NoneType]
        if value is None and NoneType in get_args(wanted):
            return None
        nested = next((kind for kind in kinds if kind in _NESTED), None)
        if nested is not None and (len(kinds) == 1 or isinstance(value, (Mapping, nested))):
            return _typed(value, nested, where)
        lists = [kind for kind in kinds if get_origin(kind) is tuple]
        if lists and (isinstance(value, (list, tuple)) or len(kinds) == 1):
            return _typed(value, lists[0], where)
        return _typed(value, next(kind for kind in kinds if kind not in {nested, *lists}), where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ModelError(f"{where} is {value!r}, expected a list")
        return tuple(_typed(each, get_args(wanted)[0], where) for each in value)
    accepted = (int, float) if wanted is float else (wanted,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool):
        raise ModelError(f"{where} is {value!r}, expected {_NAMES[wanted]}")
    return wanted(value)


_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _to(thing: Any, what: str, kind: str) -> dict[str, Any]:
    settings = {
        field.name: _plain(getattr(thing, field.name))
        for field in fields(thing)
        if field.init and not _is_default(thing, field)
    }
    return {what: kind, **settings}


def _is_default(thing: Any, field: Field) -> bool:
    return bool(getattr(thing, field.name) == field.default)


def _plain(value: Any) -> Any:
    for kind, (what, _) in _NESTED.items():
        if isinstance(value, kind):
            return _to(value, what, value.kind)  # type: ignore[attr-defined]
    return list(value) if isinstance(value, tuple) else value
