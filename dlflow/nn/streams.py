"""Random numbers as a pure function of their place: (seed, purpose, step, shard, layer) -> a stream of its own.

Philox turns a 256-bit counter and a 128-bit key into random bits. The place is written into both, so every
place has 2^64 blocks for itself, streams never overlap, and no generator travels between processes:

    key     = (seed, purpose)
    counter = (0, layer, shard, step)        the first word counts the blocks of the stream
"""

from dataclasses import dataclass
from math import pi, prod

import numpy as np

from dlflow.errors import ModelError
from dlflow.nn.choice import choose
from dlflow.nn.params import Array, Shape

__all__ = ["PURPOSES", "Stream"]

PURPOSES = {"weights": 1, "dropout": 2, "shuffle": 3, "sample": 4}


@dataclass(frozen=True)
class Stream:
    """The random numbers of one place. A value: asking twice gives the same numbers twice.

    All are made from raw Philox bits by formulas written here, so they do not change with the NumPy version.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox 4x64-10).
    """

    seed: int
    purpose: str
    step: int = 0
    shard: int = 0
    layer: int = 0

    def __post_init__(self) -> None:
        choose(self.purpose, PURPOSES, "purpose of random numbers")
        for name in ("seed", "step", "shard", "layer"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 64:
                raise ModelError(
                    f"{name} is {value!r}, expected a whole number from 0 to 2^64 - 1; choose another one"
                )

    def at(self, *, layer: int) -> "Stream":
        """The stream of the same place for one layer."""
        return Stream(self.seed, self.purpose, self.step, self.shard, layer)

    def bits(self, size: int) -> Array:
        """The first `size` words of 64 random bits.

        Shapes: (size,), uint64.
        """
        key = np.array([self.seed, PURPOSES[self.purpose]], np.uint64)
        counter = np.array([0, self.layer, self.shard, self.step], np.uint64)
        return np.random.Philox(key=key, counter=counter).random_raw(size)

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> Array:
        """Uniform numbers in [low, high), float64, from 53 bits each."""
        return (low + (high - low) * _unit(self.bits(prod(shape)))).reshape(shape)

    def normal(self, shape: Shape, deviation: float = 1.0) -> Array:
        """Normal numbers with mean 0, float64.

        Source: Box & Muller 1958.
        """
        size = prod(shape)
        first, second = _unit(self.bits(2 * size)).reshape(2, size)
        radius = np.sqrt(-2.0 * np.log1p(-first))  # 1 - first is in (0, 1]: never log(0)
        return (deviation * radius * np.cos(2 * pi * second)).reshape(shape)

    def permutation(self, size: int) -> Array:
        """The numbers 0 .. size - 1 in random order.

        Sorts words whose low bits are their own index: the words differ, so every sort gives the same order.

        Shapes: (size,), int64.
        """
        low = np.uint64((1 << max(size - 1, 0).bit_length()) - 1)
        words = (self.bits(size) & ~low) | np.arange(size, dtype=np.uint64)
        words.sort()
        return (words & low).astype(np.int64)


def _unit(bits: Array) -> Array:
    return (bits >> np.uint64(11)) * 2.0**-53
