"""Learning rates that change with the number of updates: frozen values, functions of that number alone.

Letters: t updates that were made, from 0; every rate is the rate of the next one.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import cos, inf, isfinite, pi
from typing import ClassVar

from dlflow.errors import ModelError

__all__ = ["Constant", "Cosine", "Exponential", "Schedule", "Step", "WarmUp", "rate_at"]


class Schedule(ABC):
    """A learning rate for every update."""

    kind: ClassVar[str]

    @abstractmethod
    def at(self, t: int) -> float:
        """The rate after t updates."""


def rate_at(rate: "float | Schedule", t: int) -> float:
    """The rate after t updates, whether it changes or not."""
    return rate.at(t) if isinstance(rate, Schedule) else rate


def _check(schedule: Schedule, **least: float) -> None:
    for each in fields(schedule):  # type: ignore[arg-type]
        value = getattr(schedule, each.name)
        if isinstance(value, Schedule):
            continue
        low = least.get(each.name, 0)
        if not (isfinite(value) and (value >= low if low else value > 0 or each.name == "floor")):
            expected = f"at least {low}" if low else "a positive number"
            raise ModelError(
                f"schedule {schedule.kind!r}: {each.name} is {value!r}, expected {expected}; correct it"
            )


@dataclass(frozen=True)
class Constant(Schedule):
    """Always the same."""

    kind: ClassVar[str] = "constant"
    rate: float

    def __post_init__(self) -> None:
        _check(self)

    def at(self, t: int) -> float:
        """The rate."""
        del t
        return self.rate


@dataclass(frozen=True)
class Step(Schedule):
    """rate * factor^floor(t / every): falls at once after every so many updates."""

    kind: ClassVar[str] = "step"
    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self, every=1)

    def at(self, t: int) -> float:
        """The rate of the stair that t is on."""
        return self.rate * self.factor ** (t // self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """rate * factor^(t / every): falls a little with each update."""

    kind: ClassVar[str] = "exponential"
    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _check(self, every=1)

    def at(self, t: int) -> float:
        """The rate."""
        return self.rate * self.factor ** (t / self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From rate to floor along half a cosine over so many updates; floor from there on.

    Source: Loshchilov & Hutter 2017, equation 5, without restarts.
    """

    kind: ClassVar[str] = "cosine"
    rate: float
    updates: int
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self, updates=1)
        if not 0 <= self.floor < self.rate < inf:
            raise ModelError(
                f"schedule 'cosine': floor is {self.floor!r}, expected from 0 to below the rate {self.rate!r}"
            )

    def at(self, t: int) -> float:
        """The rate."""
        part = min(t, self.updates) / self.updates
        return self.floor + (self.rate - self.floor) * (1 + cos(pi * part)) / 2


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Rises in a straight line over so many updates to the first rate of `then`, and goes on with that.

    Source: Goyal et al. 2017, section 2.2.
    """

    kind: ClassVar[str] = "warm_up"
    updates: int
    then: float | Schedule

    def __post_init__(self) -> None:
        _check(self, updates=1)

    def at(self, t: int) -> float:
        """The rate: never 0, so that the first update counts."""
        if t < self.updates:
            return rate_at(self.then, 0) * (t + 1) / (self.updates + 1)
        return rate_at(self.then, t - self.updates)
