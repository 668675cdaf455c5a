"""Initial weights: functions of a shape and a random stream.

Letters: I inputs of one unit, O outputs of one input. The last two axes of a shape are (I, O); axes before them (a kernel's
height and width) multiply both.
"""

from collections.abc import Callable
from math import prod, sqrt

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.choice import choose
from dlflow.nn.params import Array, Shape
from dlflow.nn.streams import Stream

__all__ = ["INITIALIZERS", "initializer"]

Initializer = Callable[[Shape, Stream], Array]


def initializer(name: str) -> Initializer:
    """The initializer of this name.

    Raises: ModelError with a "did you mean".
    """
    return choose(name, INITIALIZERS, "initializer")


def _fans(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        raise ModelError(
            f"shape {shape!r} has no inputs and outputs; use 'zeros', 'ones' or 'small_uniform' for it"
        )
    window = prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def _glorot_uniform(shape: Shape, rng: Stream) -> Array:
    limit = sqrt(6 / sum(_fans(shape)))  # Glorot & Bengio 2010, equation 16
    return rng.uniform(shape, -limit, limit)


def _glorot_normal(shape: Shape, rng: Stream) -> Array:
    return rng.normal(shape, sqrt(2 / sum(_fans(shape))))


def _he_uniform(shape: Shape, rng: Stream) -> Array:
    limit = sqrt(6 / _fans(shape)[0])
    return rng.uniform(shape, -limit, limit)


def _he_normal(shape: Shape, rng: Stream) -> Array:
    return rng.normal(shape, sqrt(2 / _fans(shape)[0]))  # He et al. 2015, equation 10


def _lecun_normal(shape: Shape, rng: Stream) -> Array:
    return rng.normal(shape, sqrt(1 / _fans(shape)[0]))  # LeCun et al. 1998, section 4.6


def _lecun_uniform(shape: Shape, rng: Stream) -> Array:
    limit = sqrt(3 / _fans(shape)[0])
    return rng.uniform(shape, -limit, limit)


def _orthogonal(shape: Shape, rng: Stream) -> Array:
    """Orthonormal columns, or rows if there are more columns; of the matrix with all axes but the last as one.

    Source: Saxe, McClelland & Ganguli 2014; the sign of the diagonal makes it uniform (Mezzadri 2007).
    """
    _fans(shape)  # refuses vectors
    rows, columns = prod(shape[:-1]), shape[-1]
    Q, R = np.linalg.qr(rng.normal((max(rows, columns), min(rows, columns))))
    Q *= np.where(np.diag(R) < 0, -1.0, 1.0)
    return np.ascontiguousarray(Q if rows >= columns else Q.T).reshape(shape)


def _small_uniform(shape: Shape, rng: Stream) -> Array:
    return rng.uniform(shape, -0.05, 0.05)


def _zeros(shape: Shape, _rng: Stream) -> Array:
    return np.zeros(shape)


def _ones(shape: Shape, _rng: Stream) -> Array:
    return np.ones(shape)


INITIALIZERS: dict[str, Initializer] = {
    "glorot_normal": _glorot_normal,
    "glorot_uniform": _glorot_uniform,
    "he_normal": _he_normal,
    "he_uniform": _he_uniform,
    "lecun_normal": _lecun_normal,
    "lecun_uniform": _lecun_uniform,
    "ones": _ones,
    "orthogonal": _orthogonal,
    "small_uniform": _small_uniform,
    "zeros": _zeros,
}
