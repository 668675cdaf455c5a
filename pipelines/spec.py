"""The pipeline file (TOML) as validated values; everything that is wrong is said at once, with line and "did you mean".

    [storage]        how object stores are reached
    [sources.NAME]   where rows come from, with the declared columns
    [tables.NAME]    a source or another table, and the steps that make a new one of it
    [models.NAME]    read by flows.project: pipelines knows no models
    [env.NAME]       read by flows.environment: what is different where the file runs

Strings in [sources] and `warehouse` may hold {name} from [params] and ${NAME} or ${NAME:-default} from the environment.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines import merges, quality, references
from pipelines.access import mount
from pipelines.document import Document, dotted, read
from pipelines.errors import SpecError
from pipelines.names import did_you_mean
from pipelines.places import Place, root_of
from pipelines.schema import field as declared
from pipelines.sources import Source
from pipelines.stage import tables_of
from pipelines.steps import STEPS, implied_checks, step_of
from pipelines.stores import Storage
from pipelines.union import Union

__all__ = ["STEPS", "Pipeline", "Table", "build", "load"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
SECTIONS = ("name", "warehouse", "params", "storage", "sources", "tables", "models", "env")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the warehouse: from where, by which steps, with which checks."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    source: str | tuple[str, ...] | None = None
    table: str | tuple[str, ...] | None = None
    steps: tuple[Any, ...] = ()  # Step: checked one by one, by its own class
    checks: tuple[Any, ...] = ()  # quality.Check
    partition_by: tuple[str, ...] = ()
    union: Union | None = None  # how the columns of several inputs become one table's
    load: Literal["replace", "append", "upsert"] = "replace"  # append: files that are not in the table yet
    key: tuple[str, ...] = ()  # of an upsert or append: what tells one row from another
    on_duplicate: Literal["error", "ignore", "quarantine"] | None = (
        None  # append with a key: a row whose key is there
    )
    history: Literal["scd2"] | None = None  # of an upsert: keep what was true when
    valid_from: str | None = None  # of a history: the time from which a row holds
    deleted: str | None = None  # of a history: whether the key ends then
    fitted_from: str | None = None  # table whose fitted values are used, instead of new ones
    reject_limit: float | None = None  # below 1: share of the rows read; from 1: rows

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the sources or tables that the rows come from."""
        names = self.source if self.source is not None else self.table
        return (names,) if isinstance(names, str) else tuple(names or ())

    @property
    def joined(self) -> tuple[str, ...]:
        """Tables that are the other sides of joins."""
        return tuple(dict.fromkeys(name for step in self.steps for name in tables_of(step)))

    @property
    def beside(self) -> tuple[str, ...]:
        """Tables that are looked at beside the inputs: of joins, what checks compare with, what was fitted before."""
        known = () if self.fitted_from is None else (self.fitted_from,)
        needed = (name for check in self.checks for name in check.needs)
        return tuple(dict.fromkeys([*self.joined, *needed, *known]))

    @property
    def tables(self) -> tuple[str, ...]:
        """Tables that must be there before this one."""
        return tuple(dict.fromkeys([*(self.inputs if self.source is None else ()), *self.beside]))


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A pipeline file, checked. `models` is checked by whoever trains them."""

    name: str
    file: Path
    warehouse: Place
    storage: Storage  # how it is reached, if it is in an object store
    params: Mapping[str, str]
    sources: Mapping[str, Source]
    tables: Mapping[str, Table]  # in an order in which they can be built
    models: Mapping[str, Mapping[str, Any]]


def load(file: Path | str, settings: Mapping[str, str] | None = None) -> Pipeline:
    """The checked pipeline of a file; `settings` override its [params].

    Raises: SpecError with every problem that can be known without reading data.
    """
    document = read(file)
    pipeline = build(document, settings or {})
    document.raise_problems()
    return pipeline


def build(document: Document, settings: Mapping[str, str]) -> Pipeline:
    """The pipeline of a document; problems are noted in it."""
    values, folder = document.values, document.file.resolve().parent
    for key in values:
        if key not in SECTIONS:
            document.problem((key,), f"unknown section {key!r}{did_you_mean(key, SECTIONS)}")
    for section in ("params", "storage", "sources", "tables", "models"):
        if not isinstance(values.setdefault(section, {}), dict):
            document.problem((section,), f"{section} must be a table: [{section}.NAME]")
            values[section] = {}
    params = references.params(document, settings)
    name = values.get("name", document.file.resolve().parent.name)
    if not isinstance(name, str) or not NAME.fullmatch(name.replace("-", "_")):
        document.problem(
            ("name",), f"name = {name!r}: expected letters, digits, '-' and '_', not beginning with a digit"
        )
    storage = references.storage(document, params)
    sources = _sources(document, params, folder, storage)
    tables = _tables(document, sources)
    warehouse = references.text(document, ("warehouse",), values.get("warehouse", "warehouse"), params)
    return Pipeline(
        name=str(name),
        file=document.file.resolve(),
        warehouse=_warehouse(document, folder, warehouse, storage),
        storage=storage,
        params=params,
        sources=sources,
        tables=_ordered(document, tables),
        models=values["models"],
    )


def _warehouse(document: Document, folder: Path, given: str, storage: Storage) -> Place:
    """Where the tables are; from here on they are reached by the same settings as the objects of sources."""
    try:
        root = root_of(given, folder)
    except SpecError as error:
        for problem in error.problems:
            document.problem(("warehouse",), f"warehouse: {problem}")
        return folder
    if not isinstance(root, Path):
        mount(str(root), storage)
    return root


def _sources(
    document: Document, params: Mapping[str, str], folder: Path, storage: Storage
) -> dict[str, Source]:
    sources = {}
    for name, given in document.values["sources"].items():
        path = ("sources", name)
        _check_name(document, path, name)
        if not isinstance(given, dict):
            document.problem(path, f"{dotted(path)} must be a table")
            continue
        value = dict(given)
        for key in ("path", "labels"):
            if isinstance(value.get(key), str):
                place = references.text(document, (*path, key), value[key], params)
                value[key] = place if "://" in place else str(folder / place)
        if "storage" in value:
            document.problem(
                (*path, "storage"), f"{dotted(path)}: storage is a section of its own, [storage]"
            )
            continue
        if "evolved" in value:
            document.problem(
                (*path, "evolved"), f"unknown key 'evolved' in {dotted(path)}; declare the columns"
            )
            continue
        if str(value.get("path")).startswith("s3://"):
            value["storage"] = storage
        if isinstance(value.get("url"), str):
            value["url"] = references.url(document, (*path, "url"), value["url"], params, folder)
        if isinstance(value.get("columns"), dict):
            value["columns"] = _columns(document, path, value["columns"])
        source = document.checked(Source, value, path)
        if source is not None:
            sources[name] = source
    return sources


def _columns(document: Document, path: tuple[str, ...], columns: dict[str, Any]) -> dict[str, Any]:
    fields = {}
    for name, value in columns.items():
        place = (*path, "columns", name)
        _check_name(document, place, name)
        try:
            fields[name] = declared(value)
        except SpecError as error:
            document.problem(place, f"{dotted(place)}: {error}")
    return fields


def _tables(document: Document, sources: Mapping[str, Source]) -> dict[str, Table]:
    tables = {}
    names = list(document.values["tables"])
    for name, given in document.values["tables"].items():
        path = ("tables", name)
        _check_name(document, path, name)
        if not isinstance(given, dict):
            document.problem(path, f"{dotted(path)} must be a table")
            continue
        value = dict(given)
        steps = [
            step_of(document, (*path, "steps", number), step)
            for number, step in enumerate(value.pop("steps", []))
        ]
        checks = [
            document.checked(quality.Check, check, (*path, "checks", number))
            for number, check in enumerate(value.pop("checks", []))
        ]
        table = document.checked(Table, value, path)
        if table is None:
            continue
        if (table.source is None) == (table.table is None):
            document.problem(
                path, f'{dotted(path)}: needs either source = "..." or table = "...", and not both'
            )
            continue
        if table.load == "append" and table.source is None:
            document.problem(
                (*path, "load"), f'{dotted(path)}: load = "append" is for a table that reads a source'
            )
            continue
        for setting, problem in merges.problems(table):
            document.problem((*path, setting), f"{dotted(path)}: {problem}")
        known: Sequence[str] = names if table.source is None else list(document.values["sources"])
        for other in table.inputs:
            if other not in known:
                kind = "table" if table.source is None else "source"
                document.problem(
                    (*path, kind),
                    f"{dotted(path)}: there is no {kind} {other!r}{did_you_mean(other, known)}",
                )
        kept = tuple(step for step in steps if step is not None)
        for number, step in enumerate(steps):
            for other in tables_of(step):
                if other not in names:
                    place = (*path, "steps", number)
                    document.problem(
                        place, f"{dotted(place)}: there is no table {other!r}{did_you_mean(other, names)}"
                    )
        for number, check in enumerate(checks):
            for other in check.needs if check is not None else ():
                if other not in names:
                    place = (*path, "checks", number)
                    document.problem(
                        place, f"{dotted(place)}: there is no table {other!r}{did_you_mean(other, names)}"
                    )
        if table.fitted_from is not None and table.fitted_from not in names:
            other = table.fitted_from
            document.problem(
                (*path, "fitted_from"),
                f"{dotted(path)}: there is no table {other!r}{did_you_mean(other, names)}",
            )
        sound = tuple(check for check in checks if check is not None)
        tables[name] = replace(table, steps=kept, checks=(*sound, *implied_checks(kept, sound)))
    _check_policies(document, sources, tables)
    return tables


def _check_policies(document: Document, sources: Mapping[str, Source], tables: Mapping[str, Table]) -> None:
    """Note settings of sources that only a table which is loaded file by file would read."""
    read = {name for table in tables.values() if table.load == "append" for name in table.inputs}
    for name, source in sources.items():
        without = [
            key
            for key, default in (("on_change", "error"), ("cursor", None))
            if getattr(source, key) != default
        ]
        for key in without if name not in read else ():
            place = ("sources", name, key)
            document.problem(
                place, f'{dotted(place)} has no effect: no table with load = "append" reads {name!r}'
            )


def _ordered(document: Document, tables: Mapping[str, Table]) -> dict[str, Table]:
    ordered: dict[str, Table] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            document.problem(
                ("tables", name),
                f"tables.{name}: depends on itself: {' -> '.join([*above[above.index(name) :], name])}",
            )
            return
        if name in ordered or name not in tables:
            return
        for other in tables[name].tables:
            visit(other, (*above, name))
        ordered[name] = tables[name]

    for name in tables:
        visit(name, ())
    return ordered


def _check_name(document: Document, path: Sequence[str | int], name: str) -> None:
    if not NAME.fullmatch(name) or name.startswith("_") or "__" in name:
        document.problem(
            path,
            f"{name!r} is not a name: expected a letter, then up to 62 letters, digits or '_'; a leading '_' and '__' are reserved",
        )
