"""How fast the ranks compute beside each other: a step takes as long as its slowest rank."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Pace"]

LOOK_S = 5.0  # between two looks: shorter ones would tell of every hiccup of a shared machine
SLOW = 2.0  # times the median
SHORT_STEP_S = 0.0005  # exchanges take about as long: more ranks cannot make such steps faster


class Pace:
    """Adds up the seconds that each rank computes, and tells which one holds up the others, once per rank."""

    def __init__(self, size: int, report: Callable[[dict[str, Any]], None]) -> None:
        self._sums, self._steps = np.zeros(size), 0
        self._report, self._told = report, set[int]()
        self._began = time.monotonic()
        self._advised = size == 1

    def add(self, seconds: np.typing.NDArray[Any]) -> None:
        """What each rank needed for a step. Shapes: (ranks,)."""
        self._sums += seconds
        self._steps += 1
        if time.monotonic() - self._began >= LOOK_S:
            self.look()

    def look(self) -> None:
        """Tell what the sums since the last look show, and begin anew."""
        means, size = self._sums / max(self._steps, 1), len(self._sums)
        usual = float(np.median(means))
        for rank in np.flatnonzero(means > SLOW * usual) if size > 2 else ():
            if int(rank) not in self._told:
                self._told.add(int(rank))
                self._report({"event": "straggler", "rank": int(rank), "times": float(means[rank] / usual)})
        if not self._advised and usual < SHORT_STEP_S:
            self._advised = True
            why = (
                f"a step computes for {1000 * usual:.2f} ms on each of {size} ranks, about as long as ranks need to exchange it: "
                "fewer workers, or a larger batch, are likely faster"
            )
            self._report({"event": "advice", "why": why})
        self._sums[:], self._steps, self._began = 0, 0, time.monotonic()
