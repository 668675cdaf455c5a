"""What the passes of a build leave for its commit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines import warehouse
from pipelines.plan import TablePlan

__all__ = ["Made", "Steps", "batch_key"]

Steps = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Made:
    """What the passes of a build leave for the commit."""

    schema: pa.Schema
    files: Sequence[warehouse.Receipt]
    rejects: Sequence[warehouse.Receipt]
    steps: Steps
    fitted: Mapping[str, Any]
    read: Sequence[Mapping[str, Any]]  # input files
    measured: Mapping[str, Any]  # what checks ask of the table as a whole, by the name of the check
    origins: Sequence[int] = ()  # of a load: the number of the source file of each file
    set_aside: Mapping[int, int] = field(
        default_factory=dict
    )  # of a load: rejects by number of the source file
    cursors: Mapping[str, Sequence[Any]] = field(
        default_factory=dict
    )  # of a load: states of cursors by source
    evidence: Sequence[warehouse.Receipt] = ()

    def source_ids(self) -> list[str]:
        """Transaction ids of the source files."""
        return warehouse.source_transactions(
            (one["path"], one["sha256"]) for one in self.read if "sha256" in one
        )

    def by_number(self) -> dict[int, list[warehouse.Receipt]]:
        """The files by the number of the source file whose rows they hold."""
        found: dict[int, list[warehouse.Receipt]] = {}
        for origin, receipt in zip(self.origins, self.files, strict=True):
            found.setdefault(origin, []).append(receipt)
        return found


def batch_key(plan: TablePlan) -> str:
    """The transaction id of a build: the same for every attempt at the same content."""
    return f"table:{plan.name}:{plan.work}"
