"""How a column becomes numbers for a model: each encoder says what it learns from the training rows, and then only applies it.

What an encoder has learned is its recipe: plain JSON that holds everything, so that training, scoring and another
machine do the same with it.

    numeric = ["price"]      columns = { price = "robust", at = { encode = "date", parts = ["month"] } }
         |                        |
      Encoder --sketch(training rows)--> fitted --recipe--> {"encode": "scale", "center": ...} --APPLY--> (rows, k)
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.fields import NUMBER, combined, kind_of, numpy_of
from pipelines.sketch import Moments, Quantiles, Several
from pipelines.stage import Sketch

__all__ = ["APPLY", "ENCODERS", "Bins", "Dates", "Encoded", "Plain", "Quantile", "Scaler"]

Recipe = Mapping[str, Any]
Encoded = tuple[np.ndarray, list[str]]
"""The numbers, (rows, k), and the name of each."""

CLIP = 8.0  # deviations: a wild value in new data must not outshout all others
_KNOTS = tuple(knot / 100 for knot in range(101))
_PARTS: dict[str, tuple[Callable[..., pa.Array], int, int]] = {  # kernel, first, how many
    "month": (pc.month, 1, 12),
    "day": (pc.day, 1, 31),
    "weekday": (pc.day_of_week, 0, 7),
    "day_of_year": (pc.day_of_year, 1, 366),
    "hour": (pc.hour, 0, 24),
    "minute": (pc.minute, 0, 60),
}


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """(value - center) / width, and a second number that says whether it was missing (then 0) if a training row lacks it.

    standard: mean and standard deviation; robust: median and distance of the quartiles; both held at 8 widths.
    min_max: 0 for the least, 1 for the greatest of the training rows, held there; a missing one is the mean.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("integer", "float", "bool")

    encode: Literal["standard", "robust", "min_max"] = "standard"

    def sketch(self, column: str) -> Sketch:
        """Moments, and quartiles for robust."""
        several: dict[str, Sketch] = {"moments": Moments(column, spread=self.encode == "standard")}
        if self.encode == "robust":
            several["places"] = Quantiles(column, (0.25, 0.5, 0.75))
        return Several(several)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """Center and width; a width of 0 (one value only: it says nothing) becomes 1."""
        moments = _some(column, fitted["moments"])
        fill, low, high = moments["mean"], -CLIP, CLIP
        if self.encode == "standard":
            center, width = moments["mean"], moments["std"]
        elif self.encode == "min_max":
            center, width, low, high = moments["min"], moments["max"] - moments["min"], 0.0, 1.0
        else:
            (_, lower), (_, center), (_, upper) = fitted["places"]["quantiles"]
            width = upper - lower
            fill = center
        return {
            "encode": "scale",
            "column": column,
            "center": center,
            "width": width or 1.0,
            "low": low,
            "high": high,
            "fill": fill,
            "missing": moments["nulls"] > 0,
        }


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The value itself; the mean of the training rows where it is missing, and a second number that says so."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("integer", "float", "bool")

    encode: Literal["plain"] = "plain"

    def sketch(self, column: str) -> Sketch:
        """Moments."""
        return Moments(column)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """What stands in for a missing value."""
        moments = _some(column, fitted)
        return {
            "encode": "scale",
            "column": column,
            "center": 0.0,
            "width": 1.0,
            "low": None,
            "high": None,
            "fill": moments["mean"],
            "missing": moments["nulls"] > 0,
        }


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """The share of training rows with a lesser value, from 0 to 1, between percentiles on a line; 0.5 where it is missing."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("integer", "float", "bool")

    encode: Literal["quantile"] = "quantile"

    def sketch(self, column: str) -> Sketch:
        """Percentiles."""
        return Several({"moments": Moments(column), "places": Quantiles(column, _KNOTS)})

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """Distinct percentiles and the share at each: of equal ones the middle."""
        moments = _some(column, fitted["moments"])
        values = np.array([value for _, value in fitted["places"]["quantiles"]])
        knots = np.unique(values)
        first, last = (np.searchsorted(values, knots, side) for side in ("left", "right"))
        shares = (first + last - 1) / 2 / (len(values) - 1)
        return {
            "encode": "quantile",
            "column": column,
            "knots": knots.tolist(),
            "shares": shares.tolist(),
            "missing": moments["nulls"] > 0,
        }


@dataclass(frozen=True, kw_only=True)
class Bins:
    """One number per interval, 1 for that of the value: by `edges`, or by `count` of equal share (or width) in the training rows."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = NUMBER

    encode: Literal["bins"] = "bins"
    edges: tuple[float, ...] = ()
    count: int | None = None
    by: Literal["share", "width"] = "share"

    def __post_init__(self) -> None:
        if bool(self.edges) == (self.count is not None):
            raise SpecError("bins: give either edges = [...] or count = ...")
        if list(self.edges) != sorted(set(self.edges)) or not np.isfinite(self.edges).all():
            raise SpecError(f"bins: edges = {list(self.edges)}: expected finite numbers in ascending order")
        if self.count is not None and not 2 <= self.count <= 1_000:
            raise SpecError(f"bins: count = {self.count}: expected 2 to 1,000")

    def sketch(self, column: str) -> Sketch:
        """Extremes and quantiles."""
        inner = tuple(place / (self.count or 2) for place in range(1, self.count or 2))
        return Several({"moments": Moments(column), "places": Quantiles(column, inner)})

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The inner edges."""
        if self.edges:
            return {"encode": "bins", "column": column, "edges": list(self.edges)}
        moments = _some(column, fitted["moments"])
        if self.by == "width":
            edges = np.linspace(moments["min"], moments["max"], (self.count or 2) + 1)[1:-1]
        else:
            edges = np.array([value for _, value in fitted["places"]["quantiles"]])
        return {"encode": "bins", "column": column, "edges": np.unique(edges).tolist()}


@dataclass(frozen=True, kw_only=True)
class Dates:
    """Parts of a date or time (in UTC): as sine and cosine of their cycle, or from 0 to 1; all 0 where it is missing."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}
    kinds: ClassVar[tuple[str, ...]] = ("date", "timestamp")

    encode: Literal["date"] = "date"
    parts: tuple[Literal["month", "day", "weekday", "day_of_year", "hour", "minute"], ...]
    cyclic: bool = True

    def __post_init__(self) -> None:
        if not self.parts:
            raise SpecError(f"date: parts is empty; known: {', '.join(_PARTS)}")

    def sketch(self, column: str) -> Sketch:
        """Nothing but whether there are missing values."""
        return Moments(column)

    def recipe(self, column: str, fitted: Any) -> dict[str, Any]:
        """The parts."""
        return {
            "encode": "date",
            "column": column,
            "parts": list(self.parts),
            "cyclic": self.cyclic,
            "missing": fitted["nulls"] > 0,
        }


