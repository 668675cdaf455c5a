"""Rows of one key: which belong together, and what decides which of them is the best.

rows --> number of their key --> criteria, strongest first (trust, votes, time, origin) --> best row of each key
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import ORDERED, combined, finite, kind_of, numpy_of
from pipelines.stage import data_columns

__all__ = [
    "COMPARED",
    "Criterion",
    "best_of",
    "codes_of",
    "criteria",
    "decided",
    "groups_of",
    "ordered",
    "require_order",
]

COMPARED = ("string", "bool", *ORDERED)
"""The kinds of columns whose values can be told apart and ordered."""


@dataclass(frozen=True)
class Criterion:
    """What may decide between two rows: a value of each row, and whether the greater wins; one with none loses."""

    name: str  # trust, majority, most complete, latest, earliest, first, last
    values: pa.Array
    greatest: bool = False


def criteria(
    table: pa.Table, keep: str, order_by: Sequence[str], above: Sequence[Criterion] = ()
) -> list[Criterion]:
    """What decides under `keep`, the strongest first; the last one, the place of the row, tells any two apart."""
    found = list(above)
    if keep == "best":
        valid = [numpy_of(pc.is_valid(combined(table[name]))) for name in data_columns(table.schema)]
        found.append(Criterion("most complete", pa.array(np.sum(valid, axis=0)), greatest=True))
    if keep not in {"first", "last", "quarantine"}:
        time = "earliest" if keep == "earliest" else "latest"
        found += [Criterion(time, combined(table[name]), time == "latest") for name in order_by]
    last = keep in {"last", "latest"}
    return [*found, Criterion("last" if last else "first", pa.array(np.arange(table.num_rows)), last)]


def ordered(found: Sequence[Criterion]) -> np.ndarray:
    """All rows, the best first."""
    if len(found) == 1:
        rows = np.arange(len(found[0].values))
        return rows[::-1] if found[0].greatest else rows
    keys = pa.table({str(place): one.values for place, one in enumerate(found)})
    by = [(str(place), "descending" if one.greatest else "ascending") for place, one in enumerate(found)]
    return numpy_of(pc.sort_indices(keys, sort_keys=by)).astype(np.int64)  # nulls at the end, either way


def decided(found: Sequence[Criterion], losers: np.ndarray, winners: np.ndarray) -> np.ndarray:
    """For each pair of rows the number of the criterion that decided between them."""
    answer = np.full(len(losers), -1)
    for place, one in enumerate(found):
        left, right = np.split(codes_of(one.values.take(pa.array(np.concatenate([losers, winners])))), 2)
        answer[(answer < 0) & (left != right)] = place
    return answer


def best_of(groups: np.ndarray, order: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """For every row the first row of its key in `order`; where `order` has none of the key, `otherwise`."""
    best = np.full(int(groups.max(initial=-1)) + 1, -1)
    best[groups[order[::-1]]] = order[::-1]  # of several values for one place NumPy keeps the last
    return np.where(best[groups] >= 0, best[groups], otherwise)


def groups_of(table: pa.Table, by: Sequence[str], *, null_is_value: bool) -> np.ndarray:
    """Number of the key of every row. Shapes: (rows,), int64. Unless missing is a value, a row with one is alone."""
    groups = np.zeros(table.num_rows, np.int64)
    alone = np.zeros(table.num_rows, bool)
    for name in by:
        values = combined(table[name])
        codes = codes_of(values)
        both = groups * (int(codes.max(initial=0)) + 1) + codes
        groups = np.unique(both, return_inverse=True)[1] if groups.any() else codes
        alone |= ~numpy_of(pc.is_valid(values))
    if not null_is_value:
        groups[alone] = table.num_rows + np.flatnonzero(alone)
    return groups


def codes_of(values: pa.Array) -> np.ndarray:
    """Equal numbers for equal values, and one for missing ones."""
    if kind_of(values.type) == "float":
        values = pc.add(finite(values), pa.scalar(0.0, values.type))  # -0.0 becomes 0.0
    encoded = values.dictionary_encode()
    return numpy_of(pc.fill_null(encoded.indices, len(encoded.dictionary))).astype(np.int64)


def require_order(step: str, key: str, value: str, order_by: Sequence[str]) -> None:
    """Refuse a choice by time without a time, and a time that nothing asks for.

    Raises: SpecError.
    """
    if value in {"latest", "earliest"} and not order_by:
        raise SpecError(
            f'{step}: {key} = {value!r} needs order_by, the columns that say which row is later: order_by = ["updated"]'
        )
    if value in {"first", "last", "quarantine"} and order_by:
        raise SpecError(
            f'{step}: order_by has no meaning with {key} = {value!r}; use {key} = "latest", or leave it out'
        )
