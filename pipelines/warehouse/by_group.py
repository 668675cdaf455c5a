"""Values by group: what was fitted of each of many groups, as an Arrow table, here or in a file beside the table.

A task is sent the path alone, and a worker reads the file once: 100,000 groups are a megabyte or two for each worker,
not for each part.

    group    value_0    value_1          group: the label, ascending, each once; null: there is no value
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.fields import combined
from pipelines.warehouse import sealed

__all__ = ["ByGroup", "read_groups"]

GROUP = "group"


@dataclass(frozen=True)
class ByGroup:
    """The labels of the groups and their values; either `held` or in the Parquet file at `path`."""

    held: pa.Table | None = None
    path: str = ""

    @classmethod
    def of(
        cls, labels: pa.Array | Sequence[str], *values: pa.Array | np.ndarray | Sequence[float | None]
    ) -> "ByGroup":
        """Held here; numbers are float64."""
        columns = [
            one if isinstance(one, pa.Array) else pa.array(one, pa.float64(), from_pandas=True)
            for one in values
        ]
        names = [GROUP, *(f"value_{number}" for number in range(len(columns)))]
        return cls(pa.table([pa.array(labels, pa.string()), *columns], names=names))

    @property
    def table(self) -> pa.Table:
        """All of it."""
        return read_groups(self.path) if self.held is None else self.held

    def __len__(self) -> int:
        return self.table.num_rows

    def of_rows(self, labels: pa.Array) -> list[pa.Array]:
        """The values of the group of each row; null where it has none, is not known, or the row is of no group."""
        found, *values = (combined(column) for column in self.table.columns)
        place = pc.index_in(labels, value_set=found, skip_nulls=True)
        return [one.take(place) for one in values]


@functools.lru_cache(maxsize=16)
def read_groups(path: str) -> pa.Table:
    """The table of a file, read once by each process: nobody changes it.

    Raises: PartFailed if it is gone or damaged.
    """
    content = sealed.read(path, "what was fitted by group", "build the table again")
    return pq.read_table(pa.BufferReader(content), memory_map=False)
