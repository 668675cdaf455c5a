"""Columns that differ: what a table has now beyond its last version."""

import pyarrow as pa

from pipelines import difference, warehouse

__all__ = ["changed_columns"]


def changed_columns(uri: str, now: pa.Schema) -> tuple[str, ...]:
    """How the columns of a table will differ from those that it has, as a reason for people; nothing if they do not."""
    if not warehouse.log.exists(uri):
        return ()
    before = warehouse.Snapshot.open(uri).schema
    for number, one in enumerate(now):  # how long a vector of features is, is known once they are fitted
        place = before.get_field_index(one.name)
        if (
            place >= 0
            and pa.types.is_binary(one.type)
            and pa.types.is_fixed_size_binary(before.field(place).type)
        ):
            now = now.set(number, before.field(place))
    lines = difference.described(before, now)
    return (difference.told("columns", lines),) if lines else ()
