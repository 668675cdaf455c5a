"""How a source with contract = "evolve" grows: columns that its files have beyond those declared, and wider types.

    a file has                       the source gets
    a column that is not declared    it, nullable: of the type that the file says, as text where files say none
    a wider type                     that type: int8 < int16 < int32 < int64, float32 < float64, int8 to int32 < float64
    a narrower type                  nothing: it is read as the wider one
    a type that is neither           nothing: reading stops with the difference of both schemas

A wider type holds every value of the other exactly; that is the one rule. A type never becomes narrower.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from pipelines import cache as caches
from pipelines import fingerprint, sources
from pipelines.errors import InputError
from pipelines.schema import Field
from pipelines.schema import field as field_of
from pipelines.sources import InputFile, Source
from pipelines.sources.inputs import Offered

__all__ = ["added", "came", "grown", "grown_by_files", "recorded", "widened"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_WHOLE = ("int8", "int16", "int32", "int64")
_DEFAULTS = {one.name: one.default for one in fields(Field)}


def grown_by_files(
    source: Source, known: Mapping[str, Mapping[str, Any]], files: Iterable[InputFile], cache: Path
) -> Source:
    """As `grown`, by looking into the files; what was found in one is kept in `cache`, by its content.

    Raises: InputError if a file cannot be read, or has a column that cannot be one of a table.
    """
    form = fingerprint.digest({**fingerprint.plain(source), "path": "", "url": None, "columns": None})
    seen = caches.load(cache)
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        place = f"{form}:{file.sha256}"
        if place not in seen:
            offered = sources.columns(source, file)
            seen[place] = {
                name: one if isinstance(one, str) else _settings(one) for name, one in offered.items()
            }
        found[file.path] = seen[place]
    if found:
        caches.store(cache, seen)
    looked = (
        (path, {name: one if isinstance(one, str) else field_of(one) for name, one in offered.items()})
        for path, offered in found.items()
    )
    return grown(source, known, looked)


def grown(
    source: Source, known: Mapping[str, Mapping[str, Any]], files: Iterable[tuple[str, Offered]]
) -> Source:
    """The source with what is `known` to have come before, and with what these files have: (path, columns).

    Raises: InputError for a column that cannot be one of a table.
    """
    columns = dict(source.columns)
    for column, settings in known.items():
        new = field_of(settings)
        if (new.name or column) in source.ignore:
            continue
        old = columns.get(column)
        columns[column] = new if old is None else replace(old, type=_wider(old.type, new.type) or old.type)
    by_name = {name: column for column, name in _paths(source, columns).items()}
    for path, offered in files:
        for name, found in offered.items():
            if name in source.ignore:
                continue
            column = by_name.get(name) or _new_column(source, path, name, found, columns)
            by_name[name] = column
            if not isinstance(found, str):
                _take(columns, column, name, found)
    more = tuple(column for column in columns if column not in source.columns)
    nested = {column: columns[column].name or column for column in more} if source.kind == "jsonl" else {}
    nested = {column: path for column, path in nested.items() if "." in path}
    return replace(
        source,
        path="" if source.kind == "sql" else source.path,  # of a URL it follows
        columns={name: replace(one, name=None) if name in nested else one for name, one in columns.items()},
        flatten={**source.flatten, **nested},
        optional=source.optional if source.kind == "jsonl" else (*source.optional, *more),
        evolved=more,
    )


def recorded(declared: Mapping[str, Field], now: Source) -> dict[str, dict[str, Any]]:
    """What came beyond the declared columns, to be known by the next load."""
    found = {}
    for column, one in now.columns.items():
        old = declared.get(column)
        if old is not None and old.type == one.type:
            continue
        settings = _settings(one)
        settings.pop("on_error", None)  # the contract says it
        if old is None and column in now.flatten:
            settings["name"] = now.flatten[column]
        found[column] = {"type": one.type} | (settings if old is None else {})
    return found


def came(now: Source) -> dict[str, dict[str, Any]]:
    """The same of the columns that came, for a table whose columns keep their types."""
    return recorded({column: one for column, one in now.columns.items() if column not in now.evolved}, now)


def widened(declared: Source, before: Mapping[str, Mapping[str, Any]], now: Source) -> list[str]:
    """Columns whose type is wider than what was loaded before, as lines of a difference."""
    found = []
    for column, one in now.columns.items():
        old = before.get(column) or (
            {"type": declared.columns[column].type} if column in declared.columns else None
        )
        if old is not None and old["type"] != one.type:
            found += [f"- {column} {old['type']}", f"+ {column} {one.type}"]
    return found


def added(before: Mapping[str, Mapping[str, Any]], now: Source) -> list[str]:
    """Columns that are new since the last load, as lines of a difference."""
    return [f"+ {column} {now.columns[column].title}" for column in now.evolved if column not in before]


def _paths(source: Source, columns: Mapping[str, Field]) -> dict[str, str]:
    """Column -> its name in the files, of nested keys with those that lead to it."""
    return {column: source.flatten.get(column, one.name or column) for column, one in columns.items()}


def _new_column(
    source: Source, path: str, name: str, found: Field | str, columns: Mapping[str, Field]
) -> str:
    column = name.replace(".", "_") if source.kind == "jsonl" and _is_nested(source, name) else name
    if isinstance(found, str):
        raise InputError(
            f"{path}: the new column {name!r} {found}, which no column of a table can be; leave it out by ignore = [...]"
        )
    if not _NAME.fullmatch(column) or "__" in column or column.lower() in {one.lower() for one in columns}:
        raise InputError(
            f"{path}: the new column {name!r} cannot be added to a table under this name; declare it with "
            'name = "...", or leave it out by ignore = [...]'
        )
    return column


def _is_nested(source: Source, name: str) -> bool:
    """Whether it is a key inside an object that other columns are read from."""
    return any(path.startswith(name.rpartition(".")[0] + ".") for path in source.flatten.values())


def _take(columns: dict[str, Field], column: str, name: str, found: Field) -> None:
    old = columns.get(column)
    if old is None:
        columns[column] = found if name == column else replace(found, name=name)
        return
    wide = None if old.format is not None else _wider(old.type, found.type)
    if wide is not None and wide != old.type:
        columns[column] = replace(old, type=wide)


def _wider(one: str, other: str) -> Any:
    """The narrower of the types that hold all values of both; None if neither does.

    >>> _wider("int8", "int32"), _wider("int32", "float32"), _wider("int64", "float64")
    ('int32', 'float64', None)
    """
    if one == other:
        return one
    whole, real = [{one, other} & set(kinds) for kinds in (_WHOLE, ("float32", "float64"))]
    if len(whole) == 2:
        return max(whole, key=_WHOLE.index)
    if len(real) == 2 or (len(real) == 1 and whole and "int64" not in whole):
        return "float64"
    return None


def _settings(one: Field) -> dict[str, Any]:
    return {key: value for key, value in asdict(one).items() if value != _DEFAULTS[key]}
