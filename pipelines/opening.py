"""What a build reads first: the parts of its inputs, the columns that they give, and where each row will be from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.parts import source_reads, table_reads
from pipelines.plan import TablePlan
from pipelines.reads import Read, TableFiles
from pipelines.stage import ORIGIN, Map, data_columns
from pipelines.storage import TableRef
from pipelines.union import conforming, merged

__all__ = ["Opened", "opened"]


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
            files = [
                {"name": one.name, "path": file.path, "rows": file.rows, "version": ref.version}
                for file in ref.files
            ]
        else:
            found = [] if reads is not None else list(source_reads(one.source, one.files, len(made.files)))
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
