"""Batch scoring: the answers of a model to every row of a table, as a table of their own. Each row is answered once.

    file of T --keep, encode, score (a worker)--> file of the answers        one commit, with the manifest of what was scored

Files of a table never change, so the manifest of the answers says which files of T they are to. A rerun adds nothing; of a
new version of T only the new files are scored, and the answers to files that are gone go with them. Another model version, or
answers that somebody has changed since: all is scored again.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from pathlib import Path

import pyarrow as pa

from flows.predictor import ENCODED, Predictor, open_predictor
from pipelines import ledger, warehouse
from pipelines.additions import unloaded
from pipelines.engine import Runner
from pipelines.errors import SpecError
from pipelines.fingerprint import digest
from pipelines.inspection import fitted_of
from pipelines.names import did_you_mean
from pipelines.places import Place, place, state_folder
from pipelines.recipes import conform

__all__ = ["Scored", "encoded_by", "kept_columns", "score_table"]

LOCK_S = 600.0
FORM = "1"  # of the columns of the answers: another one scores all again


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a scoring did."""

    model: str
    model_version: int
    table: str
    table_version: int
    into: str
    into_version: int
    rows: int  # of the answers now
    scored: int  # rows that this call answered
    removed: int  # answers to rows that are gone
    already: bool


@dataclass(frozen=True)
class _Part:
    """Some row groups of a file, and where the answers go."""

    models: str
    model: str
    version: int
    where: str
    unit: warehouse.Unit
    columns: tuple[pa.Field, ...]
    keep: tuple[str, ...]
    encoded: bool
    into: str
    schema: tuple[pa.Field, ...]
    number: int


def score_table(
    root: Place,
    model: str,
    table: str,
    into: str,
    *,
    version: int | None = None,
    at: str | None = None,
    keep: Sequence[str] = (),
    runner: Runner,
    run: str | None = None,
) -> Scored:
    """Bring the answers in table `into` up to date with a version of `table` (the newest, or that of `at`).

    `version` is that of the model: by default the one in use, else the newest. `keep` are the columns that stand beside the
    answers: by default the key of the model's features, else all that are no tensors.

    Raises: SpecError for a table that the model cannot read, or answers of another table; CommitConflict; PartFailed.
    """
    run = run or f"score-{secrets.token_hex(6)}"
    if into == table:
        raise SpecError(f"answers of {table!r} cannot go into the same table; name another")
    snapshot = warehouse.open_at(str(root), table, at)
    uri = warehouse.table_uri(str(root), into)
    models = state_folder(root, "_dlflow") / "models"
    held = warehouse.held(
        str(root), table, snapshot.version, holder=f"score:{run}", why=f"scored into {into}"
    )
    with warehouse.lock(str(root), into, wait_s=LOCK_S, run=run), held:
        predictor = open_predictor(models, model, version)
        scoring = _Scoring.of(predictor, snapshot, table, uri, keep)
        done = scoring.carry_out(models, runner, run)
        ledger.record(str(root), into, run=run)
        return done


@dataclass(frozen=True)
class _Scoring:
    """What the answers lack."""

    predictor: Predictor
    snapshot: warehouse.Snapshot
    table: str
    uri: str
    keep: tuple[str, ...]
    encoded: bool
    schema: pa.Schema
    settings: Mapping[str, str]
    base: int | None
    before: warehouse.Manifest | None
    whole: bool

    @staticmethod
    def of(
        predictor: Predictor, snapshot: warehouse.Snapshot, table: str, uri: str, keep: Sequence[str]
    ) -> "_Scoring":
        encoded = encoded_by(predictor, snapshot, table)
        kept = kept_columns(predictor, snapshot.schema, keep)
        schema = pa.schema([*(snapshot.schema.field(name) for name in kept), *predictor.answers])
        settings = {
            "model": f"{predictor.name} {predictor.version}",
            "weights": predictor.digest,
            "recipe": digest(predictor.recipe),
            "table": table,
            "columns": digest([str(field) for field in schema]),
            "form": FORM,
        }
        base, before = warehouse.loaded(uri)
        if warehouse.log.exists(uri) and (before is None or "weights" not in before.settings):
            raise SpecError(
                f"table {place(uri).name!r} is there and holds no answers of a model; choose another name"
            )
        said = None if before is None else {name: before.settings.get(name) for name in settings}
        whole = said != settings or not _untouched(uri, before)
        return _Scoring(predictor, snapshot, table, uri, kept, encoded, schema, settings, base, before, whole)

    def carry_out(self, models: Path, runner: Runner, run: str) -> Scored:
        files = {file.path: file for file in self.snapshot.files()}
        content = digest([dict(self.settings), sorted(files)])
        known = {} if self.before is None or self.whole else {one.path: one for one in self.before.files}
        if not self.whole and known.keys() == files.keys():
            return self._done(warehouse.Snapshot.open(self.uri), 0, 0, already=True)
        gone = [one for path, one in known.items() if path not in files]
        parts = [part for part in self._parts(models) if part.unit[0].path not in known]
        receipts = runner.run(_score, parts, name=f"score-{self.table}", progress=lambda *_: None)
        made: dict[str, list[warehouse.Receipt]] = {path: [] for path in files if path not in known}
        for part, receipt in zip(parts, receipts, strict=True):
            made[part.unit[0].path].append(receipt)
        rows = sum(receipt["rows"] for receipt in receipts)
        key = f"score:{content}"
        manifest = warehouse.Manifest(
            number=1 + (self.before.number if self.before else 0),
            settings={**self.settings, "content": content},
            files=tuple(
                known[path] if path in known else _entry(self.table, files[path], made[path], key)
                for path in files
            ),
        )
        committed = warehouse.load(
            self.uri,
            receipts,
            manifest,
            key=key,
            base=self.base,
            whole=self.whole,
            schema=self.schema,
            lineage=self._lineage(run, content, rows, gone),
            remove=[path for one in gone for path in one.files],
            rows_out=rows,
            operation="score",
        )
        warehouse.prune_manifests(self.uri)
        now = warehouse.Snapshot.open(self.uri, committed.version)
        return self._done(now, rows, sum(one.kept for one in gone), already=committed.already)

    def _parts(self, models: Path) -> list[_Part]:
        """All of the table, numbered in the order of its rows."""
        return [
            _Part(
                str(models),
                self.predictor.name,
                self.predictor.version,
                f"table {self.table!r}, {unit[0].path}",
                (replace(unit[0], stats={}), unit[1]),
                tuple(self.snapshot.schema),
                self.keep,
                self.encoded,
                self.uri,
                tuple(self.schema),
                number,
            )
            for number, unit in enumerate(warehouse.units(self.snapshot))
        ]

    def _lineage(
        self, run: str, content: str, rows: int, gone: Sequence[warehouse.LoadedFile]
    ) -> warehouse.Lineage:
        name = place(self.uri).name
        entry = ledger.Entry(table=name, step="score", rows_in=rows, rows_out=rows)
        ledger.balance([entry])
        read = {"kind": "table", "name": self.table, "path": self.snapshot.uri, "rows": rows}
        used = {
            "kind": "model",
            "name": self.predictor.name,
            "version": self.predictor.version,
            "weights_sha256": self.settings["weights"],
        }
        return warehouse.Lineage(
            run=run,
            fingerprint=content,
            sources=[{**read, "version": self.snapshot.version}, used],
            code=version_of("dlflow"),
            why=[f"answers of model {self.settings['model']} to table {self.table} {self.snapshot.version}"],
            ledger=[one.record() for one in (entry, *unloaded(name, gone))],
            counts={"rows_in": rows, "rows_out": rows},
        )

    def _done(self, now: warehouse.Snapshot, scored: int, removed: int, *, already: bool) -> Scored:
        return Scored(
            model=self.predictor.name,
            model_version=self.predictor.version,
            table=self.table,
            table_version=self.snapshot.version,
            into=place(self.uri).name,
            into_version=now.version,
            rows=now.rows,
            scored=scored,
            removed=removed,
            already=already,
        )


