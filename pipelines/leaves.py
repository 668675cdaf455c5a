"""What the passes of a build send to workers beside whole tasks: leaves of a fold, rounds of a sketch, keys."""

from dataclasses import dataclass
from typing import Any

from pipelines import between, measures, task
from pipelines.failpoints import failpoint
from pipelines.reads import Bucket, Kept, read_rows
from pipelines.stage import Map
from pipelines.task import Receipt, Task

__all__ = ["Gone", "Keys", "Look", "count_torn", "leaf", "look", "merge_leaves", "receipt_of", "settle"]


@dataclass(frozen=True)
class Look:
    """A round of a sketch over rows that were kept: it reads what it needs, and leaves nothing."""

    name: str
    read: Kept  # of the columns that the maps need
    maps: tuple[Map, ...]
    sketch: Any
    columns: tuple[str, ...]
    request: Any = None


@dataclass(frozen=True)
class Gone:
    """The rows of one part that were left out, as the tasks of all keys have said."""

    name: str
    work: str
    files: tuple[str, ...]
    part: int
    rows: tuple[int, ...]  # of each batch of the part


@dataclass(frozen=True)
class Keys:
    """The keys of one bucket."""

    read: Bucket
    check: Any


def receipt_of(one: Task) -> Receipt:
    """Run a task for its receipt."""
    return task.run(one)[0]


def leaf(one: Task) -> tuple[list[Receipt], Any]:
    """Run a task; its receipt, as the first leaf of a tree, and the state of its sketch."""
    receipt, state = task.run(one)
    return [receipt], state


def merge_leaves(
    sketch: Any, left: tuple[list[Receipt], Any], right: tuple[list[Receipt], Any]
) -> tuple[list[Receipt], Any]:
    """Receipts one behind the other, states merged."""
    return left[0] + right[0], sketch.merge(left[1], right[1])


def look(one: Look) -> Any:
    """The state of the round."""
    table = read_rows(one.read).kept
    failpoint("part.after_read", one.name)
    for step in one.maps:
        table = step(table).kept
    return one.sketch.sketch(table.select(list(one.columns)), one.request)


def settle(one: Gone) -> str | None:
    """A file with a batch of row numbers for each batch of the part: who reads a batch needs no others. None: no row is gone."""
    found = between.by_places(one.files, one.part, one.rows)
    return between.write_batches(one.work, one.name, found) if any(map(len, found)) else None


def count_torn(one: Keys) -> int:
    """What breaks the check among these keys."""
    return measures.torn(read_rows(one.read).kept, one.check)
