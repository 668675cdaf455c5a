"""The gradient of a model compared with finite differences, in float64: the check every new layer and loss must pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dlflow.nn.door import Inputs
from dlflow.nn.graph import Graph
from dlflow.nn.layers import Layer
from dlflow.nn.losses import Loss
from dlflow.nn.model import Model
from dlflow.nn.params import Array, Shape
from dlflow.nn.streams import Stream

__all__ = ["GradientCheck", "gradient_check"]

STEP = 1e-6  # about the cube root of float64's precision: truncation and rounding errors are then both about 1e-10


@dataclass(frozen=True)
class GradientCheck:
    """How far the gradient is from central differences: the largest distance, relative to max(1, |difference|)."""

    error: float
    where: str  # the parameter with that error
    computed: float
    numeric: float
    checked: int  # parameters looked at


def gradient_check(
    layers: Sequence[Layer] | Graph,
    in_shape: Shape | int,
    loss: Loss,
    X: Inputs,
    y: Array,
    *,
    weights: Array | None = None,
    rng: Stream | None = None,
    seed: int = 0,
    at_most: int = 2000,
) -> GradientCheck:
    """Largest error of the mean gradient, weight decay included; of a random sample of the parameters if there are many.

    A sound layer is below 1e-7. An `rng` turns dropout on; its masks are the same in every pass.

    Shapes: X (B, *in_shape), or one array for each input of a Graph; y as the loss wants it; weights (B,).
    """
    model = Model(layers, in_shape, dtype=np.float64)
    loss.check(model.out_shape, model.head)
    model.init(seed)
    model.w += Stream(seed, "sample").normal(
        model.w.shape, 0.1
    )  # biases are zero at first, which hides errors
    for slot in model.statistics:  # a running variance is not below 0
        model.w[slot.start : slot.stop] = np.abs(model.w[slot.start : slot.stop]) + 0.1

    def mean_loss() -> float:
        model.reset_states()
        model.gradient(loss, X, y, weights=weights, rng=rng)
        return model.finish()

    mean_loss()
    computed = model.g[: model.parameters].copy()
    moved = np.ones(model.parameters, np.bool_)
    for slot in model.statistics:  # no gradient moves these
        moved[slot.start : slot.stop] = False
    chosen = Stream(seed, "sample", step=1).permutation(model.parameters)
    chosen = chosen[moved[chosen]][:at_most]
    numeric = np.zeros_like(computed)
    for place in chosen:
        value = model.w[place]
        model.w[place] = value + STEP
        above = mean_loss()
        model.w[place] = value - STEP
        numeric[place] = (above - mean_loss()) / (2 * STEP)
        model.w[place] = value
    errors = np.abs(computed - numeric)[chosen] / np.maximum(1, np.abs(numeric[chosen]))
    worst = int(chosen[errors.argmax()])
    slot = next(slot for slot in model.slots if worst < slot.stop)
    place = tuple(int(axis) for axis in np.unravel_index(worst - slot.start, slot.shape))
    where = f"{model.name(slot.layer)} {slot.name}{list(place)}"
    return GradientCheck(
        float(errors.max()), where, float(computed[worst]), float(numeric[worst]), len(chosen)
    )
