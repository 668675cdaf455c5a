"""The passes of one build over the parts of its input: what is fitted on the way, what moves, what was counted.

read -> Map -> Map -> [sketch] -> Map ... -> [exchange] -> Map ... -> write files      on the workers
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines import inspection, measures, publish, quality, task, warehouse
from pipelines.engine import Runner
from pipelines.errors import InputError
from pipelines.made import Made, batch_key
from pipelines.opening import opened
from pipelines.parts import bucket_count, file_reads, slices
from pipelines.plan import TablePlan
from pipelines.reads import Bucket, Kept, Read, SourceParts, TableFiles, read_rows, sketch_kept
from pipelines.stage import Beside, Exchange, Fit, Map, Step, data_columns, tables_of
from pipelines.storage import FileRef, TableRef, row_bytes
from pipelines.storage import reference as reference_of
from pipelines.task import COUNTS, ExchangeTo, Keep, Receipt, Task, WriteTo

__all__ = ["Passes", "Told"]

ROW_BYTES = 100  # a guess, to choose the number of buckets from rows

Told = Callable[[str, int, int, int], None]
"""Progress: table, parts done, parts in all, rows so far."""


class Passes:
    """The passes of one build; holds what was counted and fitted on the way."""

    def __init__(
        self,
        plan: TablePlan,
        runner: Runner,
        work: Path,
        reference: Callable[[str], TableRef],
        progress: Told,
        run: str,
        reads: Sequence[Read] | None = None,
    ) -> None:
        self.plan, self.runner, self.work = plan, runner, work
        self.reference, self.progress, self.run, self.reads = reference, progress, run, reads
        self.inputs = work / "inputs.json"
        self.steps: list[dict[str, Any]] = []
        self.rejects: list[warehouse.Receipt] = []
        self.fitted: dict[str, Any] = {}
        self.seen: Counter[int] = Counter()  # rows by number of the source file
        self.set_aside: Counter[int] = Counter()  # of a load, the same of its rejects
        self.first: list[
            Map
        ] = []  # of each task of the first pass: what makes the columns of its input those of all
        self.numbers: dict[str, int] = {}  # of the other tables of joins, among the inputs
        self.number = 0
        self.rows = 0

    def finish(self) -> Made:
        """All passes; what there is to publish."""
        first = opened(self.plan, self.reference, self.reads)
        reads: Sequence[Read] = first.reads
        schema, read = first.schema, first.files
        self.first = first.maps
        for name in self.plan.spec.beside:
            other = self.reference(name)
            self.numbers[name] = len(read)
            read.append(
                {
                    "name": name,
                    "path": str(Path(self.plan.uri).parent / name),
                    "rows": other.rows,
                    "version": other.version,
                }
            )
        self.inputs.write_text(json.dumps([one["path"] for one in read]), "utf-8")
        maps: list[Map] = []
        for step in self.plan.spec.steps:
            bound = self._bound(step)
            match stage := bound.stage(schema):
                case Map():
                    maps.append(stage)
                    schema = bound.build(schema)
                case Fit() if self.plan.spec.fitted_from is not None:
                    maps.append(stage.mapped(self._known(stage, self.plan.spec.fitted_from)))
                    schema = maps[-1](schema.empty_table()).kept.schema
                case Fit():
                    reads, fitted = self._fit(reads, maps, stage)
                    maps = [stage.mapped(fitted)]
                    schema = maps[0](
                        schema.empty_table()
                    ).kept.schema  # what is fitted may decide the columns
                case Exchange():
                    reads = self._exchange(reads, maps, stage)
                    maps = [stage.mapped()]
                    schema = bound.build(schema)
        if self.plan.spec.checks:
            maps.append(quality.row_checks(self.plan.spec.checks, self.reference))
        columns = pa.schema([schema.field(name) for name in data_columns(schema)])
        partition_by = () if self.plan.spec.load == "upsert" else self.plan.spec.partition_by
        to = WriteTo(tuple(columns), partition_by, self.plan.load is not None)
        receipts = self._pass(reads, maps, to)
        files = [file for receipt in receipts for file in receipt["files"]]
        origins = [origin for receipt in receipts for origin in receipt["origins"]]
        read = [
            {**one, "rows": self.seen[number]} if "sha256" in one else one for number, one in enumerate(read)
        ]
        cursors: dict[str, list[Any]] = {}
        for one, receipt in zip(reads, receipts, strict=True):
            if isinstance(one, SourceParts) and one.after is not None:
                cursors.setdefault(one.after.source, []).append(receipt["cursor"])
        return Made(
            columns,
            files,
            self.rejects,
            self.steps,
            self.fitted,
            read,
            self._measured(columns, files),
            origins,
            self.set_aside,
            cursors,
        )

    # ---- passes

    def _pass(self, reads: Sequence[Any], maps: Iterable[Map], then: ExchangeTo | WriteTo) -> list[Receipt]:
        receipts = self.runner.run(
            _receipt, self._tasks(reads, maps, then), name=self._name, progress=self._told
        )
        self._count(receipts)
        return receipts

    def _fit(self, reads: Sequence[Any], maps: Iterable[Map], fit: Fit) -> tuple[list[Kept], Any]:
        tasks, name = self._tasks(reads, maps, Keep(fit.sketch, fit.columns)), self._name
        merge = functools.partial(_merge_leaves, fit.sketch)
        receipts, state = self.runner.fold(_leaf, tasks, merge, name=name, progress=self._told)
        self._count(receipts)
        done, answer = fit.sketch.finish(state, None)
        while not done:
            items = [_Again(receipt["kept"], fit.sketch, fit.columns, answer) for receipt in receipts]
            state = self.runner.fold(
                _sketch_again, items, fit.sketch.merge, name=f"{name}-more", progress=self._told
            )
            done, answer = fit.sketch.finish(state, answer)
        self.fitted[self._fit_name(fit)] = answer
        return [Kept(receipt["kept"]) for receipt in receipts], answer

    def _fit_name(self, fit: Fit) -> str:
        """Under which its values are stored: a second one of the same name has a number."""
        twice = sum(name.partition(" #")[0] == fit.name for name in self.fitted)
        return f"{fit.name} #{twice + 1}" if twice else fit.name

    def _known(self, fit: Fit, other: str) -> Any:
        """What another table has fitted for the same step.

        Raises: InputError if the version that is read has nothing stored for it.
        """
        ref, name = self.reference(other), self._fit_name(fit)
        known = inspection.fitted_of(ref.uri, ref.version)
        if name not in known:
            raise InputError(
                f"table {self.plan.name!r}: version {ref.version} of table {other!r} has no fitted values of step {name!r}, it has "
                f"those of {', '.join(map(repr, known)) or 'none'}; build it again"
            )
        self.fitted[name] = known[name]
        return known[name]

    def _exchange(self, reads: Sequence[Any], maps: Iterable[Map], exchange: Exchange) -> list[Bucket]:
        size = sum(
            sum(file.size for file in one.files)
            if one.kind == "source"
            else self.reference(one.name).rows * ROW_BYTES
            for one in self.plan.inputs
        )
        beside = exchange.beside
        if beside is not None:
            size += beside.ref.rows * row_bytes(
                pa.schema([beside.ref.schema.field(one) for one in beside.columns])
            )
        to = ExchangeTo(exchange.by, bucket_count(size), exchange.alone)
        receipts = self._pass(reads, maps, to)
        paths = tuple(receipt["kept"] for receipt in receipts)
        if beside is None:
            return [Bucket(paths, bucket) for bucket in range(to.buckets)]
        other = self._move(beside, to.buckets)
        rows = [receipt["buckets"] for receipt in receipts]
        found = []
        for bucket in range(to.buckets):
            groups = slices([counts[bucket] for counts in rows], sum(map(sum, rows)) // to.buckets)
            for number, (start, stop) in enumerate(groups):
                mine = paths[start:stop]
                rest = tuple(path for path in paths if path not in mine) if beside.whole else ()
                last = number == len(groups) - 1  # it answers, so that added rows are the last of the bucket
                found.append(Bucket(mine, bucket, other, exchange.by, rest if last else None))
        return found

    def _move(self, beside: Beside, buckets: int) -> tuple[str, ...]:
        """Files with the rows of the other table of an exchange of two; they are counted where they meet."""
        wanted = tuple(beside.ref.schema.field(name) for name in beside.columns)
        first = self.numbers[beside.ref.name]
        reads = file_reads(beside.ref.files, wanted, first, together=True) or [TableFiles(wanted, ())]
        tasks = self._tasks(reads, (), ExchangeTo(beside.by, buckets, alone=True))
        name, self.number = f"{self._name}-{beside.ref.name}", self.number + 1
        receipts = self.runner.run(_receipt, tasks, name=name, progress=self._told)
        return tuple(receipt["kept"] for receipt in receipts)

    def _measured(self, columns: pa.Schema, files: Sequence[warehouse.Receipt]) -> dict[str, Any]:
        """What checks ask of the new version as a whole, by the name of the check."""
        refs = publish.kept_refs(self.plan) + publish.file_refs(self.plan.uri, files, columns)
        checks = self.plan.spec.checks
        measured = measures.measure(
            checks, refs, columns, self.runner, before=self._before, reference=self.reference
        )
        for check in checks:
            if names := measures.key_columns(check):
                ((name, _),) = check.measures
                measured[name] = self._torn(check, refs, tuple(columns.field(one) for one in names))
        return measured

    def _torn(self, check: Any, refs: Sequence[FileRef], columns: tuple[pa.Field, ...]) -> int:
        """What breaks a check of keys: all keys of the new version meet by hash."""
        buckets = bucket_count(sum(file.rows for file in refs) * ROW_BYTES)
        tasks = self._tasks(file_reads(refs, columns), (), ExchangeTo(check.targets, buckets))
        name, self.number = self._name, self.number + 1
        kept = [
            receipt["kept"] for receipt in self.runner.run(_receipt, tasks, name=name, progress=self._told)
        ]
        items = [_Keys(Bucket(tuple(kept), bucket), check) for bucket in range(buckets)] if kept else []
        return sum(self.runner.run(_count_torn, items, name=f"{name}-keys", progress=self._told))

    def _before(self) -> TableRef | None:
        """The version that readers see now."""
        if not warehouse.log.exists(self.plan.uri):
            return None
        return reference_of(self.plan.name, warehouse.Snapshot.open(self.plan.uri))

    @property
    def _name(self) -> str:
        return f"{self.plan.name}-{self.number}"

    def _tasks(self, reads: Sequence[Any], maps: Iterable[Map], then: Any) -> list[Task]:
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

    def _told(self, done: int, total: int, answer: Any) -> None:
        if isinstance(answer, dict) and "task" in answer:  # a receipt, not a state
            self.rows += answer["rows"]
        self.progress(self.plan.name, done, total, self.rows)

    def _count(self, receipts: Sequence[Receipt]) -> None:
        """Add up the steps of a pass; reading what the pass before has kept is not a step."""
        self.number += 1
        base, first = len(self.steps), 1 if self.steps else 0
        for receipt in receipts:
            self.rejects.extend(receipt["rejects"])
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

    def _bound(self, step: Any) -> Step:
        names = tables_of(step)
        return step.beside(self.reference(names[0])) if names else step


# ---- what runs on workers


@dataclass(frozen=True)
class _Again:
    """A later round of a sketch over rows that a task has kept."""

    kept: str
    sketch: Any
    columns: tuple[str, ...]
    request: Any


@dataclass(frozen=True)
class _Keys:
    """The keys of one bucket."""

    read: Bucket
    check: Any


def _receipt(one: Task) -> Receipt:
    return task.run(one)[0]


def _leaf(one: Task) -> tuple[list[Receipt], Any]:
    receipt, state = task.run(one)
    return [receipt], state


def _merge_leaves(
    sketch: Any, left: tuple[list[Receipt], Any], right: tuple[list[Receipt], Any]
) -> tuple[list[Receipt], Any]:
    return left[0] + right[0], sketch.merge(left[1], right[1])


def _sketch_again(one: _Again) -> Any:
    return sketch_kept(one.kept, one.sketch, one.columns, one.request)


def _count_torn(one: _Keys) -> int:
    return measures.torn(read_rows(one.read).kept, one.check)
