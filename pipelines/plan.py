"""What will run and why: the checked tables of a pipeline file beside what the warehouse already holds.

A table is built again when its fingerprint differs from that of its current content. The fingerprint covers the code
of the steps, their settings, the library that does the work, and the content of the inputs (of files by digest, of
tables by their own fingerprint): so a plan knows before anything runs what follows from what.
"""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import quality, sources
from pipelines.document import Document
from pipelines.errors import SpecError
from pipelines.integrate import Join
from pipelines.names import did_you_mean
from pipelines.spec import Pipeline, Table
from pipelines.stage import ORIGIN, Step, data_columns
from pipelines.storage import TableRef

__all__ = ["Checked", "Input", "Plan", "TablePlan", "check", "make", "table_uri"]

NOT_ROWS = {
    "engine",
    "errors",
    "failpoints",
    "inspection",
    "ledger",
    "names",
    "plan",
    "profile",
    "publish",
    "quality",
    "spec",
    "storage",
    "toml_lines",
}
"""Modules of this package that decide nothing about what a row becomes."""


@dataclass(frozen=True)
class Input:
    """One input of a table: a source with its files, or a table."""

    name: str
    kind: str  # "source" | "table"
    files: tuple[sources.InputFile, ...] = ()
    source: sources.Source | None = None


@dataclass(frozen=True)
class Checked:
    """What is known of a table without reading data: its columns, and how each step moves rows."""

    schema: pa.Schema
    moves: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TablePlan:
    """One table: what goes in, what identifies the result, and whether it has to be built."""

    name: str
    spec: Table
    uri: str
    inputs: tuple[Input, ...]
    schema: pa.Schema
    moves: tuple[tuple[str, str], ...]  # (step, how its rows move: map, fit or exchange)
    parts: Mapping[str, Any]  # of the fingerprint, by name: what changed can be told
    fingerprint: str
    current: bool
    why: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """All tables of a pipeline, in the order in which they are built."""

    pipeline: Pipeline
    tables: Mapping[str, TablePlan]

    @property
    def nothing_to_do(self) -> bool:
        """Whether every table holds what it should."""
        return all(table.current for table in self.tables.values())

    def text(self) -> str:
        """The plan as people read it."""
        lines = []
        for table in self.tables.values():
            mark = "keep " if table.current else "build"
            lines.append(f"{mark}  {table.name}  <- {', '.join(_described(one) for one in table.inputs)}")
            lines.extend(f"         why: {reason}" for reason in table.why)
            for number, group in enumerate(_passes(table)):
                lines.append(f"         pass {number + 1}: {group}")
        return "\n".join(lines)


def table_uri(pipeline: Pipeline, name: str) -> str:
    """Folder of a table."""
    return str(pipeline.warehouse / name)


def check(document: Document, pipeline: Pipeline) -> dict[str, Checked]:
    """Every table after its steps; what does not fit is noted in the document."""
    schemas: dict[str, pa.Schema] = {}
    checked: dict[str, Checked] = {}
    for name, table in pipeline.tables.items():
        schema = _input_schema(document, pipeline, schemas, name, table)
        if schema is None:
            continue
        moves = []
        try:
            for number, step in enumerate(table.steps):
                place: tuple[str | int, ...] = ("tables", name, "steps", number)
                bound = _bound(step, schemas)
                stage = bound.stage(schema)
                moves.append((stage.name, type(stage).__name__.lower()))
                schema = bound.build(schema)
            for number, one in enumerate(table.checks):
                place = ("tables", name, "checks", number)
                one.build(schema)
            quality.row_checks(table.checks)  # names that are there twice
        except SpecError as error:
            for text in error.problems:
                document.problem(place, f"tables.{name}.{place[2]}[{place[3]}]: {text}")
            continue
        for column in table.partition_by:
            if column not in data_columns(schema):
                known = data_columns(schema)
                document.problem(
                    ("tables", name, "partition_by"),
                    f"tables.{name}: no column {column!r} to partition by{did_you_mean(column, known)}",
                )
        schemas[name] = pa.schema([schema.field(column) for column in data_columns(schema)])
        checked[name] = Checked(schemas[name], tuple(moves))
    return checked


def _input_schema(
    document: Document, pipeline: Pipeline, schemas: Mapping[str, pa.Schema], name: str, table: Table
) -> pa.Schema | None:
    found = []
    for other in table.inputs:
        if table.source is not None and other in pipeline.sources:
            found.append(pipeline.sources[other].schema.with_origin())
        elif table.source is None and other in schemas:
            schema = schemas[other]
            for field in ORIGIN:
                schema = schema.append(field)
            found.append(schema)
    if len(found) < len(table.inputs) or not found:
        return None
    for other, schema in zip(table.inputs[1:], found[1:], strict=True):
        if not schema.equals(found[0]):
            different = sorted(
                {f"{field.name} {field.type}" for field in schema}
                ^ {f"{field.name} {field.type}" for field in found[0]}
            )
            document.problem(
                ("tables", name),
                f"tables.{name}: {table.inputs[0]!r} and {other!r} do not have the same columns: {', '.join(different)}",
            )
            return None
    if any(step.with_ not in schemas for step in table.steps if isinstance(step, Join)):
        return None
    return found[0]


