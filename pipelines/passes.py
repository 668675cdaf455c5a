"""The passes of one build over the parts of its input: what is fitted on the way, what moves, what was counted.

read -> Map -> Map -> [sketch] -> Map ... -> [exchange] -> Map ... -> write files      on the workers

Rows that are left on the disk lie there by partition if that is known already (`layout`); then none of them move again.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines import inspection, measures, publish, quality, warehouse
from pipelines.chain import ahead, foreseen, needed
from pipelines.engine import Runner
from pipelines.errors import InputError
from pipelines.keyed import keyed_checks
from pipelines.layout import Layout, gathered, layout_of
from pipelines.leaves import Gone, Keys, Look, count_torn, leaf, look, merge_leaves, settle
from pipelines.made import Made
from pipelines.matching import refuse_bucket
from pipelines.moves import together
from pipelines.newcomers import newcomers
from pipelines.opening import opened, origin_of
from pipelines.parts import bucket_count, file_reads, slices
from pipelines.places import Place
from pipelines.plan import TablePlan
from pipelines.reads import Bucket, Kept, Laid, Read, SourceParts, TableFiles
from pipelines.sent import Sent, Told
from pipelines.sketch import Several
from pipelines.stage import Beside, Exchange, Fit, Map, Step, data_columns, tables_of
from pipelines.storage import FileRef, TableRef, row_bytes
from pipelines.storage import reference as reference_of
from pipelines.task import ExchangeTo, Keep, KeysTo, LayOut, LeaveOut, Receipt, WriteTo
from pipelines.warehouse.columns import settled

__all__ = ["Passes", "Told"]

ROW_BYTES = 100  # a guess, to choose the number of buckets from rows
KEYS_SHARE = 3  # a guess: of the bytes of a row, those of its key, its origin and its place


class Passes:
    """The passes of one build; holds what was counted and fitted on the way."""

    def __init__(
        self,
        plan: TablePlan,
        runner: Runner,
        work: Place,
        reference: Callable[[str], TableRef],
        progress: Told,
        run: str,
        reads: Sequence[Read] | None = None,
    ) -> None:
        self.plan, self.runner, self.reference, self.reads = plan, runner, reference, reads
        self.sent = Sent(plan, runner, work, progress, run)
        self.fitted: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}  # of the other tables of joins, among the inputs

    def finish(self) -> Made:
        """All passes; what there is to publish."""
        first = opened(self.plan, self.reference, self.reads)
        reads: Sequence[Read] = first.reads
        schema, read, self.sent.first = first.schema, first.files, first.maps
        for name in self.plan.spec.beside:
            other = self.reference(name)
            self.numbers[name] = len(read)
            read.append(
                {
                    "name": name,
                    "path": other.uri,
                    "rows": other.rows,
                    "version": other.version,
                }
            )
        self.sent.reading([origin_of(one) for one in read])
        maps: list[Map] = []
        fits: list[Fit] = []  # that are sketched together
        layout: Layout | None = None  # for rows that are left on the disk before them
        steps = [self._bound(step) for step in self.plan.spec.steps]
        for number, bound in enumerate(steps):
            stage = bound.stage(schema)
            if fits and not (isinstance(stage, Fit) and together([*fits, stage])):
                reads, maps = self._fit(reads, maps, fits, layout)
                fits = []
            if not fits and not isinstance(stage, Map):
                layout = self._layout(steps[number:], schema)
            match stage:
                case Map():
                    maps.append(stage)
                    schema = bound.build(schema)
                case Fit() if self.plan.spec.fitted_from is not None:
                    maps.append(stage.mapped(self._known(stage, self.plan.spec.fitted_from)))
                    schema = maps[-1](schema.empty_table()).kept.schema
                case Fit() if stage.writes is None:  # what is fitted may decide the columns
                    reads, maps = self._fit(reads, maps, [stage], layout)
                    schema = maps[-1](schema.empty_table()).kept.schema
                case Fit():
                    fits.append(stage)
                    schema = bound.build(schema)
                case Exchange(looks=None):
                    reads, maps = self._exchange(reads, maps, stage), [stage.mapped()]
                    schema = bound.build(schema)
                case Exchange():
                    reads, maps = self._choose(reads, maps, stage, layout), []
                    schema = bound.build(schema)
        if fits:
            reads, maps = self._fit(reads, maps, fits, layout)
        if self.plan.spec.checks:
            maps.append(quality.row_checks(self.plan.spec.checks, self.reference))
        for stage in [*keyed_checks(self.plan.spec.checks), *newcomers(self.plan, schema)]:
            reads, maps = self._exchange(reads, maps, stage), [stage.mapped()]
        columns = self._settled(pa.schema([schema.field(name) for name in data_columns(schema)]))
        partition_by = () if self.plan.spec.load == "upsert" else self.plan.spec.partition_by
        if self.plan.gathers:
            reads, maps = self._gather(reads, maps)
        to = WriteTo(tuple(columns), partition_by, self.plan.load is not None)
        receipts = self.sent.one_pass(reads, maps, to)
        files = [file for receipt in receipts for file in receipt["files"]]
        read = [
            {**one, "rows": self.sent.seen[number]} if "sha256" in one else one
            for number, one in enumerate(read)
        ]
        return Made(
            columns,
            files,
            self.sent.rejects,
            self.sent.steps,
            self.fitted,
            read,
            self._measured(columns, files),
            [origin for receipt in receipts for origin in receipt["origins"]],
            self.sent.set_aside,
            _cursors(reads, receipts),
            self.sent.evidence,
        )

    def _settled(self, columns: pa.Schema) -> pa.Schema:
        """The columns in the order of the table, where rows are added to one."""
        adds = self.plan.attempt or (self.plan.load is not None and not self.plan.load.whole)
        before = self._before() if adds else None
        return columns if before is None else settled(columns, before.schema)

    # ---- passes

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
        self.fitted[name] = warehouse.file_groups(self.plan.uri, known[name])
        return self.fitted[name]

    def _fit(
        self, reads: Sequence[Read], maps: list[Map], fits: Sequence[Fit], layout: Layout | None
    ) -> tuple[Sequence[Read], list[Map]]:
        """What the next pass reads, and its maps so far.

        Rows are left on the disk once, where reading and cleaning them again would cost more; not from fit to fit.
        """
        sketch = (
            fits[0].sketch if len(fits) == 1 else Several({str(i): fit.sketch for i, fit in enumerate(fits)})
        )
        columns = tuple(dict.fromkeys(name for fit in fits for name in fit.columns))
        known = needed(maps, columns) if all(isinstance(read, Kept) for read in reads) else None
        done = False
        answer: Any = None
        if known is None:
            tasks, merge = (
                self.sent.tasks(reads, maps, Keep(sketch, columns, layout)),
                functools.partial(merge_leaves, sketch),
            )
            receipts, state = self.runner.fold(
                leaf, tasks, merge, name=self.sent.name, progress=self.sent.told
            )
            self.sent.count(receipts)
            reads, maps, known = _kept(receipts), [], ((), columns)
            done, answer = sketch.finish(state, None)
        (used, read), name = known, f"{self.plan.name}/{self.sent.number}-look"
        while not done:
            looks = [
                Look(f"{name}/{part:06d}", replace(one, columns=read), used, sketch, columns, answer)
                for part, one in enumerate(reads)
                if isinstance(one, Kept)
            ]
            state = self.runner.fold(look, looks, sketch.merge, name=name, progress=self.sent.told)
            done, answer = sketch.finish(state, answer)
        chain = list(maps)
        for number, fit in enumerate(fits):
            fitted = warehouse.file_groups(self.plan.uri, answer if len(fits) == 1 else answer[str(number)])
            self.fitted[self._fit_name(fit)] = fitted
            chain.append(fit.mapped(fitted))
        return reads, chain

    def _choose(
        self, reads: Sequence[Read], maps: Iterable[Map], exchange: Exchange, layout: Layout | None
    ) -> list[Kept]:
        """The rows stay on the disk, their keys meet, and what is decided there says which of them go on."""
        columns = exchange.looks or ()
        to = KeysTo(exchange.by, columns, bucket_count(self._size() // KEYS_SHARE), exchange.alone, layout)
        receipts = self.sent.one_pass(reads, maps, to)
        keys = tuple(receipt["keys"] for receipt in receipts)
        buckets = [Bucket(keys, bucket) for bucket in range(to.buckets)]
        said = self.sent.one_pass(buckets, [exchange.mapped()], LeaveOut(len(receipts)))
        files, name = tuple(one["kept"] for one in said), f"{self.plan.name}/{self.sent.number}-gone"
        if layout is None:
            return [replace(one, gone=files) for one in _kept(receipts)]
        gone = [
            Gone(f"{name}/{part:06d}", str(self.sent.work), files, part, tuple(rows for _, rows in one.laid))
            for part, one in enumerate(_kept(receipts))
        ]
        settled = self.runner.run(settle, gone, name=name, progress=self.sent.told)
        return [
            replace(one, gone=() if path is None else (path,))
            for one, path in zip(_kept(receipts), settled, strict=True)
        ]

    def _exchange(self, reads: Sequence[Read], maps: Iterable[Map], exchange: Exchange) -> list[Bucket]:
        size, beside = self._size(), exchange.beside
        if beside is not None:
            wanted = pa.schema([beside.ref.schema.field(one) for one in beside.columns])
            size += beside.ref.rows * row_bytes(wanted)
        to = ExchangeTo(exchange.by, bucket_count(size), exchange.alone)
        receipts = self.sent.one_pass(reads, maps, to)
        paths = tuple(receipt["kept"] for receipt in receipts)
        if beside is None:
            return [Bucket(paths, bucket) for bucket in range(to.buckets)]
        other = self._move(beside, to.buckets)
        found = []
        for bucket, groups in enumerate(_groups(receipts, to.buckets, self._size(), exchange.apart)):
            for number, (start, stop) in enumerate(groups):
                mine = paths[start:stop]
                rest = tuple(path for path in paths if path not in mine) if beside.whole else ()
                last = number == len(groups) - 1  # it answers, so that added rows are the last of the bucket
                found.append(Bucket(mine, bucket, other, exchange.by, rest if last else None))
        return found

    def _layout(self, left: Sequence[Step], schema: pa.Schema) -> Layout | None:
        """How rows of this schema can lie by partition before these steps; None if one of them decides their partition."""
        stages = ahead(left, schema) if self.plan.gathers else None
        by = self.plan.spec.partition_by
        found = None if stages is None else foreseen([*stages, *keyed_checks(self.plan.spec.checks)], by)
        return None if found is None else layout_of(by, self._size(), *found)

    def _gather(self, reads: Sequence[Read], maps: list[Map]) -> tuple[list[Laid], list[Map]]:
        """The rows of a partition in one place: few files, whatever the number of tasks. What is left to do with them."""
        kept = [one for one in reads if isinstance(one, Kept) and one.laid]
        if not kept:
            to = LayOut(layout_of(self.plan.spec.partition_by, self._size()))
            kept, maps = _kept(self.sent.one_pass(reads, maps, to)), []
        return gathered(kept, self._size()), maps

    def _size(self) -> int:
        """Bytes of the input, about: the same however it is cut."""
        return sum(
            sum(file.size for file in one.files)
            if one.kind == "source"
            else self.reference(one.name).rows * ROW_BYTES
            for one in self.plan.inputs
        )

    def _move(self, beside: Beside, buckets: int) -> tuple[str, ...]:
        """Files with the rows of the other table of an exchange of two; they are counted where they meet."""
        wanted = tuple(beside.ref.schema.field(name) for name in beside.columns)
        first = self.numbers.get(beside.ref.name, 0)  # of the table itself nobody asks for the origin
        reads = file_reads(beside.ref.files, wanted, first, together=True) or [TableFiles(wanted, ())]
        receipts = self.sent.uncounted(
            reads, ExchangeTo(beside.by, buckets, alone=True), f"-{beside.ref.name}"
        )
        refuse_bucket(beside, [receipt["buckets"] for receipt in receipts])
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
        name = f"{self.sent.name}-keys"
        receipts = self.sent.uncounted(file_reads(refs, columns), ExchangeTo(check.targets, buckets))
        kept = [receipt["kept"] for receipt in receipts]
        items = [Keys(Bucket(tuple(kept), bucket), check) for bucket in range(buckets)] if kept else []
        return sum(self.runner.run(count_torn, items, name=name, progress=self.sent.told))

    def _before(self) -> TableRef | None:
        """The version that readers see now."""
        if not warehouse.log.exists(self.plan.uri):
            return None
        return reference_of(self.plan.name, warehouse.Snapshot.open(self.plan.uri))

    def _bound(self, step: Any) -> Step:
        names = tables_of(step)
        return step.beside(self.reference(names[0])) if names else step


def _cursors(reads: Sequence[Read], receipts: Sequence[Receipt]) -> dict[str, list[Any]]:
    """Of each source with a cursor, how far its tasks have come."""
    found: dict[str, list[Any]] = {}
    for one, receipt in zip(reads, receipts, strict=True):
        if isinstance(one, SourceParts) and one.after is not None:
            found.setdefault(one.after.source, []).append(receipt["cursor"])
    return found


def _kept(receipts: Sequence[Receipt]) -> list[Kept]:
    return [
        Kept(receipt["kept"], part, laid=tuple(map(tuple, receipt["laid"])))
        for part, receipt in enumerate(receipts)
    ]


def _groups(
    receipts: Sequence[Receipt], buckets: int, size: int, apart: bool = True
) -> list[list[tuple[int, int]]]:
    """For each bucket, which of the files go to one task; unless `apart`, all. `size` of all rows in bytes, about."""
    if not apart:
        return [[(0, len(receipts))]] * buckets
    rows = [receipt["buckets"] for receipt in receipts]
    total = sum(map(sum, rows))
    return [
        slices([counts[bucket] for counts in rows], total // buckets, size / max(total, 1))
        for bucket in range(buckets)
    ]
