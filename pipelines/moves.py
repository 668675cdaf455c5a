"""How the steps of a table move its rows, and why so: what a plan says before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.chain import foreseen, needed
from pipelines.errors import SpecError
from pipelines.stage import SPLIT, Exchange, Fit, Map, Stage, Step, tables_of
from pipelines.storage import TableRef

__all__ = ["Move", "Pass", "bound_to", "check_row_wise", "gathers", "move_of", "passes_of", "together"]


@dataclass(frozen=True)
class Move:
    """How a step moves rows, and why so."""

    step: str
    kind: str  # map, fit, exchange, or keys: an exchange of these alone
    stage: Stage = field(compare=False)
    why: str = ""

    @property
    def fit(self) -> Fit:
        """What is fitted, of a step that is."""
        if not isinstance(self.stage, Fit):
            raise TypeError(self.step)
        return self.stage


def bound_to(step: Any, schemas: Mapping[str, pa.Schema]) -> Step:
    """The step beside the tables that it reads, as they will be."""
    if names := tables_of(step):
        return step.beside(TableRef(names[0], "", -1, (), tuple(schemas[names[0]])))
    return step


def move_of(step: Any, schema: pa.Schema, fitted_from: str | None = None) -> Move:
    """How a step, bound to its tables, moves rows of this schema; `fitted_from` is the table that has fitted it before."""
    stage: Stage = step.stage(schema)
    if fitted_from is not None and isinstance(stage, Fit):
        return Move(f"{stage.name} (as in {fitted_from})", "map", stage)
    if tables_of(step):
        return Move(stage.name, type(stage).__name__.lower(), stage, step.way()[1])
    why = ""
    kind = type(stage).__name__.lower()
    if isinstance(stage, Exchange):
        by = f"{', '.join(stage.by[:3])}{' ...' if len(stage.by) > 3 else ''}"
        why = f"rows of equal {by} must meet"
        if stage.looks is not None:
            kind, why = "keys", f"those of equal {by} must meet; the rows stay where they are"
    elif isinstance(stage, Fit):
        why = "needs all rows first"
    return Move(stage.name, kind, stage, why)


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


@dataclass
class _Fusing:
    """The passes so far, and where the rows are: in the hands of the pass, or on the disk since the one before."""

    partition_by: tuple[str, ...]
    keyed: tuple[Exchange, ...]
    passes: list[Pass] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["read"])
    whys: list[str] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)  # that are sketched together
    since: list[Map] | None = None  # what is to be done with rows that wait on the disk; None: none do
    laid: bool = False  # by partition

    def end(self, what: str = "") -> None:
        """A pass is whole."""
        self.passes.append(Pass(tuple(self.names), what, tuple(self.whys)))
        self.names, self.whys = [], []

    def leave(self, stages: Sequence[Stage]) -> None:
        """The rows are left on the disk, before these stages."""
        known = gathers(self.partition_by) and foreseen([*stages, *self.keyed], self.partition_by) is not None
        self.since, self.laid = [], known
        if known:
            by = ", ".join(self.partition_by)
            self.whys.append(
                f"write: the rows wait beside those of their {by}, which is known already; they do not move again"
            )

    def look(self, stages: Sequence[Stage]) -> None:
        """The fits are sketched; behind the pass are they and these stages."""
        if not self.fits:
            return
        columns = [name for fit in self.fits for name in fit.columns]
        if self.since is None or needed(self.since, columns) is None:
            self.leave([*self.fits, *stages])
        self.end(f"sketch for {' and '.join(fit.name for fit in self.fits)}")
        self.names += [fit.name for fit in self.fits]
        self.since = [*(self.since or ()), *(fit.mapped(None) for fit in self.fits)]
        self.fits = []

    def add(self, move: Move, behind: Sequence[Stage]) -> None:
        """The next step, and the stages of those behind it."""
        if not (self.fits and move.kind == "fit" and together([*self.fits, move.fit])):
            self.look([move.stage, *behind])
        if move.why:
            self.whys.append(f"{move.step}: {move.kind}, {move.why}")
        if move.kind == "fit":
            self.fits.append(move.fit)
            return
        if move.kind == "keys":
            self.leave(behind)
        if move.kind in {"exchange", "keys"}:
            self.end(f"{move.kind} for {move.step}")
        self.names.append(move.step)
        if move.kind == "keys":
            self.end("rows that stay")
            self.names.append("read again")
        elif move.kind == "exchange":
            self.since = None
        elif self.since is not None and not isinstance(move.stage, Exchange):
            self.since.append(move.stage.mapped(None) if isinstance(move.stage, Fit) else move.stage)


def passes_of(
    moves: Sequence[Move],
    *,
    checks: bool,
    keyed: Sequence[Exchange] = (),
    new_by: Sequence[str] = (),
    partition_by: Sequence[str] = (),
) -> list[Pass]:
    """Steps as they fuse; `keyed` are the checks that bring the rows of a key together, `new_by` the key of a load."""
    made = _Fusing(tuple(partition_by), tuple(keyed))
    for number, move in enumerate(moves):
        made.add(move, [one.stage for one in moves[number + 1 :]])
    made.look([])
    if checks:
        made.names.append("checks")
    for check in keyed:
        made.whys.append(
            f"check {check.name}: exchange, rows of equal {', '.join(check.by)} must meet to be set aside"
        )
        made.end(f"exchange for check {check.name}")
        made.names.append(f"check {check.name}")
        made.since = None
    if new_by:
        key = ", ".join(new_by)
        made.whys.append(f"new by {key}: exchange, rows meet the keys that the table has")
        made.end(f"exchange for new by {key}")
        made.names.append(f"new by {key}")
        made.since = None
    if gathers(partition_by) and (made.since is None or not made.laid):
        made.whys.append("write: exchange, the rows of a partition meet in one file")
        made.end(f"exchange by {', '.join(partition_by)}")
    made.names.append("write")
    made.end()
    return made.passes
