"""How far the values of a column have moved from those of a reference: two numbers from exact counts.

    psi    population stability index: sum of (p - q) ln(p / q) over ten bins of the reference's deciles (of texts and
           bools: over the values), missing values as a bin of their own; below 0.1 little, above 0.25 much
    ks     Kolmogorov-Smirnov distance: the greatest difference of the two distribution functions at all percentiles
           of both; the true distance is greater by at most 0.01 and one value's share

Half a row is added to every bin, so that an empty one gives a large number and not an infinite one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipelines.errors import InputError
from pipelines.fields import kind_of
from pipelines.sketch import Histogram, Moments, Quantiles, Several, Values
from pipelines.stage import Sketch

__all__ = ["drift", "psi"]

DECILES = tuple(one / 10 for one in range(1, 10))
PERCENTILES = tuple(one / 100 for one in range(101))
CATEGORIES = 10_000

Summarise = Callable[[Sketch], Any]
"""What a sketch says of all rows of one table."""


def drift(column: str, kind: pa.DataType, new: Summarise, reference: Summarise) -> dict[str, float | None]:
    """{"psi", "ks"} of a column of both tables; ks is null for texts and bools, both where one table has no value.

    Raises: InputError if there are too many different texts.
    """
    if kind_of(kind) in {"string", "bool"}:
        counts = [summarise(Values(column, limit=CATEGORIES)) for summarise in (new, reference)]
        if any(one["values"] is None for one in counts):
            raise InputError(
                f"check distribution: column {column!r} has more than {CATEGORIES:,} different values; map them to fewer"
            )
        found, expected = (dict(map(tuple, one["values"])) for one in counts)
        if not found or not expected:
            return {"psi": None, "ks": None}
        keys = sorted({*found, *expected}, key=str)
        nulls = [one["nulls"] for one in counts]
        return {
            "psi": psi(
                [found.get(key, 0) for key in keys] + nulls[:1],
                [expected.get(key, 0) for key in keys] + nulls[1:],
            ),
            "ks": None,
        }
    look = Several({"places": Quantiles(column, PERCENTILES), "counts": Moments(column)})
    seen, known = new(look), reference(look)
    if not seen["counts"]["count"] or not known["counts"]["count"]:
        return {"psi": None, "ks": None}
    deciles = _edges([known], DECILES)
    percentiles = _edges([seen, known], PERCENTILES)
    both = Several({"psi": Histogram(column, deciles), "ks": Histogram(column, percentiles)})
    one, other = new(both), reference(both)
    return {
        "psi": psi(
            [*_bins(one["psi"]), seen["counts"]["nulls"]], [*_bins(other["psi"]), known["counts"]["nulls"]]
        ),
        "ks": _distance(_bins(one["ks"]), _bins(other["ks"])),
    }


def psi(found: Sequence[int], expected: Sequence[int]) -> float:
    """Population stability index of two counts of the same bins.

    >>> psi([50, 50], [50, 50])
    0.0
    """
    total = 0.0
    for one, other in zip(found, expected, strict=True):
        p = (one + 0.5) / (sum(found) + 0.5 * len(found))
        q = (other + 0.5) / (sum(expected) + 0.5 * len(expected))
        total += (p - q) * math.log(p / q)
    return total


def _edges(summaries: Sequence[Mapping[str, Any]], at: Sequence[float]) -> tuple[float, ...]:
    wanted = {round(one * 100) for one in at}
    values = {
        value for one in summaries for q, value in one["places"]["quantiles"] if round(q * 100) in wanted
    }
    return (*sorted(values), math.inf)  # so that the last bin is open, and holds no upper edge


def _bins(counted: Mapping[str, Any]) -> list[int]:
    return [counted["below"], *counted["counts"]]


def _distance(found: Sequence[int], expected: Sequence[int]) -> float:
    most, one, other = 0.0, 0, 0
    for more, less in zip(found, expected, strict=True):
        one, other = one + more, other + less
        most = max(most, abs(one / sum(found) - other / sum(expected)))
    return most
