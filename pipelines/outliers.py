"""Values outside their limits: brought to the limit, emptied, or marked; the limits are given, or fitted over all rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.fields import (
    NUMBER,
    ORDERED,
    combined,
    inherited,
    kind_of,
    numbers,
    numpy_of,
    refuse_private,
    replaced,
    require,
    schema_after,
    titled,
)
from pipelines.grouped import GroupedMoments
from pipelines.ranks import GroupedMedianDistance, GroupedQuantiles
from pipelines.sketch import Moments, Quantiles, Several, group_labels
from pipelines.split import trained
from pipelines.stage import Fit, Map, Rows, Sketch
from pipelines.warehouse.by_group import ByGroup

__all__ = ["Clip", "MedianDistance", "clip", "clip_fitted", "clip_grouped"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Deals with numbers below `low` or above `high`, or too far from the others.

    method = "iqr": outside the quartiles by more than `factor` (1.5) times their distance; "zscore": further from the
    mean than `factor` (3) standard deviations; "mad": further from the median than `factor` (3.5) times the median
    distance from it, times 1.4826 (which makes it a standard deviation where values are normal).

    With `by` the quartiles, means and medians are those of the rows of the same group. A row without a group, or of one
    whose values have no width (one value only; more than half are equal, for "mad"), is not judged, and counted.

    on_outlier = "clip" takes the limit itself (in a column of integers the nearest integer inside), "null" empties the
    cell, "flag" leaves it and adds a column `NAME_outlier` of true and false. A missing value is no outlier.

    fit_on = "train": limits come from the rows that train (the step `split` is before this one). What is fitted by group
    tells values: a private column has to be named in `allow_private`.
    """

    do: ClassVar[str] = "clip"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    method: Literal["iqr", "zscore", "mad"] | None = None
    factor: float | None = None
    by: tuple[str, ...] = ()
    on_outlier: Literal["clip", "null", "flag"] = "clip"
    fit_on: Literal["all", "train"] = "all"
    allow_private: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, and those of the flags."""
        self.stage(schema)
        unlimited = dict.fromkeys(self.columns, (None, None))
        return schema_after(Map(self.do, clip, {"limits": unlimited, "on_outlier": self.on_outlier}), schema)

    def stage(self, schema: pa.Schema) -> Map | Fit:
        """A Map with given limits, a Fit with fitted ones."""
        require(schema, self.columns, step=self.do, kinds=NUMBER)
        given = self.low is not None or self.high is not None
        if given == (self.method is not None):
            raise SpecError(
                'clip: give either low and high (one or both), or method = "iqr", "zscore" or "mad"'
            )
        if self.factor is not None and self.method is None:
            raise SpecError('clip: factor is for method = "iqr", "zscore" or "mad"')
        factor = _FACTORS.get(self.method or "", 0.0) if self.factor is None else self.factor
        if not all(math.isfinite(value) for value in (self.low or 0, self.high or 0, factor)) or factor < 0:
            raise SpecError(f"clip: low, high and factor must be finite, factor not below 0, not {factor!r}")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise SpecError(f"clip: low = {self.low!r} is above high = {self.high!r}")
        if self.on_outlier == "flag" and (
            clash := [name for name in self.columns if f"{name}_outlier" in schema.names]
        ):
            raise SpecError(f"clip: column '{clash[0]}_outlier' is already there; rename or drop it before")
        if self.fit_on == "train" and self.method is None:
            raise SpecError(
                'clip: fit_on = "train" needs method = "iqr", "zscore" or "mad"; given limits are not fitted'
            )
        if self.by and self.method is None:
            raise SpecError(
                'clip: by needs method = "iqr", "zscore" or "mad"; given limits hold for all rows'
            )
        require(schema, self.by, step=self.do, kinds=("string", "bool", *ORDERED))
        if both := sorted(set(self.by) & set(self.columns)):
            raise SpecError(f"clip: {both[0]!r} cannot be both clipped and grouped by")
        name = titled(self.do, self.columns)
        if self.method is None:
            limits = dict.fromkeys(self.columns, (self.low, self.high))
            return Map(name, clip, {"limits": limits, "on_outlier": self.on_outlier})
        params = {"method": self.method, "factor": factor, "on_outlier": self.on_outlier}
        written = (*self.columns, *(f"{one}_outlier" for one in self.columns if self.on_outlier == "flag"))
        if self.by:
            refuse_private(schema, (*self.by, *self.columns), step=self.do, allowed=self.allow_private)
            grouped = Several({column: _GROUPED[self.method](self.by, column) for column in self.columns})
            read = (*self.columns, *self.by)
            made = Fit(name, grouped, clip_grouped, read, {**params, "by": self.by}, written)
        else:
            sketch = Several({column: _SKETCHES[self.method](column) for column in self.columns})
            made = Fit(name, sketch, clip_fitted, self.columns, params, written)
        return trained(made, schema, step=self.do) if self.fit_on == "train" else made


@dataclass(frozen=True)
class MedianDistance:
    """The median, and the median distance from it, both exact. Fitted: {"median", "distance"}, null without a value."""

    column: str

    def sketch(self, table: pa.Table, request: dict[str, Any] | None) -> Any:
        """Counts of the values, later of their distances from the median."""
        if request is None or "median" not in request:
            return Quantiles(self.column, (0.5,)).sketch(table, None if request is None else request["inner"])
        distances = np.abs(numbers(table[self.column]) - request["median"])
        return Quantiles("distance", (0.5,)).sketch(pa.table({"distance": distances}), request["inner"])

    def merge(self, left: Any, right: Any) -> Any:
        """The counts of both."""
        return Quantiles(self.column, (0.5,)).merge(left, right)

    def finish(self, state: Any, request: dict[str, Any] | None) -> tuple[bool, Any]:
        """Both medians, or what the next round counts."""
        request = request or {"inner": None}
        done, answer = Quantiles(self.column, (0.5,)).finish(state, request["inner"])
        if not done:
            return False, {**request, "inner": answer}
        ((_, value),) = answer["quantiles"]
        if "median" in request:
            return True, {"median": request["median"], "distance": value}
        if value is None:
            return True, {"median": None, "distance": None}
        return False, {"median": value, "inner": None}


_FACTORS = {"iqr": 1.5, "zscore": 3.0, "mad": 3.5}
_SKETCHES: dict[str, Callable[[str], Sketch]] = {
    "iqr": lambda name: Quantiles(name, (0.25, 0.75)),
    "zscore": lambda name: Moments(name, spread=True),
    "mad": MedianDistance,
}
_GROUPED: dict[str, Callable[[tuple[str, ...], str], Sketch]] = {
    "iqr": lambda by, name: GroupedQuantiles(by, name, (0.25, 0.75)),
    "zscore": lambda by, name: GroupedMoments(by, name, spread=True),
    "mad": GroupedMedianDistance,
}
_NORMAL = 1.4826  # standard deviation of normal values by their median distance from the median


def clip_fitted(
    table: pa.Table, *, method: str, factor: float, on_outlier: str, fitted: Mapping[str, Any]
) -> Rows:
    """Outliers by what was fitted over all rows."""
    limits: dict[str, tuple[float | None, float | None]] = {}
    for name, summary in fitted.items():
        if method == "iqr":
            (_, lower), (_, upper) = summary["quantiles"]
            reach = None if lower is None else factor * (upper - lower)
        else:
            place, width = ("mean", "std") if method == "zscore" else ("median", "distance")
            lower = upper = summary[place]
            scale = _NORMAL if method == "mad" else 1.0
            reach = None if summary[width] is None else factor * scale * summary[width]
            if method == "mad" and reach == 0 and factor > 0:
                raise InputError(
                    f"clip: more than half of the values of column {name!r} are {lower!r}, so every other one would be an "
                    'outlier by method = "mad"; give low and high, or take "zscore"'
                )
        limits[name] = (None, None) if reach is None else (lower - reach, upper + reach)
    return clip(table, limits=limits, on_outlier=on_outlier)


def clip_grouped(
    table: pa.Table,
    *,
    method: str,
    factor: float,
    by: tuple[str, ...],
    on_outlier: str,
    fitted: Mapping[str, ByGroup],
) -> Rows:
    """Outliers by what was fitted over all rows of their group."""
    labels = group_labels(table, by)
    limits, notes = {}, {}
    for name, groups in fitted.items():
        one, other = (numpy_of(pc.fill_null(values, math.nan)) for values in groups.of_rows(labels))
        if method == "iqr":
            lower, upper, width = one, other, other - one
        else:
            lower = upper = one
            width = other * (_NORMAL if method == "mad" else 1.0)
            if method == "mad" and factor > 0:
                width = np.where(width == 0, np.nan, width)
        limits[name] = (lower - factor * width, upper + factor * width)
        judged = ~np.isnan(width)
        notes[f"not judged {name}"] = int((numpy_of(pc.is_valid(combined(table[name]))) & ~judged).sum())
    made = clip(table, limits=limits, on_outlier=on_outlier)
    return replace(made, notes={**made.notes, **notes})


Limit = float | np.ndarray | None


def clip(table: pa.Table, *, limits: Mapping[str, tuple[Limit, Limit]], on_outlier: str) -> Rows:
    """Outliers by given limits, of all rows or of each; None or nan: there is no limit on this side."""
    notes = {}
    for name, (low, high) in limits.items():
        old = combined(table[name])
        bounds = _bounds(old.type, low, high)
        under = pc.less(old, bounds[0])
        over = pc.greater(old, bounds[1])
        outside = pc.fill_null(pc.or_kleene(under, over), fill_value=False)
        notes[f"outliers {name}"] = pc.sum(outside).as_py() or 0
        if on_outlier == "flag":
            flags = pa.field(f"{name}_outlier", pa.bool_(), metadata=inherited(table.schema, [name]))
            table = table.append_column(flags, outside)
        elif on_outlier == "null":
            table = replaced(table, name, pc.if_else(outside, pa.scalar(None, old.type), old), nullable=True)
        else:
            new = pc.if_else(pc.fill_null(over, fill_value=False), bounds[1], old)
            new = pc.if_else(pc.fill_null(under, fill_value=False), bounds[0], new)
            table = replaced(table, name, new)
    return Rows(table, notes=notes)


def _bounds(arrow: pa.DataType, low: Limit, high: Limit) -> list[pa.Scalar | pa.Array]:
    """Limits in the column's type, inside of the given ones; null where there is none."""
    return [
        _of_rows(arrow, limit, inside) if isinstance(limit, np.ndarray) else _of_all(arrow, limit, inside)
        for limit, inside in ((low, np.ceil), (high, np.floor))
    ]


def _of_all(arrow: pa.DataType, limit: float | None, inside: Callable[[float], float]) -> pa.Scalar:
    if kind_of(arrow) != "integer" or limit is None:
        return pa.scalar(limit, arrow)
    least, most = _range(arrow)
    return pa.scalar(min(max(int(inside(limit)), least), most), arrow)


def _of_rows(arrow: pa.DataType, limits: np.ndarray, inside: Callable[[np.ndarray], np.ndarray]) -> pa.Array:
    none = np.isnan(limits)
    if kind_of(arrow) != "integer":
        return pa.array(limits, mask=none).cast(arrow, safe=False)
    least, most = map(float, _range(arrow))  # of int64 the greatest is 2 ** 63, which is none
    held = inside(np.where(none, 0.0, limits))
    none |= (held >= most) & (inside is np.floor)
    held = np.clip(held, least, np.nextafter(most + 1, 0))
    return pa.array(held, mask=none).cast(arrow, safe=False)


def _range(arrow: pa.DataType) -> tuple[int, int]:
    bits = arrow.bit_width
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(arrow) else (0, 2**bits - 1)
    )
