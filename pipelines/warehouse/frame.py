"""A version of a table as a Dask DataFrame; for analysis, not for training (2 to 2.7 times slower than row groups)."""

from collections.abc import Sequence
from typing import Any

from pipelines.warehouse.reading import Unit, read_unit, units
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["dask_frame"]


def dask_frame(
    snapshot: Snapshot,
    columns: Sequence[str] | None = None,
    *,
    where: str | None = None,
    verify: bool = False,
) -> Any:
    """A dask.dataframe with a partition per unit of `reading.units`; workers read plain Parquet files.

    Raises: as `reading.read`, when it is computed.
    """
    import dask.dataframe as dd  # noqa: PLC0415 - needs pandas, which the rest does not

    names = snapshot.schema.names if columns is None else list(columns)
    empty = snapshot.schema.empty_table().select(names).to_pandas()
    found = units(snapshot, where=where)
    if not found:
        return dd.from_pandas(empty, npartitions=1)
    return dd.from_map(
        _partition, found, schema=snapshot.schema, names=names, where=where, verify=verify, meta=empty
    )


def _partition(unit: Unit, *, schema: Any, names: Sequence[str], where: str | None, verify: bool) -> Any:
    return read_unit(unit, schema, names, where=where, verify=verify).to_pandas()
