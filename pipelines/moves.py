"""How the steps of a table move its rows, and why so: what a plan says before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.errors import SpecError
from pipelines.stage import SPLIT, Exchange, Fit, Stage, Step, tables_of
from pipelines.storage import TableRef

__all__ = ["Move", "Pass", "bound_to", "check_row_wise", "gathers", "move_of", "passes_of", "together"]


@dataclass(frozen=True)
class Move:
    """How a step moves rows, and why so."""

    step: str
    kind: str  # map, fit, exchange, or keys: an exchange of these alone
    why: str = ""
    fit: Fit | None = field(default=None, compare=False)


def bound_to(step: Any, schemas: Mapping[str, pa.Schema]) -> Step:
    """The step beside the tables that it reads, as they will be."""
    if names := tables_of(step):
        return step.beside(TableRef(names[0], "", -1, (), tuple(schemas[names[0]])))
    return step


def move_of(step: Any, schema: pa.Schema, fitted_from: str | None = None) -> Move:
    """How a step, bound to its tables, moves rows of this schema; `fitted_from` is the table that has fitted it before."""
    stage: Stage = step.stage(schema)
    if fitted_from is not None and isinstance(stage, Fit):
        return Move(f"{stage.name} (as in {fitted_from})", "map", "")
    if tables_of(step):
        return Move(stage.name, type(stage).__name__.lower(), step.way()[1])
    why = ""
    kind = type(stage).__name__.lower()
    if isinstance(stage, Exchange):
        by = f"{', '.join(stage.by[:3])}{' ...' if len(stage.by) > 3 else ''}"
        why = f"rows of equal {by} must meet"
        if stage.looks is not None:
            kind, why = "keys", f"those of equal {by} must meet; the rows stay where they are"
    elif isinstance(stage, Fit):
        why = "needs all rows first"
    return Move(stage.name, kind, why, stage if isinstance(stage, Fit) else None)


def check_fitted(step: Any, stage: Stage, name: str, others: Sequence[Any]) -> None:
    """Raises: SpecError for a step that learns from all rows, and is not, setting for setting, one of the other table's."""
    if isinstance(stage, Fit) and step not in others:
        raise SpecError(
            f"step {step.do!r} takes what table {name!r} has fitted, so it must be there too with the same settings; "
            "correct one of them, or leave fitted_from out"
        )


def check_row_wise(step: Any, stage: Stage) -> None:
    """Raises: SpecError for a step whose result for a row depends on more than the row: rows loaded before would differ."""
    if others := tables_of(step):
        why = f"rows loaded before would keep the old values of table {others[0]!r}"
    elif isinstance(stage, Fit):
        why = "its values come from all rows, and rows loaded before were made with those of that time"
    elif isinstance(stage, Exchange):
        why = "rows of several loads would have to meet"
    else:
        return
    raise SpecError(
        f'step {step.do!r} cannot be in a table with load = "append": {why}; put it into a table that reads this one'
    )


def together(fits: Sequence[Fit]) -> bool:
    """Whether these fits, one behind the other, may look at the same rows: none reads what one before it writes."""
    written: set[str] = set()
    for fit in fits:
        if written & set(fit.columns) or fit.writes is None:
            return False
        written |= set(fit.writes)
    return True


def gathers(partition_by: Sequence[str]) -> bool:
    """Whether rows move once more so that each partition is written by one task.

    Otherwise every task would write a file for every partition. Parts of a split are few: there it does not pay.
    """
    return bool(set(partition_by) - {SPLIT})


@dataclass(frozen=True)
class Pass:
    """What runs over every part without the rows being read or moved again, what ends it, and why it does."""

    steps: tuple[str, ...]
    ends: str = (
        ""  # "sketch for ...", "exchange for ...", "exchange by ..."; the last one ends with its files
    )
    why: tuple[str, ...] = ()

    def text(self) -> str:
        """As the plan has it: `->` between steps, what ends it in brackets, the reasons below."""
        ends = f"[{self.ends}]" if self.ends else ""
        return "\n".join(
            [f"{' -> '.join(self.steps)} {ends}".strip(), *(f"{'':17}{reason}" for reason in self.why)]
        )


def passes_of(
    moves: Iterable[Move],
    *,
    checks: bool,
    keyed: Sequence[Exchange] = (),
    new_by: Sequence[str] = (),
    partition_by: Sequence[str] = (),
) -> list[Pass]:
    """Steps as they fuse; `keyed` are the checks that bring the rows of a key together, `new_by` the key of a load."""
    passes: list[Pass] = []
    names: list[str] = ["read"]
    whys: list[str] = []
    sketched: list[Fit] = []

    def end(what: str = "") -> None:
        passes.append(Pass(tuple(names), what, tuple(whys)))
        names.clear()
        whys.clear()

    def look() -> None:
        if sketched:
            end(f"sketch for {' and '.join(fit.name for fit in sketched)}")
            names.extend(fit.name for fit in sketched)
            sketched.clear()

    for move in moves:
        if not (sketched and move.fit is not None and together([*sketched, move.fit])):
            look()
        if move.why:
            whys.append(f"{move.step}: {move.kind}, {move.why}")
        if move.fit is not None:
            sketched.append(move.fit)
            continue
        if move.kind in {"exchange", "keys"}:
            end(f"{move.kind} for {move.step}")
        names.append(move.step)
        if move.kind == "keys":
            end("rows that stay")
            names.append("read again")
    look()
    if checks:
        names.append("checks")
    for check in keyed:
        whys.append(
            f"check {check.name}: exchange, rows of equal {', '.join(check.by)} must meet to be set aside"
        )
        end(f"exchange for check {check.name}")
        names.append(f"check {check.name}")
    if new_by:
        key = ", ".join(new_by)
        whys.append(f"new by {key}: exchange, rows meet the keys that the table has")
        end(f"exchange for new by {key}")
        names.append(f"new by {key}")
    if gathers(partition_by):
        whys.append("write: exchange, the rows of a partition meet in one file")
        end(f"exchange by {', '.join(partition_by)}")
    names.append("write")
    end()
    return passes
