"""Values outside their limits: brought to the limit, emptied, or marked; the limits are given, or fitted over all rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import NUMBER, combined, kind_of, replaced, require, schema_after, titled
from pipelines.sketch import Quantiles, Several
from pipelines.stage import Fit, Map, Rows

__all__ = ["Clip", "clip", "clip_fitted"]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Deals with numbers below `low` or above `high`, or outside the quartiles by more than `factor` times their distance.

    on_outlier = "clip" takes the limit itself (in a column of integers the nearest integer inside), "null" empties the
    cell, "flag" leaves it and adds a column `NAME_outlier` of true and false. A missing value is no outlier.
    """

    do: ClassVar[str] = "clip"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    method: Literal["iqr"] | None = None
    factor: float = 1.5
    on_outlier: Literal["clip", "null", "flag"] = "clip"

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns, and those of the flags."""
        self.stage(schema)
        unlimited = dict.fromkeys(self.columns, (None, None))
        return schema_after(Map(self.do, clip, {"limits": unlimited, "on_outlier": self.on_outlier}), schema)

    def stage(self, schema: pa.Schema) -> Map | Fit:
        """A Map with given limits, a Fit with quartiles."""
        require(schema, self.columns, step=self.do, kinds=NUMBER)
        given = self.low is not None or self.high is not None
        if given == (self.method is not None):
            raise SpecError('clip: give either low and high (one or both), or method = "iqr"')
        if (
            not all(math.isfinite(value) for value in (self.low or 0, self.high or 0, self.factor))
            or self.factor < 0
        ):
            raise SpecError(
                f"clip: low, high and factor must be finite, factor not below 0, not {self.factor!r}"
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise SpecError(f"clip: low = {self.low!r} is above high = {self.high!r}")
        if self.on_outlier == "flag" and (
            clash := [name for name in self.columns if f"{name}_outlier" in schema.names]
        ):
            raise SpecError(f"clip: column '{clash[0]}_outlier' is already there; rename or drop it before")
        name = titled(self.do, self.columns)
        if self.method is None:
            limits = dict.fromkeys(self.columns, (self.low, self.high))
            return Map(name, clip, {"limits": limits, "on_outlier": self.on_outlier})
        sketch = Several({column: Quantiles(column, (0.25, 0.75)) for column in self.columns})
        return Fit(
            name, sketch, clip_fitted, self.columns, {"factor": self.factor, "on_outlier": self.on_outlier}
        )


def clip_fitted(table: pa.Table, *, factor: float, on_outlier: str, fitted: Mapping[str, Any]) -> Rows:
    """Outliers by the quartiles of all rows."""
    limits: dict[str, tuple[float | None, float | None]] = {}
    for name, summary in fitted.items():
        (_, lower), (_, upper) = summary["quantiles"]
        if lower is None:
            limits[name] = (None, None)
        else:
            width = factor * (upper - lower)
            limits[name] = (lower - width, upper + width)
    return clip(table, limits=limits, on_outlier=on_outlier)


def clip(
    table: pa.Table, *, limits: Mapping[str, tuple[float | None, float | None]], on_outlier: str
) -> Rows:
    """Outliers by given limits; None: there is no limit on this side."""
    notes = {}
    for name, (low, high) in limits.items():
        old = combined(table[name])
        bounds = _bounds(old.type, low, high)
        under = pc.less(old, bounds[0])
        over = pc.greater(old, bounds[1])
        outside = pc.fill_null(pc.or_kleene(under, over), fill_value=False)
        notes[f"outliers {name}"] = pc.sum(outside).as_py() or 0
        if on_outlier == "flag":
            flags = pa.field(f"{name}_outlier", pa.bool_())
            table = table.append_column(flags, outside)
        elif on_outlier == "null":
            table = replaced(table, name, pc.if_else(outside, pa.scalar(None, old.type), old), nullable=True)
        else:
            new = pc.if_else(pc.fill_null(over, fill_value=False), bounds[1], old)
            new = pc.if_else(pc.fill_null(under, fill_value=False), bounds[0], new)
            table = replaced(table, name, new)
    return Rows(table, notes=notes)


def _bounds(arrow: pa.DataType, low: float | None, high: float | None) -> tuple[pa.Scalar, pa.Scalar]:
    """Limits in the column's type, inside of the given ones; null where there is none."""
    if kind_of(arrow) != "integer":
        return pa.scalar(low, arrow), pa.scalar(high, arrow)
    least, most = _range(arrow)
    floor = None if low is None else min(max(math.ceil(low), least), most)
    ceiling = None if high is None else min(max(math.floor(high), least), most)
    return pa.scalar(floor, arrow), pa.scalar(ceiling, arrow)


def _range(arrow: pa.DataType) -> tuple[int, int]:
    bits = arrow.bit_width
    return (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(arrow) else (0, 2**bits - 1)
    )
