"""The model core: layers as frozen values, one flat vector of weights, hand-written gradients. Needs NumPy alone."""

from dlflow.nn.activations import ACTIVATIONS
from dlflow.nn.constraints import Constraint, MaxNorm, NonNegative, UnitNorm
from dlflow.nn.cross_entropy import (
    BinaryCrossEntropy,
    CategoricalCrossEntropy,
    KLDivergence,
    SparseCategoricalCrossEntropy,
)
from dlflow.nn.gradient import GradientCheck, gradient_check
from dlflow.nn.initializers import INITIALIZERS
from dlflow.nn.layers import Activation, Dense, Dropout, Flatten, Layer
from dlflow.nn.losses import Loss
from dlflow.nn.model import Model
from dlflow.nn.optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from dlflow.nn.params import Message
from dlflow.nn.regression import Huber, MeanAbsoluteError, MeanSquaredError
from dlflow.nn.schedules import Constant, Cosine, Exponential, Schedule, Step, WarmUp
from dlflow.nn.sequential import Sequential
from dlflow.nn.spec import layer_from, layer_to, loss_from, loss_to, optimizer_from, optimizer_to
from dlflow.nn.streams import Stream

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "SGD",
    "Activation",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropy",
    "CategoricalCrossEntropy",
    "Constant",
    "Constraint",
    "Cosine",
    "Dense",
    "Dropout",
    "Exponential",
    "Flatten",
    "GradientCheck",
    "Huber",
    "KLDivergence",
    "Layer",
    "Loss",
    "MaxNorm",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Message",
    "Model",
    "NonNegative",
    "Optimizer",
    "RMSprop",
    "Schedule",
    "Sequential",
    "SparseCategoricalCrossEntropy",
    "Step",
    "Stream",
    "UnitNorm",
    "WarmUp",
    "gradient_check",
    "layer_from",
    "layer_to",
    "loss_from",
    "loss_to",
    "optimizer_from",
    "optimizer_to",
]
