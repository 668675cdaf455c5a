"""What a build reads first: the parts of its inputs, the columns that they give, and where each row will be from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipelines.cursor import after, asked
from pipelines.parts import source_reads, table_reads
from pipelines.plan import Input, TablePlan
from pipelines.reads import Read, SourceParts, TableFiles
from pipelines.stage import ORIGIN, Map, data_columns
from pipelines.storage import TableRef
from pipelines.union import conforming, merged

__all__ = ["Opened", "opened", "origin_of"]


@dataclass
class Opened:
    """The first pass of a build."""

    schema: pa.Schema
    reads: list[Read] = field(default_factory=list)  # one for each task
    maps: list[Map] = field(default_factory=list)  # of each task, where inputs meet that have other columns
    files: list[dict[str, Any]] = field(default_factory=list)  # by number, as the origin of a row has it


def opened(
    plan: TablePlan, reference: Callable[[str], TableRef], reads: Sequence[Read] | None = None
) -> Opened:
    """The inputs of a table, ready to be read: all of them, or what `reads` says, in a table without union."""
    schemas: dict[str, pa.Schema] = {}
    for one in plan.inputs:
        source = None if one.source is None else one.source.schema.with_origin()
        schemas[one.name] = source or pa.schema([*reference(one.name).schema, *ORIGIN])
    union = plan.spec.union
    schema = list(schemas.values())[-1] if union is None else merged(union, schemas)
    made = Opened(schema)
    for one in plan.inputs:
        found: list[Any]
        if one.source is None:
            ref = reference(one.name)
            found = list(table_reads(ref, len(made.files)))
            files = [{"name": one.name, "path": ref.uri, "rows": ref.rows, "version": ref.version}]
        else:
            found = [] if reads is not None else list(_source_reads(plan, one, len(made.files)))
            files = [
                {"name": one.name, "path": file.path, "bytes": file.size, "sha256": file.sha256}
                for file in one.files
            ]
        if union is not None:
            made.maps += [conforming(union, one.name, schemas[one.name], schema)] * len(found)
        made.reads += found
        made.files += files
    made.reads = made.reads if reads is None else list(reads)
    if not made.reads:  # no rows: one task all the same, so that every step sees its columns
        made.reads = [TableFiles(tuple(schema.field(name) for name in data_columns(schema)), ())]
    return made


def origin_of(read: Mapping[str, Any]) -> str:
    """What people are told of where rows are from: a file, or a table ("orders@3")."""
    return f"{read['name']}@{read['version']}" if "version" in read else str(read["path"])


def _source_reads(plan: TablePlan, one: Input, first: int) -> list[SourceParts]:
    """Of a source with a cursor the rows that are new; what it is asked for has less of the others."""
    if one.source is None:
        raise AssertionError(one.name)
    if one.source.cursor is None or plan.load is None:
        return source_reads(one.source, one.files, first)
    new = after(one.name, one.source, plan.load.cursor(one.name))
    reads = source_reads(asked(one.source, new), one.files, first)
    return [replace(read, after=new) for read in reads]
