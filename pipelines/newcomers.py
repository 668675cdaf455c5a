"""Rows of a load whose key is in the table already, or came twice: each key is in the table once, whatever comes.

    new rows --by key--+
                       +--> the first of each key that the table does not have      others: on_duplicate
    keys of the table--+

Only key columns of the table are read. A row with a missing value in its key is never taken for another.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import inspection, publish, warehouse
from pipelines.errors import InputError
from pipelines.groups import groups_of
from pipelines.made import Made
from pipelines.matching import index_of
from pipelines.plan import TablePlan
from pipelines.stage import Beside, Exchange, Rows, Side, reject
from pipelines.storage import TableRef

__all__ = ["RULE", "newcomers", "only_new", "refuse_known"]

RULE = "duplicate key"


def newcomers(plan: TablePlan, schema: pa.Schema) -> list[Exchange]:
    """What leaves the rows that are new by key, of a table that is loaded file by file and has one; else nothing."""
    if plan.load is None or not plan.spec.key:
        return []
    key = plan.spec.key
    columns = tuple(schema.field(name) for name in key)
    version = warehouse.Snapshot.open(plan.uri).version if warehouse.log.exists(plan.uri) else -1
    there = TableRef(plan.name, plan.uri, version, tuple(publish.kept_refs(plan)), columns)
    params = {"key": key, "leave_out": plan.spec.on_duplicate == "ignore"}
    beside = Beside(there, key, key, whole=False)
    return [
        Exchange(f"new by {', '.join(key)}", key, only_new, params, alone=True, beside=beside, apart=False)
    ]


def only_new(table: pa.Table, *, key: tuple[str, ...], leave_out: bool, side: Side) -> Rows:
    """The first row of each key, by origin, that the other side does not have; others are left out or set aside."""
    groups = groups_of(table, key, null_is_value=False)
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    twice = np.arange(len(groups)) != first[group] if len(groups) else np.zeros(0, bool)
    known = index_of([side.rows[name] for name in key]).partners([table[name] for name in key])[1] > 0
    if leave_out:
        kept = table.filter(pa.array(~(twice | known)))
        return Rows(kept, deduplicated=table.num_rows - kept.num_rows)
    private = {name for name in key if b"privacy" in (table.schema.field(name).metadata or {})}
    aside = pa.array(known | twice)
    where = iter(
        np.where(known, "is in the table already", "came before in this load")[known | twice].tolist()
    )

    def message(row: Mapping[str, Any]) -> str:
        said = ", ".join(f"{name} = {'***' if name in private else repr(row[name])}" for name in key)
        return f"key {said} {next(where)}"

    return reject(table, aside, rule=RULE, column=key[0] if len(key) == 1 else None, message=message)


def refuse_known(plan: TablePlan, made: Made) -> None:
    """Raises: InputError for a row whose key is there already, where that is an error."""
    if plan.load is None or not plan.spec.key or plan.spec.on_duplicate not in {None, "error"}:
        return
    for one in inspection.rejects_to_come(plan.uri, made.rejects):
        if one["rule"] == RULE:
            sample = one["samples"][0]
            raise InputError(
                f"table {plan.name!r}: {one['count']:,} rows have a key that is there already, such as {sample['source']}:"
                f'{sample["line"]}: {sample["message"]}; nothing was loaded. Correct the files, or set on_duplicate = "ignore" '
                '(such rows are left out and counted) or "quarantine" (they are set aside)'
            )
