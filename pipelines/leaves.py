"""What the passes of a build send to workers beside whole tasks: leaves of a fold, later rounds of a sketch, keys."""

from dataclasses import dataclass
from typing import Any

from pipelines import measures, task
from pipelines.reads import Bucket, read_rows, sketch_kept
from pipelines.task import Receipt, Task

__all__ = ["Again", "Keys", "count_torn", "leaf", "merge_leaves", "receipt_of", "sketch_again"]


@dataclass(frozen=True)
class Again:
    """A later round of a sketch over rows that a task has kept."""

    kept: str
    sketch: Any
    columns: tuple[str, ...]
    request: Any


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


def sketch_again(one: Again) -> Any:
    """The state of the later round."""
    return sketch_kept(one.kept, one.sketch, one.columns, one.request)


def count_torn(one: Keys) -> int:
    """What breaks the check among these keys."""
    return measures.torn(read_rows(one.read).kept, one.check)
