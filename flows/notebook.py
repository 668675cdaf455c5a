"""A pipeline file in Python: what the commands do, as values that a notebook shows as tables.

    from flows.notebook import Pipeline

    shop = Pipeline("shop/pipeline.toml", env="prod", data="/mnt/raw")
    shop.plan()                                  # what would run, and why
    shop.run(workers=2)                          # as `dlflow run`
    shop.sql("select month, count(*) from sales group by month").pandas()

Every call does its work before it returns; it may be made where an event loop runs, as in Jupyter.
"""

import datetime as dt
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.predictor import open_predictor
from flows.project import open_project
from flows.promotion import versions_of
from flows.run import plan_facts, run_facts, run_file
from flows.session import Options
from flows.status import status
from flows.terminal import Terminal
from pipelines import warehouse
from pipelines.difference import in_line
from pipelines.recipes import conform

__all__ = ["Pipeline", "Rows", "Run"]

SHOWN = 20


@dataclass(frozen=True)
class Rows:
    """A table as an answer: `arrow` has all of it, a notebook shows its first rows."""

    arrow: pa.Table

    def __len__(self) -> int:
        return self.arrow.num_rows

    def list(self) -> list[dict[str, Any]]:
        """The rows as dicts."""
        return self.arrow.to_pylist()

    def pandas(self) -> Any:
        """The rows as a pandas.DataFrame."""
        return self.arrow.to_pandas()

    def _repr_html_(self) -> str:
        names, rows = self.arrow.column_names, self.arrow.slice(0, SHOWN).to_pylist()
        more = f"<p>{len(self) - SHOWN:,} more rows</p>" if len(self) > SHOWN else ""
        return _html(names, ([row[name] for name in names] for row in rows)) + more


@dataclass(frozen=True)
class Run:
    """What a run has done: `tables` and `models` by name, its `ledger`, and where its `report` is (None: nothing was to do)."""

    run: str | None
    tables: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, Any]]
    ledger: Mapping[str, Any] | None
    report: Path | None
    seconds: float | None

    def _repr_html_(self) -> str:
        if self.run is None:
            return "<p>nothing to do, all up to date</p>"
        keys = (
            "status",
            "version",
            "rows_in",
            "rows_out",
            "quarantined",
            "deduplicated",
            "filtered",
            "seconds",
        )
        made = _html(
            ["table", *keys], ([name, *(one[key] for key in keys)] for name, one in self.tables.items())
        )
        metrics = (
            [name, one["status"], one["model_version"], part, ", ".join(_shown(numbers))]
            for name, one in self.models.items()
            for part, numbers in (one["metrics"] or {}).items()
        )
        trained = _html(["model", "status", "version", "rows", "metrics"], metrics) if self.models else ""
        return f"<p>run {html.escape(self.run)}, {self.seconds} s</p>{made}{trained}<p>report: {html.escape(str(self.report))}</p>"


class Pipeline:
    """A checked pipeline file, with values of [params] to override.

    Raises: SpecError with all problems of the file.
    """

    def __init__(self, file: str | Path = "pipeline.toml", *, env: str | None = None, **params: Any) -> None:
        self.file, self.env, self.params = (
            Path(file),
            env,
            {name: str(value) for name, value in params.items()},
        )
        self._root = self._project().pipeline.warehouse

    def plan(self) -> Rows:
        """What a run would do, and why."""
        facts = plan_facts(self._project())
        tables = [
            {
                "what": "table",
                "name": one["table"],
                "action": one["action"],
                "why": "; ".join(map(in_line, one["why"])),
            }
            for one in facts["tables"]
        ]
        models = [
            {"what": "model", "name": one["model"], "action": one["action"], "why": f"table {one['table']}"}
            for one in facts["models"]
        ]
        return Rows(pa.Table.from_pylist(tables + models))

    def run(
        self,
        *,
        workers: int | None = None,
        scheduler: str | None = None,
        tls: tuple[str, str, str] | None = None,
        prefect: bool | None = False,
        prove: bool = False,
    ) -> Run:
        """Bring tables and models up to date, with the lines of `dlflow run` below the cell.

        `prefect=None` takes a configured Prefect API, `True` starts a server if none is configured.
        Raises: what a step raises; nothing of it is committed then.
        """
        options = Options(workers=workers, scheduler=scheduler, tls=tls, prove=prove)
        record = run_file(
            self.file, self.params, options, prefect=prefect, env=self.env, terminal=Terminal(live=False)
        )
        facts = run_facts(record)
        return Run(
            run=facts["run"],
            tables={one["name"]: one for one in facts["tables"]},
            models={one["name"]: one for one in facts["models"]},
            ledger=facts["ledger"],
            report=facts["report"] and Path(facts["report"]),
            seconds=facts["seconds"],
        )

    def tables(self) -> Rows:
        """The tables that are there."""
        return _rows(asdict(one) for one in warehouse.tables(str(self._root)))

    def table(self, name: str, *, columns: Sequence[str] | None = None, at: str | None = None) -> Rows:
        """All rows of a table, of its newest version or of one (17), a time (2026-01-05) or a release."""
        return Rows(warehouse.open_at(str(self._root), name, at).read(columns))

    def history(self, name: str) -> Rows:
        """The versions of a table: when, who, why."""
        events = warehouse.history(warehouse.open_at(str(self._root), name).uri)
        return _rows({key: value for key, value in asdict(one).items() if key != "record"} for one in events)

    def quarantine(self, name: str) -> Rows:
        """The rows of a table that were set aside, with source, line, rule and text."""
        return Rows(warehouse.read_quarantine(str(self._root / name)))

    def sql(self, query: str, *, at: str | None = None) -> Rows:
        """The answer to a query over the tables."""
        return Rows(warehouse.sql(str(self._root), query, at=at))

    def models(self) -> Rows:
        """Every version of every model, what it reached, and which is in use."""
        return _rows(versions_of(self._project()))

    def predict(
        self, model: str, rows: pa.Table | Sequence[Mapping[str, Any]], *, version: int | None = None
    ) -> Rows:
        """What a model says of rows, which have the columns that its features were made from."""
        predictor = open_predictor(self._root / "_dlflow" / "models", model, version)
        found = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
        return Rows(predictor.predict(conform(found, predictor.recipe, where="rows"), where="rows"))

    def status(self, *, runs: int = 5) -> dict[str, Any]:
        """The last runs, the age of each table, the models in use, what Prefect has scheduled."""
        return status(self._project(), runs=runs)

    def _project(self) -> Any:
        return open_project(self.file, self.params, self.env)


def _rows(found: Iterable[Mapping[str, Any]]) -> Rows:
    """Facts as rows; what is no plain value is text."""
    plain = str | int | float | dt.datetime | None
    return Rows(
        pa.Table.from_pylist(
            [
                {key: value if isinstance(value, plain) else str(value) for key, value in one.items()}
                for one in found
            ]
        )
    )


def _shown(numbers: Mapping[str, Any]) -> list[str]:
    return [f"{key} {value:.4g}" for key, value in numbers.items() if isinstance(value, float)]


def _html(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cells(kind: str, values: Iterable[Any]) -> str:
        shown = (
            f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
            for value in values
        )
        return "".join(f"<{kind}>{html.escape(text)}</{kind}>" for text in shown)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', names)}</tr></thead><tbody>{body}</tbody></table>"