def _some(column: str, moments: Mapping[str, Any]) -> Mapping[str, Any]:
    if not moments["count"]:
        raise InputError(
            f"features: column {column!r} has no value in the training rows; take it out, or fill it first"
        )
    return moments


def _values(table: pa.Table, recipe: Recipe, fill: float) -> tuple[np.ndarray, np.ndarray]:
    """The values as float64, and where there is none: nan and infinities are none."""
    values = combined(table[recipe["column"]]).cast(pa.float64(), safe=False)
    missing = ~numpy_of(pc.fill_null(pc.is_finite(values), fill_value=False))
    numbers = numpy_of(pc.fill_null(values, fill))
    return np.where(missing, fill, numbers), missing


def _flagged(numbers: np.ndarray, missing: np.ndarray, recipe: Recipe, names: list[str]) -> Encoded:
    if not recipe["missing"]:
        return numbers, names
    return np.column_stack([numbers, missing]), [*names, f"{recipe['column']} is missing"]


def _scale(table: pa.Table, recipe: Recipe) -> Encoded:
    values, missing = _values(table, recipe, recipe["fill"])
    scaled = (values - recipe["center"]) / recipe["width"]
    if recipe["low"] is not None:
        scaled = np.clip(scaled, recipe["low"], recipe["high"])
    return _flagged(scaled[:, None], missing, recipe, [recipe["column"]])


def _quantile(table: pa.Table, recipe: Recipe) -> Encoded:
    values, missing = _values(table, recipe, 0.0)
    shares = np.where(missing, 0.5, np.interp(values, recipe["knots"], recipe["shares"]))
    return _flagged(shares[:, None], missing, recipe, [recipe["column"]])


def _bins(table: pa.Table, recipe: Recipe) -> Encoded:
    values, missing = _values(table, recipe, 0.0)
    edges, name = recipe["edges"], recipe["column"]
    place = np.searchsorted(edges, values, side="right")
    made = np.zeros((len(values), len(edges) + 1), np.float32)
    rows = np.flatnonzero(~missing)
    made[rows, place[rows]] = 1.0
    ends = [f"{edge:.6g}" for edge in edges]
    between = [f"{low} <= {name} < {high}" for low, high in itertools.pairwise(ends)]
    return made, [f"{name} < {ends[0]}", *between, f"{name} >= {ends[-1]}"] if ends else [name]


def _dates(table: pa.Table, recipe: Recipe) -> Encoded:
    values, name = combined(table[recipe["column"]]), recipe["column"]
    if kind_of(values.type) == "timestamp":
        values = values.cast(pa.timestamp("us"), safe=False)  # the kernels need no zone database
    missing = ~numpy_of(pc.is_valid(values))
    columns, names = [], []
    for part in recipe["parts"]:
        kernel, first, many = _PARTS[part]
        found = numpy_of(pc.fill_null(kernel(values).cast(pa.int64()), first)) - first
        if recipe["cyclic"]:
            angle = 2 * np.pi * found / many
            columns += [np.where(missing, 0.0, np.sin(angle)), np.where(missing, 0.0, np.cos(angle))]
            names += [f"sin {part} of {name}", f"cos {part} of {name}"]
        else:
            columns.append(np.where(missing, 0.0, found / (many - 1)))
            names.append(f"{part} of {name}")
    return _flagged(np.column_stack(columns), missing, recipe, names)


ENCODERS: dict[str, Any] = {
    **dict.fromkeys(("standard", "robust", "min_max"), Scaler),
    "plain": Plain,
    "quantile": Quantile,
    "bins": Bins,
    "date": Dates,
}
APPLY: dict[str, Callable[[pa.Table, Recipe], Encoded]] = {
    "scale": _scale,
    "quantile": _quantile,
    "bins": _bins,
    "date": _dates,
}
