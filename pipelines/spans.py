"""Summaries over a stretch of time instead of a number of rows: of each row, those up to it that are less than so long ago.

    at       08:00  08:20  08:50  09:10         mean(temp, 1h) at 09:10 is over 08:20, 08:50 and 09:10
    window     (---------------------]          a row that is exactly 1h old is not in it, as in pandas

Missing values are left out; a stretch without any value gives none (std without two). Rows of equal time count in
their order. Each sum is taken over its own rows in the order of time, so no cut can change a bit.
"""

import re
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pipelines.errors import SpecError
from pipelines.fields import combined, kind_of, numpy_of
from pipelines.timeline import Timeline

__all__ = ["SPAN", "SUMMARIES", "UNITS", "Spans", "moments_of", "span_of"]

SPAN = r"[0-9]+\s*(?:us|ms|s|min|h|d)"
UNITS = {"us": 1, "ms": 10**3, "s": 10**6, "min": 60 * 10**6, "h": 3600 * 10**6, "d": 86400 * 10**6}
_LEAST = np.iinfo(np.int64).min


def span_of(text: str, kind: str, *, where: str) -> int:
    """A stretch of time as a number of microseconds, of dates as one of days.

    Raises: SpecError.
    """
    number, unit = re.findall(r"[0-9]+|[a-z]+", text)
    time = int(number) * UNITS[unit]
    if not 0 < time < 2**62:
        raise SpecError(f"{where}: expected a time above 0")
    if kind == "date":
        if time % UNITS["d"]:
            raise SpecError(f"{where}: dates are whole days apart, give days such as 7d")
        return time // UNITS["d"]
    return time


def moments_of(column: pa.ChunkedArray) -> np.ndarray:
    """Times in microseconds, dates in days; anything where there is none."""
    values = combined(column)
    if kind_of(values.type) == "timestamp":
        return numpy_of(
            values.cast(pa.timestamp("us", values.type.tz), safe=False).view(pa.int64()).fill_null(0)
        )
    return numpy_of(values.cast(pa.date32()).view(pa.int32()).fill_null(0)).astype(np.int64)


class Spans:
    """The stretches of all places of a timeline, and the values in them. Shapes: (places,) each."""

    def __init__(
        self, line: Timeline, moments: np.ndarray, span: int, values: np.ndarray, there: np.ndarray
    ) -> None:
        self.values, self.there = values, there
        self.place = np.arange(len(values))
        moments = np.maximum(moments, _LEAST + 1)  # its own moment is always inside
        after = np.where(moments < _LEAST + span, _LEAST, moments - span)
        low, high = line.first.copy(), self.place.copy()  # the first place of the group that is after it
        while (low < high).any():
            middle = (low + high) // 2
            inside = moments[middle] > after
            low, high = np.where(inside, low, middle + 1), np.where(inside, middle, high)
        self.first = low
        self.count = self._reduced(np.add, there.astype(np.float64), 0.0)

    def _reduced(self, combine: np.ufunc, values: np.ndarray, nothing: float) -> np.ndarray:
        """Each stretch by itself: reduceat goes from a first place to the one behind the last."""
        if not len(values):
            return values
        bounds = np.stack([self.first, self.place + 1], axis=1).ravel()
        made: np.ndarray = combine.reduceat(np.append(values, nothing), bounds)[::2]
        return made

    def total(self) -> np.ndarray:
        """The sum; nan without a value."""
        return np.where(self.count > 0, self._reduced(np.add, self.values, 0.0), np.nan)

    def mean(self) -> np.ndarray:
        """The sum by the count."""
        made: np.ndarray = self.total() / self.count
        return made

    def least(self) -> np.ndarray:
        """The smallest value."""
        return self._reduced(np.minimum, np.where(self.there, self.values, np.inf), np.inf)

    def greatest(self) -> np.ndarray:
        """The greatest value."""
        return self._reduced(np.maximum, np.where(self.there, self.values, -np.inf), -np.inf)

    def std(self) -> np.ndarray:
        """The standard deviation by the count less one, from the distances to the mean; nan without two values."""
        mean, squares = self.mean(), np.zeros(len(self.values))
        width = self.place - self.first
        longest_first = np.argsort(-width, kind="stable")
        ends = np.searchsorted(
            -width[longest_first], -np.arange(int(width.max(initial=-1)) + 1), side="right"
        )
        for distance in range(len(ends) - 1, -1, -1):  # from the oldest row of each stretch to its own
            rows = longest_first[: ends[distance]]
            old = rows - distance
            squares[rows] += np.where(self.there[old], np.square(self.values[old] - mean[rows]), 0.0)
        return np.where(self.count > 1, np.sqrt(squares / np.maximum(self.count - 1, 1)), np.nan)


SUMMARIES: dict[str, Callable[[Spans], np.ndarray]] = {
    "sum": Spans.total,
    "mean": Spans.mean,
    "std": Spans.std,
    "min": Spans.least,
    "max": Spans.greatest,
    "count": lambda spans: spans.count,
}
