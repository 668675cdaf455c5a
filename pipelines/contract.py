"""Columns that differ: what a table has now beyond its last version."""

import pyarrow as pa

from pipelines import warehouse

__all__ = ["changed_columns", "differences"]


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
    found = differences(before, now)
    return (f"columns: {', '.join(found)}",) if found else ()


def differences(before: pa.Schema, now: pa.Schema) -> list[str]:
    """One line for each column that came (+), went (-) or is another (~).

    >>> differences(pa.schema([("a", pa.int64()), ("b", pa.string())]), pa.schema([("b", pa.int64()), ("c", pa.bool_())]))
    ['- a int64', '~ b string -> int64', '+ c bool']
    """
    found = [f"- {one.name} {one.type}" for one in before if one.name not in now.names]
    for one in now:
        if one.name not in before.names:
            found.append(f"+ {one.name} {one.type}")
            continue
        old = before.field(one.name)
        if old.type != one.type:
            found.append(f"~ {one.name} {old.type} -> {one.type}")
        if old.nullable != one.nullable:
            found.append(f"~ {one.name} {'nullable -> NOT NULL' if old.nullable else 'NOT NULL -> nullable'}")
        said = {key: (old.metadata or {}).get(key) for key in (b"unit", b"privacy")}
        says = {key: (one.metadata or {}).get(key) for key in (b"unit", b"privacy")}
        found += [
            f"~ {one.name} {key.decode()} {_word(said[key])} -> {_word(says[key])}"
            for key in said
            if said[key] != says[key]
        ]
    return found


def _word(value: bytes | None) -> str:
    return "none" if value is None else value.decode()
