"""What stands in for a missing value: a constant, what is typical of the column or of the group, or the values around it in time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.casting import literal
from pipelines.errors import InputError, SpecError
from pipelines.fields import (
    NUMBER,
    ORDERED,
    combined,
    countable,
    kind_of,
    numpy_of,
    refuse_private,
    replaced,
    require,
    titled,
)
from pipelines.grouped import GroupedModes, GroupedMoments
from pipelines.ranks import GroupedQuantiles
from pipelines.sketch import Moments, Quantiles, Several, Values, group_labels
from pipelines.split import trained
from pipelines.stage import Exchange, Fit, Map, Rows, Sketch, Stage
from pipelines.timeline import timeline

__all__ = ["Fill", "fill_fitted", "fill_in_time", "fill_value"]

Scalar = str | int | float | bool
_ANY = ("string", "bool", *ORDERED)
_STATISTICS = ("mean", "median", "mode")
_IN_TIME = ("forward", "backward", "interpolate")


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Replaces missing values by a constant, by what is typical, or by the values around them in time.

    with = "mean", "median" or "mode": of the column over all rows; with `by`, of the rows of the same group; a group
    without a value takes that of all rows. In a column of integers mean and median are rounded, half to even. Of
    equally frequent values the mode is the smallest.

    with = "forward" or "backward": the last or the next value of the group `by` in the order of `order_by`, over at
    most `limit` missing values in a row. with = "interpolate": on the line between the two, by the distance in time;
    before the first and after the last value nothing is filled. Without `by` all rows are one group, and meet in one
    task. A row without a group or a time is left as it is.

    fit_on = "train": a statistic comes from the rows that train (the step `split` is before this one). What is fitted by
    group, and a mode, tells values: a private column has to be named in `allow_private`.
    """

    do: ClassVar[str] = "fill"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    columns: tuple[str, ...]
    value: Scalar | None = None
    with_: Literal["mean", "median", "mode", "forward", "backward", "interpolate"] | None = None
    by: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()
    limit: int | None = None
    fit_on: Literal["all", "train"] = "all"
    allow_private: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Stage:
        """A Map with a constant, a Fit with a statistic, an Exchange by the group in time."""
        if (self.value is None) == (self.with_ is None):
            raise SpecError(
                f"fill: give either value = ... or with = one of {', '.join(_STATISTICS + _IN_TIME)}"
            )
        if self.by and self.with_ is None:
            raise SpecError('fill: by needs with = "mean", "median" or "mode", or one in time')
        if self.fit_on == "train" and self.with_ not in _STATISTICS:
            raise SpecError(f'fill: fit_on = "train" is for with = one of {", ".join(_STATISTICS)}')
        if (self.order_by or self.limit is not None) and self.with_ not in _IN_TIME:
            raise SpecError(f"fill: order_by and limit are for with = one of {', '.join(_IN_TIME)}")
        numeric = self.with_ in {"mean", "median", "interpolate"}
        require(schema, self.columns, step=self.do, kinds=NUMBER if numeric else _ANY)
        require(schema, self.by, step=self.do, kinds=_ANY)
        if both := sorted({*self.by, *self.order_by} & set(self.columns)):
            raise SpecError(f"fill: {both[0]!r} cannot be both filled and grouped or ordered by")
        if self.with_ in _IN_TIME:
            return self._in_time(schema)
        if self.with_ is None:
            for name in self.columns:
                literal(self.value, schema.field(name).type, where=f"fill of column {name!r}")
            constant = {"columns": self.columns, "value": self.value}
            return Map(titled(self.do, self.columns), fill_value, constant, self.columns, self.columns)
        if self.by or self.with_ == "mode":
            refuse_private(schema, (*self.by, *self.columns), step=self.do, allowed=self.allow_private)
        sketches: dict[str, Sketch] = {name: _SKETCHES[self.with_](name) for name in self.columns}
        fit: dict[str, Sketch] = {"all": Several(sketches)}
        if self.by:
            fit["groups"] = Several({name: _GROUPED[self.with_](self.by, name) for name in self.columns})
        params = {"columns": self.columns, "with_": self.with_, "by": self.by}
        read = (*self.columns, *self.by)
        made = Fit(titled(self.do, self.columns), Several(fit), fill_fitted, read, params, self.columns)
        return trained(made, schema, step=self.do) if self.fit_on == "train" else made

    def _in_time(self, schema: pa.Schema) -> Exchange:
        require(schema, self.order_by, step=self.do, kinds=ORDERED)
        if not self.order_by:
            raise SpecError(
                f'fill: with = "{self.with_}" needs order_by, the columns that say which row is later: order_by = ["at"]'
            )
        if self.with_ == "interpolate" and (len(self.order_by) > 1 or self.limit is not None):
            raise SpecError('fill: with = "interpolate" takes one column to order by, and no limit')
        if self.limit is not None and self.limit < 1:
            raise SpecError(f"fill: limit = {self.limit}: expected at least 1, or leave it out")
        params = {
            "columns": self.columns,
            "with_": self.with_,
            "by": self.by,
            "order_by": self.order_by,
            "limit": self.limit,
        }
        return Exchange(titled(self.do, self.columns), self.by, fill_in_time, params)


_SKETCHES: dict[str, Callable[[str], Sketch]] = {
    "mean": Moments,
    "median": lambda name: Quantiles(name, (0.5,)),
    "mode": lambda name: Values(name, top=1),
}
_GROUPED: dict[str, Callable[[tuple[str, ...], str], Sketch]] = {
    "mean": GroupedMoments,
    "median": lambda by, name: GroupedQuantiles(by, name, (0.5,)),
    "mode": GroupedModes,
}


