"""The model core: layers as frozen values, one flat vector of weights, hand-written gradients. Needs NumPy alone."""

from dlflow.nn.activations import ACTIVATIONS
from dlflow.nn.gradient import GradientCheck, gradient_check
from dlflow.nn.initializers import INITIALIZERS
from dlflow.nn.layers import Activation, Dense, Dropout, Flatten, Layer
from dlflow.nn.losses import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    Loss,
    MeanSquaredError,
    SparseCategoricalCrossEntropy,
)
from dlflow.nn.model import Model
from dlflow.nn.optimizers import SGD, Adam, Optimizer
from dlflow.nn.params import Message
from dlflow.nn.sequential import Sequential
from dlflow.nn.spec import layer_from, layer_to, loss_from, loss_to, optimizer_from, optimizer_to
from dlflow.nn.streams import Stream

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "SGD",
    "Activation",
    "Adam",
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "Dense",
    "Dropout",
    "Flatten",
    "GradientCheck",
    "Layer",
    "Loss",
    "MeanSquaredError",
    "Message",
    "Model",
    "Optimizer",
    "Sequential",
    "SparseCategoricalCrossEntropy",
    "Stream",
    "gradient_check",
    "layer_from",
    "layer_to",
    "loss_from",
    "loss_to",
    "optimizer_from",
    "optimizer_to",
]
