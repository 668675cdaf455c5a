"""Checks that look at all rows of a key together, where the rows that break them are to be set aside.

The rows of a key meet in one task (an Exchange), after the checks of single rows have set aside what is theirs:

    unique         every row beyond the first of its key, by origin
    apart          every row of a key that is in more than one part of the split
    k_anonymity    every row of a combination that fewer than k rows have: the last, since the others take rows away
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import SpecError
from pipelines.fields import combined
from pipelines.groups import codes_of, groups_of
from pipelines.quality import KEYED, Check, told
from pipelines.stage import SPLIT, Exchange, Rows, reject

__all__ = ["check_whole", "keyed_checks", "set_aside"]


def keyed_checks(checks: Iterable[Check]) -> list[Exchange]:
    """An Exchange for each check of keys whose rows are to be set aside, in an order in which none undoes another.

    Raises: SpecError if two would.
    """
    found = [one for one in checks if one.severity == "quarantine" and one.check in KEYED]
    found.sort(key=lambda one: KEYED.index(one.check))
    if sum(one.check == "k_anonymity" for one in found) > 1:
        raise SpecError(
            'checks: two of k_anonymity with severity = "quarantine" would take rows away from each other\'s combinations; '
            "name the columns of both in one, or block by the other"
        )
    return [
        Exchange(name, one.targets, set_aside, {"check": one}, alone=one.check != "k_anonymity")
        for one in found
        for name, _ in one.measures
    ]


def check_whole(checks: Sequence[Exchange], load: str) -> None:
    """Raises: SpecError if rows are to be set aside for a key of which other rows may have been loaded before."""
    if checks and load != "replace":
        raise SpecError(
            f'check {checks[0].name!r}: severity = "quarantine" cannot be in a table with load = "{load}": rows of a key that were '
            "loaded before would have to move too; check it in a table that reads this one, or block"
        )


def set_aside(table: pa.Table, *, check: Check) -> Rows:
    """The rows of keys that are all here, without those that break the check; counted under its name."""
    ((name, column),) = check.measures
    broken = _broken(table, check)
    aside = reject(
        table,
        pa.array(broken),
        rule=name,
        column=_one(check.targets),
        message=told(check, table.schema, column),
    )
    return Rows(aside.kept, aside.rejected, notes={name: int(broken.sum())})


def _one(columns: Sequence[str]) -> str | None:
    return columns[0] if len(columns) == 1 else None


def _broken(table: pa.Table, check: Check) -> np.ndarray:
    groups = groups_of(table, check.targets, null_is_value=check.check == "k_anonymity")
    if not len(groups):
        return np.zeros(0, bool)
    _, place, key, many = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    if check.check == "unique":
        return np.arange(len(groups)) != place[key]
    if check.check == "k_anonymity":
        fewer: np.ndarray = many[key] < (check.k or 0)
        return fewer
    parts = codes_of(pc.fill_null(combined(table[SPLIT]), ""))
    pairs = np.unique(np.stack([key, parts], axis=1), axis=0)
    torn: np.ndarray = np.bincount(pairs[:, 0], minlength=len(many))[key] > 1
    return torn