def fill_value(table: pa.Table, *, columns: tuple[str, ...], value: Scalar) -> Rows:
    """Missing values replaced by a constant."""
    constants = {name: literal(value, table.schema.field(name).type, where=name) for name in columns}
    return _filled(table, constants)


def fill_fitted(
    table: pa.Table, *, columns: tuple[str, ...], with_: str, by: tuple[str, ...], fitted: Mapping[str, Any]
) -> Rows:
    """Missing values replaced by what is typical of the column, or of the row's group."""
    replacements: dict[str, pa.Array | pa.Scalar] = {}
    labels = group_labels(table, by) if by else None
    for name in columns:
        arrow = table.schema.field(name).type
        if not table[name].null_count:
            replacements[name] = pa.scalar(None, arrow)
            continue
        typical = _typical(with_, name, fitted["all"][name], arrow)
        if not typical.is_valid:
            raise InputError(
                f"fill: column {name!r} has no value at all, so no {with_}; give value = ... instead"
            )
        if labels is not None:
            (of_groups,) = fitted["groups"][name].of_rows(labels)
            typical = pc.coalesce(_typical_of_groups(with_, name, of_groups, arrow), typical)
        replacements[name] = typical
    return _filled(table, replacements)


def fill_in_time(
    table: pa.Table,
    *,
    columns: tuple[str, ...],
    with_: str,
    by: tuple[str, ...],
    order_by: tuple[str, ...],
    limit: int | None,
) -> Rows:
    """Missing values replaced by those around them in the group's time."""
    line = timeline(table, by, order_by)
    replacements: dict[str, pa.Array | pa.Scalar] = {}
    for name in columns:
        values = combined(table[name])
        valid = numpy_of(pc.is_valid(countable(values)))[line.rows]
        before, after = line.before(valid), line.after(valid)
        if with_ == "interpolate":
            moments = _moments(combined(table[order_by[0]]))[line.rows]
            replacements[name] = _between(values, line.rows, before, after, moments)
            continue
        source = before if with_ == "forward" else after
        if limit is not None:
            source = np.where(np.abs(source - np.arange(len(source))) <= limit, source, -1)
        place = np.full(table.num_rows, -1)
        place[line.rows] = np.where(source >= 0, line.rows[source], -1)
        replacements[name] = values.take(pa.array(place, mask=place < 0))
    return _filled(table, replacements)


def _between(
    values: pa.Array, rows: np.ndarray, before: np.ndarray, after: np.ndarray, moments: np.ndarray
) -> pa.Array:
    """For every row the point on the line between the nearest values; missing where one of them is."""
    known = pc.fill_null(values.cast(pa.float64(), safe=False), 0.0)
    there = numpy_of(known)[rows]
    inside = (before >= 0) & (after >= 0)
    low, high = there[before], there[after]
    span = moments[after] - moments[before]
    share = np.divide(moments - moments[before], span, out=np.zeros(len(rows)), where=span != 0)
    points = low + (high - low) * share
    made, mask = np.zeros(len(values)), np.ones(len(values), bool)
    made[rows], mask[rows] = points, ~(inside & np.isfinite(points))
    if kind_of(values.type) == "integer":
        made = np.rint(made)
    return pa.array(made, mask=mask).cast(values.type, safe=False)


def _moments(times: pa.Array) -> np.ndarray:
    """Times as numbers, 0 where there is none. Distances are taken in float64: exact for times below 285 years."""
    if kind_of(times.type) == "timestamp":
        times = times.cast(pa.timestamp("us", times.type.tz), safe=False)
    return numpy_of(
        pc.fill_null(times.view(pa.int64()) if kind_of(times.type) == "timestamp" else times, 0)
    ).astype(np.float64)


def _typical(with_: str, name: str, summary: Mapping[str, Any], arrow: pa.DataType) -> pa.Scalar:
    """The mean, median or mode of a summary, as a value of the column; null if there is none."""
    if with_ == "mode":
        if summary["values"] is None:
            raise InputError(
                f"fill: column {name!r} has too many different values for a mode; give value = ... instead"
            )
        value = summary["values"][0][0] if summary["values"] else None
    else:
        value = summary["mean"] if with_ == "mean" else summary["quantiles"][0][1]
    if value is None:
        return pa.scalar(None, arrow)
    if with_ != "mode" and kind_of(arrow) == "integer":
        value = round(value)
    return literal(value, arrow, where=f"fill of column {name!r}")


def _typical_of_groups(with_: str, name: str, values: pa.Array, arrow: pa.DataType) -> pa.Array:
    """The mean, median or mode of the group of each row, as values of the column."""
    if with_ != "mode" and pa.types.is_decimal(arrow):
        encoded = values.dictionary_encode()
        where = f"fill of column {name!r}"
        found = [literal(one, arrow, where=where).as_py() for one in encoded.dictionary.to_pylist()]
        return pa.array(found, arrow).take(encoded.indices)
    if with_ != "mode" and kind_of(arrow) == "integer":
        values = pc.round(values, round_mode="half_to_even")
    try:
        return values.cast(arrow, safe=with_ == "mode")
    except pa.ArrowInvalid as error:  # fitted on a column of another type
        raise InputError(
            f"fill: column {name!r} is {arrow}, and what was fitted by group does not fit it ({error}); cast it before"
        ) from error


def _filled(table: pa.Table, replacements: Mapping[str, pa.Array | pa.Scalar]) -> Rows:
    notes = {}
    for name, replacement in replacements.items():
        old = combined(table[name])
        new = pc.coalesce(old, replacement)
        notes[f"filled {name}"] = old.null_count - new.null_count
        table = replaced(table, name, new)
    return Rows(table, notes=notes)