def encoded_by(predictor: Predictor, snapshot: warehouse.Snapshot, table: str) -> bool:
    """Whether the table holds inputs that the model's own recipe has made, rather than the columns it reads.

    Raises: SpecError if it holds neither.
    """
    names = snapshot.schema.names
    if ENCODED in names and not set(predictor.schema.names) <= set(names):
        if fitted_of(snapshot.uri, snapshot.version).get("features") == predictor.recipe:
            return True
        raise SpecError(
            f"table {table!r}: its features were not made by the recipe of model {predictor.name!r} version "
            f"{predictor.version}; score the table that they were made from, or train the model again"
        )
    conform(snapshot.schema.empty_table(), predictor.recipe, where=f"table {table!r}")
    return False


def kept_columns(predictor: Predictor, schema: pa.Schema, asked: Sequence[str]) -> tuple[str, ...]:
    """The columns that stand beside the answers.

    Raises: SpecError for one that is not there, or has the name of an answer.
    """
    if unknown := [name for name in asked if name not in schema.names]:
        raise SpecError(f"there is no column {unknown[0]!r} to keep{did_you_mean(unknown[0], schema.names)}")
    key = [name for name in predictor.recipe["key"] if name in schema.names]
    plain = [field.name for field in schema if not pa.types.is_fixed_size_binary(field.type)]
    chosen = tuple(dict.fromkeys(asked or key or plain))
    if clash := [name for name in chosen if name in predictor.answers.names]:
        raise SpecError(
            f"column {clash[0]!r} has the name of an answer; keep others, or rename it in the table"
        )
    return chosen


def _untouched(uri: str, before: warehouse.Manifest | None) -> bool:
    """Whether the answers are as the last scoring has left them."""
    return before is not None and warehouse.current_fingerprint_is(uri, before.settings["content"])


def _entry(
    table: str, file: warehouse.LiveFile, receipts: Sequence[warehouse.Receipt], key: str
) -> warehouse.LoadedFile:
    return warehouse.LoadedFile(
        source=table,
        path=file.path,
        noted=file.path,
        sha256=file.sha256 or "",
        size=file.bytes,
        mtime_ns=file.modified_ms * 1_000_000,
        batch=key,
        rows=file.rows,
        kept=sum(receipt["rows"] for receipt in receipts),
        quarantined=0,
        files=tuple(receipt["path"] for receipt in receipts),
    )


def _score(part: _Part) -> warehouse.Receipt:
    """Answer the rows of one part, a row group at a time, and write them; runs on a worker."""
    predictor = open_predictor(Path(part.models), part.model, part.version)
    schema, file = pa.schema(part.columns), part.unit[0]
    read = (ENCODED,) if part.encoded else tuple(predictor.schema.names)
    wanted = tuple(dict.fromkeys([*part.keep, *read]))
    made, first = [], 0
    for group in part.unit[1]:
        rows = warehouse.read_unit((file, (group,)), schema, wanted)
        if part.encoded:
            answers = predictor.predict_encoded(rows)
        else:
            answers = predictor.predict(rows.select(read), where=part.where, first=first)
        columns = [*(rows[name] for name in part.keep), *answers.columns]
        made.append(pa.table(columns, schema=pa.schema(part.schema)))
        first += rows.num_rows
    return warehouse.write_file(
        part.into, pa.concat_tables(made), partition={}, schema=pa.schema(part.schema), part=part.number
    )
