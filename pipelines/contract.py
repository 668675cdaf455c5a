"""Columns that differ: what a file has beyond its declaration, and what a table has now beyond its last version."""

import re
from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from pipelines import warehouse
from pipelines.errors import InputError
from pipelines.schema import Field
from pipelines.sources import InputFile, Source
from pipelines.sources.head import read_head

__all__ = ["changed_columns", "differences", "evolved"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


def evolved(source: Source, files: Iterable[InputFile]) -> Source:
    """The source with the columns that its files have beyond those declared: text, and null in files that lack them.

    Raises: InputError for a column whose name cannot be one of a table.
    """
    if source.contract != "evolve":
        return source
    tolerant = replace(source, contract="quarantine", extra="ignore")
    known = {*source.names.values(), *source.ignore}
    found: dict[str, Field] = {}
    for file in files:
        head = read_head(tolerant, file.path)
        for name in () if head is None else head.names:
            if name in known:
                continue
            if not _NAME.fullmatch(name) or name.lower() in {
                one.lower() for one in [*source.columns, *found]
            }:
                raise InputError(
                    f"{file.path}: the new column {name!r} cannot be added to a table under this name; declare it with "
                    'name = "...", or leave it out by ignore = [...]'
                )
            known.add(name)
            found[name] = Field(type="string")
    return replace(source, columns={**source.columns, **found}, optional=(*source.optional, *found))


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
