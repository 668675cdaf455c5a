"""Probabilities that are as often right as they say: a scale and offsets for the logits, fitted on rows kept from training.

    z' = scale z + offset          binary: Platt 1999          classes, an offset each: Alexandari et al. 2020

Class weights, label smoothing and over-fitting all move what a network says away from the share of rows it is true of. The log
loss of the validation rows is convex in scale and offsets, so Newton's method finds the one minimum. Both are then folded into
the last Dense layer: a calibrated model is an ordinary one, wherever it goes.
"""

from dataclasses import dataclass

import numpy as np

from dlflow.data import Dataset
from dlflow.errors import ModelError
from dlflow.nn import Activation, Dense, Loss, Model
from dlflow.nn.params import Array
from dlflow.training.numerics import one_blas_thread

__all__ = ["Calibration", "calibrate", "check_calibration", "fit_calibration"]

PRIOR = 0.01  # weight of "as it is", in rows: decides where the rows do not (one class only, all told apart)
STEPS = 100
HALVINGS = 60


@dataclass(frozen=True)
class Calibration:
    """z' = scale z + offsets, and the mean log loss of the rows without and with it."""

    scale: float
    offsets: tuple[float, ...]
    log_loss_before: float
    log_loss_after: float


def calibrate(model: Model, loss: Loss, dataset: Dataset) -> Calibration:
    """Fit on the rows of a dataset and fold into the last layer of the model, in place.

    Raises: ModelError as `check_calibration` and `fit_calibration` do.
    """
    place = check_calibration(model, loss)
    with one_blas_thread():  # the same bits wherever this runs
        X, y = dataset.read()
        found = fit_calibration(model.outputs(X), y)
    W, b = model.p[place]["W"], model.p[place]["b"]
    W[...] = W.astype(np.float64) * found.scale
    b[...] = b.astype(np.float64) * found.scale + np.array(found.offsets)
    return found


def check_calibration(model: Model, loss: Loss) -> int:
    """The place of the layer that takes scale and offsets.

    Raises: ModelError if there are no probabilities to calibrate, or the last layer is no Dense with a bias.
    """
    if loss.task == "regression":
        raise ModelError("calibrate: this model predicts a number, not a probability; leave calibrate out")
    if getattr(loss, "from_probabilities", False) and model.head == "linear":
        raise ModelError(
            "calibrate: the loss takes probabilities as they are, expected logits; leave from_probabilities out"
        )
    place = len(model.layers) - 1
    if isinstance(model.layers[place], Activation):
        place -= 1
    last = model.layers[place]
    if (
        not isinstance(last, Dense)
        or not last.use_bias
        or last.activation not in {None, "linear", "sigmoid", "softmax"}
        or len(model.out_shape) != 1
    ):
        raise ModelError(
            f"calibrate: the model ends with {model.name(place)}, expected a dense layer with a bias, one output per class; "
            "end it so, or leave calibrate out"
        )
    return place


def fit_calibration(Z: Array, y: Array) -> Calibration:
    """Scale and offsets of least log loss.

    Shapes: Z (n, 1) logits of label 1, y (n,) of 0 and 1; or Z (n, K), y (n,) class numbers.
    Raises: ModelError without rows, and if the logits go the wrong way, so that a scale above 0 does not help.
    """
    if not len(Z):
        raise ModelError(
            "calibrate: there are no validation rows, expected some; set validation in the split"
        )
    Z, y = Z.astype(np.float64), np.asarray(y).astype(np.int64).reshape(-1)
    outputs = Z.shape[1]
    theta = start = np.concatenate([[1.0], np.zeros(outputs)])
    total = before = _loss(theta, start, Z, y)[0]
    for _ in range(STEPS):
        _, gradient, curvature = _loss(theta, start, Z, y)
        step = np.linalg.solve(curvature, gradient)
        slope = float(gradient @ step)
        if slope < 1e-10 * max(1.0, total):
            break
        share = 1.0
        for _ in range(HALVINGS):
            moved = theta - share * step
            less = _loss(moved, start, Z, y)[0]
            if less <= total - 1e-4 * share * slope:
                theta, total = moved, less
                break
            share /= 2
        else:
            break
    if theta[0] <= 0:
        raise ModelError(
            f"calibrate: on the validation rows a higher score means a lower share of true ones (scale {theta[0]:.3g}); "
            "the model has not learned, train it longer, or leave calibrate out"
        )
    after = _loss(theta, theta, Z, y)[0]
    return Calibration(
        float(theta[0]), tuple(float(one) for one in theta[1:]), float(before) / len(y), float(after) / len(y)
    )


def _loss(theta: Array, prior: Array, Z: Array, y: Array) -> tuple[float, Array, Array]:
    """Sum of the log losses and the prior's part, its gradient and second derivatives. Shapes: theta (1 + K,)."""
    raw = theta[0] * Z + theta[1:]
    if Z.shape[1] == 1:  # two classes whose logits are 0 and z
        raw = np.hstack([np.zeros_like(raw), raw])
    raw = raw - raw.max(axis=1, keepdims=True)
    log = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    P, rows = np.exp(log), np.arange(len(y))
    total = -log[rows, y].sum()
    E = P.copy()
    E[rows, y] -= 1
    P, E = (P[:, 1:], E[:, 1:]) if Z.shape[1] == 1 else (P, E)
    gradient = np.concatenate([[(E * Z).sum()], E.sum(axis=0)])
    mean = (P * Z).sum(axis=1, keepdims=True)
    curvature = np.empty((len(theta), len(theta)))
    curvature[0, 0] = (P * Z * Z).sum() - (mean**2).sum()
    curvature[0, 1:] = curvature[1:, 0] = (P * (Z - mean)).sum(axis=0)
    curvature[1:, 1:] = np.diag(P.sum(axis=0)) - P.T @ P
    away = theta - prior
    curvature += PRIOR * np.eye(len(theta))
    return float(total + PRIOR / 2 * (away @ away)), gradient + PRIOR * away, curvature
