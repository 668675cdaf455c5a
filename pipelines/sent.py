"""The tasks of one build, sent out pass by pass, and what their receipts add up to."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines import warehouse
from pipelines.engine import Runner
from pipelines.leaves import receipt_of
from pipelines.made import batch_key
from pipelines.places import Place, put
from pipelines.plan import TablePlan
from pipelines.stage import Map
from pipelines.task import COUNTS, Receipt, Task, Then

__all__ = ["Sent", "Told"]

Told = Callable[[str, int, int, int], None]
"""Progress: table, parts done, parts in all, rows so far."""


@dataclass
class Sent:
    """The tasks of one build so far."""

    plan: TablePlan
    runner: Runner
    work: Place
    progress: Told
    run: str
    steps: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[warehouse.Receipt] = field(default_factory=list)
    evidence: list[warehouse.Receipt] = field(default_factory=list)
    seen: Counter[int] = field(default_factory=Counter)  # rows by number of the source file
    set_aside: Counter[int] = field(default_factory=Counter)  # of a load, the same of its rejects
    # of each task of the first pass: what makes the columns of its input those of all
    first: list[Map] = field(default_factory=list)
    number: int = 0
    rows: int = 0

    @property
    def name(self) -> str:
        """Of the pass that comes next."""
        return f"{self.plan.name}-{self.number}"

    @property
    def inputs(self) -> Place:
        """The names of the input files, by number, as JSON."""
        return self.work / "inputs.json"

    def reading(self, origins: Sequence[str]) -> None:
        """Before the first pass: what is told of the input files, by number (`opening.origin_of`)."""
        put(self.inputs, json.dumps(origins).encode())

    def one_pass(self, reads: Sequence[Any], maps: Iterable[Map], then: Then) -> list[Receipt]:
        """A pass over all parts, and its counts."""
        tasks = self.tasks(reads, maps, then)
        receipts = self.runner.run(receipt_of, tasks, name=self.name, progress=self.told)
        self.count(receipts)
        return receipts

    def uncounted(self, reads: Sequence[Any], then: Then, name: str = "") -> list[Receipt]:
        """A pass over rows that are counted elsewhere."""
        tasks, called = self.tasks(reads, (), then), self.name + name
        self.number += 1
        return self.runner.run(receipt_of, tasks, name=called, progress=self.told)

    def tasks(self, reads: Sequence[Any], maps: Iterable[Map], then: Then) -> list[Task]:
        """The tasks of the pass that comes next."""
        chain = tuple(maps)
        first = self.first if self.number == 0 else []
        return [
            Task(
                name=f"{self.plan.name}/{self.number}/{part:06d}",
                read=read,
                maps=(first[part], *chain) if first else chain,
                then=then,
                uri=self.plan.uri,
                work=str(self.work),
                inputs=str(self.inputs),
                key=batch_key(self.plan),
                run=self.run,
            )
            for part, read in enumerate(reads)
        ]

    def told(self, done: int, total: int, answer: Any) -> None:
        """A task has ended."""
        if isinstance(answer, dict) and "task" in answer:  # a receipt, not a state
            self.rows += answer["rows"]
        self.progress(self.plan.name, done, total, self.rows)

    def count(self, receipts: Sequence[Receipt]) -> None:
        """Add up the steps of a pass; reading what the pass before has kept is not a step."""
        self.number += 1
        base, first = len(self.steps), 1 if self.steps else 0
        for receipt in receipts:
            self.rejects.extend(receipt["rejects"])
            self.evidence.extend(receipt["evidence"])
            self.seen.update({int(number): rows for number, rows in receipt["read"].items()})
            self.set_aside.update({int(number): rows for number, rows in receipt["set_aside"].items()})
            for place, step in enumerate(receipt["steps"][first:], base):
                if place == len(self.steps):
                    self.steps.append({"name": step["name"], **dict.fromkeys(COUNTS, 0), "notes": {}})
                total = self.steps[place]
                for name in COUNTS:
                    total[name] += step[name]
                for note, value in step["notes"].items():
                    total["notes"][note] = total["notes"].get(note, 0) + value
