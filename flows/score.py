"""The flow that answers every row of a table by a model, into a table. No `from __future__ import annotations` here."""

from dataclasses import asdict
from typing import Any

from flows.artifacts import artifacts
from flows.parameters import Parameters
from flows.pipeline import as_task, flow, in_turn
from flows.scoring import score_table
from flows.session import runner_of
from pipelines.errors import SpecError

__all__ = ["score"]


@flow(name="dlflow-score", flow_run_name="score {model}: {table} into {into}")
def score(
    run: Parameters, model: str, table: str, into: str, version: int | None = None, keep: tuple[str, ...] = ()
) -> Any:
    """Bring the answers in `into` up to date with the newest version of `table`; a rerun adds nothing.

    `version` is that of the model: by default the one in use, else the newest.
    """
    project = run.project()
    if into in project.pipeline.tables:
        raise SpecError(f"table {into!r} is built by the pipeline file; answers need a table of their own")

    def scoring() -> None:
        with runner_of(run.options(project)) as runner:
            root = project.pipeline.warehouse
            done = score_table(root, model, table, into, version=version, keep=keep, runner=runner)
        with artifacts(project.pipeline.name) as shown:
            shown.table("score", [asdict(done)], f"{model}: {table} into {into}")

    return in_turn(run, as_task("score", scoring))