def _bound(step: Any, schemas: Mapping[str, pa.Schema]) -> Step:
    if isinstance(step, Join):
        return step.beside(TableRef(step.with_, "", -1, (), tuple(schemas[step.with_])))
    return step


def make(
    pipeline: Pipeline,
    checked: Mapping[str, Checked],
    *,
    state: Callable[[str, str], tuple[bool, Mapping[str, Any] | None]],
    digests: Path,
) -> Plan:
    """The plan; `state(uri, fingerprint)` says whether a table's content has it, and the parts of what it has.

    Raises: InputError if a source has no files.
    """
    files = {name: tuple(sources.files(source, cache=digests)) for name, source in _used(pipeline).items()}
    tables: dict[str, TablePlan] = {}
    for name, table in pipeline.tables.items():
        inputs = []
        parts: dict[str, Any] = {
            "code": _code(),
            "settings": _digest(_plain(table)),
            "pyarrow": pa.__version__.partition(".")[0],
        }
        for other in table.inputs:
            if table.source is not None:
                source = pipeline.sources[other]
                parts[f"declaration of {other}"] = _digest({**_plain(source), "path": ""})
                parts[f"source {other}"] = _relative(files[other])
                inputs.append(Input(other, "source", files[other], source))
        for other in table.tables:
            parts[f"table {other}"] = tables[other].fingerprint
            if table.source is None and other in table.inputs:
                inputs.append(Input(other, "table"))
        fingerprint = _digest(parts)
        uri = table_uri(pipeline, name)
        current, before = state(uri, fingerprint)
        why = (
            ()
            if current
            else _why(parts, before, {other for other in table.tables if not tables[other].current})
        )
        tables[name] = TablePlan(
            name,
            table,
            uri,
            tuple(inputs),
            checked[name].schema,
            checked[name].moves,
            parts,
            fingerprint,
            current,
            why,
        )
    return Plan(pipeline, tables)


def _used(pipeline: Pipeline) -> dict[str, sources.Source]:
    names = {name for table in pipeline.tables.values() if table.source is not None for name in table.inputs}
    return {name: source for name, source in pipeline.sources.items() if name in names}


@functools.cache
def _code() -> str:
    """Digest of the modules that decide what rows become. One for all tables: coarse, but never stale."""
    package = Path(__file__).parent
    modules = [path for path in package.glob("*.py") if path.stem not in NOT_ROWS]
    modules += [*package.glob("sources/*.py"), package / "warehouse" / "file.py"]
    digest = hashlib.sha256()
    for module in sorted(modules):
        digest.update(module.read_bytes())
    return digest.hexdigest()[:32]


def _why(parts: Mapping[str, Any], before: Mapping[str, Any] | None, rebuilt: set[str]) -> tuple[str, ...]:
    if before is None:
        return ("it is not there yet",)
    reasons = []
    for name, value in parts.items():
        old = before.get(name)
        if old == value:
            continue
        match name.split(" ", 1):
            case ["code"]:
                reasons.append("the code of dlflow changed")
            case ["settings"]:
                reasons.append("its steps or settings in the pipeline file changed")
            case ["pyarrow"]:
                reasons.append(f"pyarrow {old} became {value}")
            case ["source", other] if isinstance(old, dict):
                reasons.extend(_changed_files(other, old, value))
            case ["table", other]:
                reasons.append(f"table {other} {'is built again' if other in rebuilt else 'has new content'}")
            case _:
                reasons.append(f"{name} changed")
    return tuple(reasons) or ("its content was replaced by another build",)


def _changed_files(source: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    kinds = {
        "new": sorted(new.keys() - old.keys()),
        "gone": sorted(old.keys() - new.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
    }
    return [
        f"source {source}: {kind}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for kind, names in kinds.items()
        if names
    ]


def _plain(value: Any) -> Any:
    """Settings as JSON-able values, with the kind of every step."""
    if isinstance(value, Table):
        return {
            **{key: item for key, item in asdict(value).items() if key not in {"steps", "checks"}},
            "steps": [[type(step).__name__, _plain(step)] for step in value.steps],
            "checks": [_plain(one) for one in value.checks],
        }
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _described(one: Input) -> str:
    if one.kind == "table":
        return f"table {one.name}"
    size = sum(file.size for file in one.files)
    return f"source {one.name} ({len(one.files)} {'file' if len(one.files) == 1 else 'files'}, {size / 1e6:,.1f} MB)"


def _relative(files: tuple[sources.InputFile, ...]) -> dict[str, str]:
    """Digests by path below the common folder: moving the whole input elsewhere changes nothing."""
    root = os.path.commonpath([Path(file.path).parent for file in files]) if files else ""
    return {os.path.relpath(file.path, root): file.sha256 for file in files}


def _passes(table: TablePlan) -> list[str]:
    """Steps as they fuse: `->` inside a pass, what ends it in brackets."""
    groups: list[str] = []
    names: list[str] = ["read"]
    for name, kind in table.moves:
        if kind != "map":
            groups.append(f"{' -> '.join(names)} [{'sketch' if kind == 'fit' else kind} for {name}]")
            names = []
        names.append(name)
    if table.spec.checks:
        names.append("checks")
    groups.append(" -> ".join([*names, "write"]))
    return groups
