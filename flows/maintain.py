"""The flow that keeps a warehouse in shape, and closes flow runs that nobody drives any more. No `from __future__ import annotations` here."""

from dataclasses import asdict
from functools import partial
from typing import Any

from flows.artifacts import artifacts
from flows.parameters import Parameters
from flows.pipeline import as_task, flow, in_turn
from flows.upkeep import keep_up
from flows.zombies import close_dead
from pipelines.engine import InProcess

__all__ = ["maintain"]


@flow(name="dlflow-maintain", flow_run_name="maintain {run.file}")
def maintain(run: Parameters, older_than_h: float = 168.0) -> Any:
    """Compact, checkpoint and vacuum all tables; runs whose process is gone are marked as crashed."""
    return in_turn(run, partial(_maintain, run, older_than_h))


def _maintain(run: Parameters, older_than_h: float) -> None:
    project = run.project()

    def upkeep() -> None:
        done = keep_up(project.pipeline.warehouse, (), InProcess(), sort={}, older_than_h=older_than_h)
        with artifacts(project.pipeline.name) as shown:
            shown.table("upkeep", [asdict(one) for one in done], "upkeep")

    as_task("upkeep", upkeep)()
    as_task("zombies", close_dead)(project.state)
