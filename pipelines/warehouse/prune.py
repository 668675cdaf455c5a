"""Which files of a version can hold rows that satisfy a condition: by partition values and bounds, no file opened.

A condition is taken apart at its `and`s. A part over partition columns alone is computed on their values. A part
`column < value` (or <=, ==, >=, >, in; either way round) is computed on the bound that decides it. All other parts
let every file pass. So the answer may hold files too many, never one too few.
"""

import ast
import functools

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import InputError, SpecError
from pipelines.expression import expression
from pipelines.warehouse.file import LiveFile
from pipelines.warehouse.snapshot import Snapshot

__all__ = ["files"]

_MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE, ast.Eq: ast.Eq}


def files(snapshot: Snapshot, where: str | None) -> tuple[LiveFile, ...]:
    """The files that can hold rows for which `where` is true, in the order of their rows.

    Raises: SpecError for a condition that cannot be understood.
    """
    if where is None:
        return snapshot.files()
    listing = snapshot.listing
    passing = pa.repeat(pa.scalar(value=True), listing.num_rows)
    for part in _parts(ast.parse(f"({where}\n)", mode="eval").body if expression(where) else None):
        passing = pc.and_(passing, pc.fill_null(_passing(part, snapshot, listing), fill_value=True))
    return snapshot.chosen(passing)


def _parts(node: ast.expr | None) -> list[ast.expr]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        return [part for value in node.values for part in _parts(value)]
    if isinstance(node, ast.Compare) and len(node.ops) > 1:  # a < b < c is a < b and b < c
        values = [node.left, *node.comparators]
        return [
            ast.Compare(left=left, ops=[op], comparators=[right])
            for left, op, right in zip(values, node.ops, values[1:], strict=False)
        ]
    return [] if node is None else [node]


def _passing(part: ast.expr, snapshot: Snapshot, listing: pa.Table) -> pa.Array:
    text = ast.unparse(part)
    used = expression(text).columns
    everything = pa.nulls(listing.num_rows, pa.bool_())
    if used and used <= set(snapshot.partition_by):
        values = pa.table({name: listing[f"partition.{name}"] for name in used})
        true = _computed(text, values)
        # null is not true: such rows are in no answer
        return everything if true is None else pc.fill_null(true, fill_value=False)
    if not isinstance(part, ast.Compare) or len(part.ops) != 1 or len(used) != 1:
        return everything
    name = next(iter(used))
    left, op, right = part.left, part.ops[0], part.comparators[0]
    if type(op) in _MIRRORED and expression(ast.unparse(right)).columns:
        left, op, right = right, _MIRRORED[type(op)](), left
    if not _is_column(left, name) or name not in snapshot.schema.names:
        return everything
    bounds = {
        end: listing[f"{end}.{name}"] for end in ("min", "max") if f"{end}.{name}" in listing.column_names
    }
    tests = [_test(left, op, right, name, bounds, snapshot) for op, right in _simple(op, right)]
    return functools.reduce(pc.or_kleene, tests) if tests else everything


def _simple(op: ast.cmpop, right: ast.expr) -> list[tuple[ast.cmpop, ast.expr]]:
    if isinstance(op, ast.In) and isinstance(right, ast.Tuple | ast.List):
        return [(ast.Eq(), value) for value in right.elts]
    return [(op, right)] if type(op) in _MIRRORED else []


def _test(
    left: ast.expr,
    op: ast.cmpop,
    right: ast.expr,
    name: str,
    bounds: dict[str, pa.ChunkedArray],
    snapshot: Snapshot,
) -> pa.Array:
    ends: list[tuple[str, ast.cmpop]] = []
    if isinstance(op, ast.Gt | ast.GtE | ast.Eq):
        ends.append(("max", ast.GtE() if isinstance(op, ast.Eq) else op))
    if isinstance(op, ast.Lt | ast.LtE | ast.Eq):
        ends.append(("min", ast.LtE() if isinstance(op, ast.Eq) else op))
    true = pa.nulls(snapshot.listing.num_rows, pa.bool_())
    for end, how in ends:
        if end not in bounds:
            continue
        text = ast.unparse(ast.Compare(left=left, ops=[how], comparators=[right]))
        found = _computed(text, pa.table({name: bounds[end].cast(snapshot.schema.field(name).type)}))
        if found is not None:
            true = pc.and_kleene(pc.fill_null(true, fill_value=True), found)
    return true


def _computed(text: str, table: pa.Table) -> pa.Array | None:
    try:
        return expression(text).evaluate(table)
    except (SpecError, InputError):  # the condition itself is checked on the rows; here it prunes nothing
        return None


def _is_column(node: ast.expr, name: str) -> bool:
    if isinstance(node, ast.Name):
        return node.id == name
    return isinstance(node, ast.Call) and ast.unparse(node) == f"column({name!r})"
