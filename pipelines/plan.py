"""What will run and why: the checked tables of a pipeline file beside what the warehouse already holds.

A table is built again when its fingerprint differs from that of its current content. The fingerprint covers the code
of the steps, their settings, the library that does the work, and the content of the inputs (of files by digest, of
tables by their own fingerprint): so a plan knows before anything runs what follows from what.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import contract, fingerprint, loads, merges, quality, sources
from pipelines.document import Document
from pipelines.errors import NoInput, SpecError
from pipelines.evolution import grown_by_files
from pipelines.keyed import check_whole, keyed_checks
from pipelines.moves import Move, Pass, bound_to, check_fitted, check_row_wise, gathers, move_of, passes_of
from pipelines.names import did_you_mean
from pipelines.spec import Pipeline, Table
from pipelines.stage import data_columns, tables_of
from pipelines.storage import TableRef
from pipelines.union import input_schema

__all__ = [
    "Checked",
    "Input",
    "Move",
    "Plan",
    "TablePlan",
    "check",
    "listed",
    "make",
    "table_uri",
    "with_load",
]


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
    moves: tuple[Move, ...]
    bound: tuple[tuple[Any, pa.Schema], ...] = ()  # steps, and the columns that each gets


@dataclass(frozen=True)
class TablePlan:
    """One table: what goes in, what identifies the result, and whether it has to be built."""

    name: str
    spec: Table
    uri: str
    inputs: tuple[Input, ...]
    schema: pa.Schema
    moves: tuple[Move, ...]
    parts: Mapping[str, Any]  # of the fingerprint, by name: what changed can be told
    fingerprint: str
    current: bool
    why: tuple[str, ...]
    load: loads.Load | None = None  # of a table with load = "append"
    attempt: str = ""  # what the work is called if it is no build: a replay

    @property
    def work(self) -> str:
        """What one attempt at this content is called: of a load also by what it is planned on."""
        if self.attempt or self.load is None:
            return self.attempt or self.fingerprint
        return fingerprint.digest([self.fingerprint, self.load.base])

    @property
    def action(self) -> str:
        """What a run does with it: "keep", "build" anew, "load" new files, or "merge" by key."""
        if self.current:
            return "keep"
        adds = self.load is not None and not self.load.whole
        return "load" if adds else "merge" if self.spec.load == "upsert" else "build"

    @property
    def gathers(self) -> bool:
        """Whether the rows of a partition meet, so that it is written by one task."""
        return self.load is None and self.spec.load != "upsert" and gathers(self.spec.partition_by)

    @property
    def passes(self) -> list[Pass]:
        """Its steps as they fuse."""
        checks, by = self.spec.checks, self.spec.partition_by if self.gathers else ()
        keyed, new_by = keyed_checks(checks), () if self.load is None else self.spec.key
        return passes_of(self.moves, checks=bool(checks), keyed=keyed, new_by=new_by, partition_by=by)


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
            load = table.load
            inputs = ", ".join(_described(one, load) for one in table.inputs)
            lines.append(f"{table.action:<5}  {table.name}  <- {inputs}")
            whys = (reason.replace("\n", "\n" + " " * 12) for reason in table.why)
            lines.extend(f"         why: {reason}" for reason in whys)
            if load is not None:
                lines.extend(f"         ignored: {text}" for text in load.ignored)
                lines.extend([f"         STOP: {load.problem}"] if load.problem else [])
            for number, one in enumerate(table.passes):
                lines.append(f"         pass {number + 1}: {one.text()}")
        return "\n".join(lines)


def table_uri(pipeline: Pipeline, name: str) -> str:
    """Folder of a table."""
    return str(pipeline.warehouse / name)


def check(document: Document, pipeline: Pipeline) -> dict[str, Checked]:
    """Every table after its steps; what does not fit is noted in the document."""
    schemas: dict[str, pa.Schema] = {}
    checked: dict[str, Checked] = {}
    for name, table in pipeline.tables.items():
        schema = input_schema(document, pipeline, schemas, name, table)
        if schema is None:
            continue
        moves: list[Move] = []
        steps: list[tuple[Any, pa.Schema]] = []
        try:
            for number, step in enumerate(table.steps):
                place: tuple[str | int, ...] = ("tables", name, "steps", number)
                bound = bound_to(step, schemas)
                if table.load == "append":
                    check_row_wise(step, bound.stage(schema))
                if (other := table.fitted_from) in pipeline.tables:
                    check_fitted(step, bound.stage(schema), str(other), pipeline.tables[str(other)].steps)
                moves.append(move_of(bound, schema, other))
                steps.append((step, schema))
                schema = bound.build(schema)
            for number, one in enumerate(table.checks):
                place = ("tables", name, "checks", number)
                one.build(schema, schemas)
            quality.row_checks(table.checks)  # names that are there twice
            check_whole(keyed_checks(table.checks), table.load)
            place = ("tables", name, "key")
            made = merges.table_schema(table, pa.schema([schema.field(one) for one in data_columns(schema)]))
        except SpecError as error:
            for text in error.problems:
                where = f"{place[2]}[{place[3]}]" if len(place) > len(("tables", name, "key")) else place[2]
                document.problem(place, f"tables.{name}.{where}: {text}")
            continue
        for column in table.partition_by:
            if column not in made.names:
                known = made.names
                document.problem(
                    ("tables", name, "partition_by"),
                    f"tables.{name}: no column {column!r} to partition by{did_you_mean(column, known)}",
                )
        schemas[name] = made
        checked[name] = Checked(schemas[name], tuple(moves), tuple(steps))
    return checked


def make(
    pipeline: Pipeline,
    checked: Mapping[str, Checked],
    *,
    state: Callable[[str, str], tuple[bool, Mapping[str, Any] | None]],
    digests: Path,
    outline: Callable[[str, str], TableRef | None] = lambda _name, _uri: None,
) -> Plan:
    """The plan; `state(uri, fingerprint)` says whether a table's content has it, and the parts of what it has.

    `outline(name, uri)` is the newest version of a table that will be joined as it is: how rows move follows from its size.

    Raises: InputError if a source has no files.
    """
    files: dict[str, tuple[sources.InputFile, ...]] = {}
    with sources.one_moment():
        for table in pipeline.tables.values():
            for other in table.inputs if table.source is not None else ():
                if not files.get(other):
                    files[other] = listed(table, pipeline.sources[other], digests)
    declared = pipeline.sources
    pipeline, checked = _evolved(pipeline, checked, files, digests)
    tables: dict[str, TablePlan] = {}
    for name, table in pipeline.tables.items():
        uri = table_uri(pipeline, name)
        draft = TablePlan(
            name=name,
            spec=table,
            uri=uri,
            inputs=(),
            schema=checked[name].schema,
            moves=_moves(checked[name], {other: tables[other] for other in table.joined}, outline),
            parts={},
            fingerprint="",
            current=False,
            why=(),
        )
        if table.load == "append":
            used = {other: declared[other] for other in table.inputs}
            tables[name] = with_load(draft, used, files, pipeline.sources)
        else:
            tables[name] = _with_state(draft, pipeline, tables, files, state)
    return Plan(pipeline, tables)


def _evolved(
    pipeline: Pipeline,
    checked: Mapping[str, Checked],
    files: Mapping[str, tuple[sources.InputFile, ...]],
    digests: Path,
) -> tuple[Pipeline, Mapping[str, Checked]]:
    """The pipeline with the columns that files of evolving sources have beyond those declared.

    Raises: InputError; SpecError if steps cannot go with the new columns.
    """
    evolving = [name for name in files if pipeline.sources[name].contract == "evolve"]
    if not evolving:
        return pipeline, checked
    found = {}
    for name in evolving:
        known, looked = loads.known_columns(pipeline, name)
        new = [file for file in files[name] if file.sha256 not in looked]
        found[name] = grown_by_files(pipeline.sources[name], known, new, digests.with_name("columns.json"))
    pipeline = replace(pipeline, sources={**pipeline.sources, **found})
    document = Document(pipeline.file, {}, {})
    checked = check(document, pipeline)
    document.raise_problems()
    return pipeline, checked


def listed(table: Table, source: sources.Source, digests: Path | None) -> tuple[sources.InputFile, ...]:
    """The files of a source now; of one that a table was loaded from and that may lose files, there may be none.

    Raises: InputError.
    """
    try:
        return tuple(sources.files(source, cache=digests))
    except NoInput:
        if table.load == "append" and source.on_change != "error":
            return ()
        raise


def with_load(
    plan: TablePlan,
    declared: Mapping[str, sources.Source],
    files: Mapping[str, tuple[sources.InputFile, ...]],
    used: Mapping[str, sources.Source],
) -> TablePlan:
    """The plan of a table that is loaded file by file, for the manifest that it has now; `used`: as they have grown."""
    load = loads.decide(plan.name, plan.spec, plan.uri, declared, files, used)
    parts = load.parts
    return replace(
        plan,
        inputs=tuple(Input(name, "source", load.new.get(name, ()), used[name]) for name in declared),
        parts=parts,
        fingerprint=fingerprint.digest(parts),
        current=load.nothing_to_do,
        why=()
        if load.nothing_to_do
        else load.why + (contract.changed_columns(plan.uri, plan.schema) if load.whole else ()),
        load=load,
    )


def _with_state(
    plan: TablePlan,
    pipeline: Pipeline,
    tables: Mapping[str, TablePlan],
    files: Mapping[str, tuple[sources.InputFile, ...]],
    state: Callable[[str, str], tuple[bool, Mapping[str, Any] | None]],
) -> TablePlan:
    """The plan of a table that is built as a whole."""
    table, inputs = plan.spec, []
    parts: dict[str, Any] = {
        "code": fingerprint.code(),
        "settings": fingerprint.digest(fingerprint.plain(table)),
        **fingerprint.versions(),
    }
    for other in table.inputs:
        if table.source is not None:
            source = pipeline.sources[other]
            declared = {
                **fingerprint.plain(source),
                "path": "",
                "url": None,
                "storage": None,
                "on_change": "",
                "identity": "",
            }
            parts[f"declaration of {other}"] = fingerprint.digest(declared)
            parts[f"source {other}"] = fingerprint.files_below(files[other])
            inputs.append(Input(other, "source", files[other], source))
    for other in table.tables:
        parts[f"table {other}"] = tables[other].fingerprint
        if table.source is None and other in table.inputs:
            inputs.append(Input(other, "table"))
    found = fingerprint.digest(parts)
    current, before = state(plan.uri, found)
    rebuilt = {other for other in table.tables if not tables[other].current}
    why = () if current else fingerprint.why(parts, before, rebuilt)
    if not current and table.load == "replace":
        why += contract.changed_columns(plan.uri, plan.schema)
    return replace(plan, inputs=tuple(inputs), parts=parts, fingerprint=found, current=current, why=why)


def _moves(
    checked: Checked, joined: Mapping[str, "TablePlan"], outline: Callable[[str, str], TableRef | None]
) -> tuple[Move, ...]:
    """The moves, with the sizes of other tables that are there."""
    moves = list(checked.moves)
    for place, (step, schema) in enumerate(checked.bound):
        for other in tables_of(step):
            ref = outline(other, joined[other].uri) if joined[other].current else None
            if ref is not None:
                moves[place] = move_of(step.beside(ref), schema)
    return tuple(moves)


def _described(one: Input, load: loads.Load | None) -> str:
    if one.kind == "table":
        return f"table {one.name}"
    if load is not None and not load.whole:
        there = sum(kept.source == one.name for kept in load.keep)
        return f"source {one.name} ({there:,} loaded, {len(one.files):,} to load)"
    size = sum(file.size for file in one.files)
    return f"source {one.name} ({len(one.files)} {'file' if len(one.files) == 1 else 'files'}, {size / 1e6:,.1f} MB)"
