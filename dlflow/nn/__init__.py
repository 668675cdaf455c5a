"""The model core: layers as frozen values, one flat vector of weights, hand-written gradients. Needs NumPy alone."""

from dlflow.nn.activations import ACTIVATIONS
from dlflow.nn.attention import MultiHeadAttention
from dlflow.nn.bidirectional import Bidirectional
from dlflow.nn.callbacks import (
    Callback,
    Control,
    EarlyStopping,
    EpochRate,
    HistoryFile,
    ReduceOnPlateau,
    SaveModel,
)
from dlflow.nn.constraints import Constraint, MaxNorm, NonNegative, UnitNorm
from dlflow.nn.convolution import Conv1D, Conv2D
from dlflow.nn.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    KLDivergence,
    SparseCategoricalCrossEntropy,
)
from dlflow.nn.embedding import Embedding, PositionalEmbedding
from dlflow.nn.gradient import GradientCheck, gradient_check
from dlflow.nn.graph import Graph, Input, join
from dlflow.nn.gru import GRU
from dlflow.nn.initializers import INITIALIZERS
from dlflow.nn.layers import Activation, Dense, Dropout, Layer
from dlflow.nn.losses import Loss
from dlflow.nn.lstm import LSTM
from dlflow.nn.message import Message
from dlflow.nn.model import Model
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
from dlflow.nn.sequential import Functional, Sequential
from dlflow.nn.shape import Add, Concatenate, Flatten, Rescaling, Reshape
from dlflow.nn.simple_rnn import SimpleRNN
from dlflow.nn.spec import (
    callback_from,
    callback_to,
    graph_from,
    graph_to,
    layer_from,
    layer_to,
    loss_from,
    loss_to,
    optimizer_from,
    optimizer_to,
)
from dlflow.nn.streams import Stream

__all__ = [
    "ACTIVATIONS",
    "GRU",
    "INITIALIZERS",
    "LSTM",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "Add",
    "AveragePooling1D",
    "AveragePooling2D",
    "BatchNormalization",
    "Bidirectional",
    "BinaryCrossEntropy",
    "Callback",
    "CategoricalCrossEntropy",
    "Concatenate",
    "Constant",
    "Constraint",
    "Control",
    "Conv1D",
    "Conv2D",
    "Cosine",
    "Dense",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "EpochRate",
    "Exponential",
    "Flatten",
    "Functional",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling1D",
    "GlobalMaxPooling2D",
    "GradientCheck",
    "Graph",
    "HistoryFile",
    "Huber",
    "Input",
    "KLDivergence",
    "Layer",
    "LayerNormalization",
    "Loss",
    "MaxNorm",
    "MaxPooling1D",
    "MaxPooling2D",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Message",
    "Model",
    "MultiHeadAttention",
    "NonNegative",
    "Optimizer",
    "PositionalEmbedding",
    "RMSprop",
    "ReduceOnPlateau",
    "Rescaling",
    "Reshape",
    "SaveModel",
    "Schedule",
    "Sequential",
    "SimpleRNN",
    "SparseCategoricalCrossEntropy",
    "Step",
    "Stream",
    "UnitNorm",
    "WarmUp",
    "callback_from",
    "callback_to",
    "gradient_check",
    "graph_from",
    "graph_to",
    "join",
    "layer_from",
    "layer_to",
    "loss_from",
    "loss_to",
    "optimizer_from",
    "optimizer_to",
]
