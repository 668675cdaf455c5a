"""Rows that speak of the same thing: one of each key is kept, its copies are removed and counted.

The step runs after an Exchange: all rows of a key are in one part, in the order of their origin, beside the rows of
other keys, which change nothing. A row with a missing value in its key is never taken for a copy of another.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.fields import numpy_of, require, titled
from pipelines.groups import COMPARED, best_of, criteria, groups_of, ordered, require_order
from pipelines.hashing import row_hash
from pipelines.stage import Exchange, Rows, data_columns

__all__ = ["Deduplicate", "deduplicate"]


@dataclass(frozen=True, kw_only=True)
class Deduplicate:
    """Keeps one row of each key `by`; without `by`, one of rows that are equal in all columns (missing equals missing).

    keep = "first" and "last" go by origin, "latest" and "earliest" by the columns `order_by`, "best" takes the row
    with the fewest missing values, then the latest. Without a value to order by a row wins over none; of rows that are
    equal up to here "last" and "latest" take the last by origin, the others the first.
    """

    do: ClassVar[str] = "deduplicate"
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    by: tuple[str, ...] = ()
    keep: Literal["first", "last", "latest", "earliest", "best"] = "first"
    order_by: tuple[str, ...] = ()

    def build(self, schema: pa.Schema) -> pa.Schema:
        """The same columns."""
        self.stage(schema)
        return schema

    def stage(self, schema: pa.Schema) -> Exchange:
        """An Exchange by the key: of the keys alone, unless the other columns decide too."""
        by = self.by or tuple(data_columns(schema))
        require(schema, by, step=self.do, kinds=COMPARED)
        require(schema, self.order_by, step=self.do, kinds=COMPARED)
        require_order(self.do, "keep", self.keep, self.order_by)
        params = {"by": by, "whole": not self.by, "keep": self.keep, "order_by": self.order_by}
        looks = tuple(dict.fromkeys((*self.by, *self.order_by))) if self.by and self.keep != "best" else None
        name = titled(self.do, self.by or ("all columns",))
        return Exchange(name, by, deduplicate, params, alone=bool(self.by), looks=looks)


def deduplicate(
    table: pa.Table, *, by: tuple[str, ...], whole: bool, keep: str, order_by: tuple[str, ...]
) -> Rows:
    """One row of each key, in the order of their origin."""
    rows = _repeated(table, by)  # all others stay
    some = table.take(pa.array(rows))
    groups = groups_of(some, by, null_is_value=whole)
    order = ordered(criteria(some, keep, order_by))
    here = np.arange(len(rows))
    lost = rows[best_of(groups, order, here) != here]
    if not len(lost):
        return Rows(table)
    stays = np.ones(table.num_rows, bool)
    stays[lost] = False
    return Rows(table.filter(pa.array(stays)), deduplicated=len(lost))


def _repeated(table: pa.Table, by: tuple[str, ...]) -> np.ndarray:
    """Rows whose key, by its hash, is there more than once."""
    hashes = row_hash(table, by)
    ascending = np.sort(hashes)
    twice = ascending[1:][ascending[1:] == ascending[:-1]]
    return (
        np.flatnonzero(numpy_of(pc.is_in(pa.array(hashes), value_set=pa.array(twice))))
        if len(twice)
        else twice.astype(np.int64)
    )
