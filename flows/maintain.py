"""The flow that keeps a warehouse in shape, and closes flow runs that nobody drives any more. No `from __future__ import annotations` here."""

from dataclasses import asdict

from prefect.artifacts import create_table_artifact

from flows.parameters import Parameters
from flows.pipeline import as_task, flow
from flows.upkeep import keep_up
from flows.zombies import close_dead
from pipelines.engine import InProcess

__all__ = ["maintain"]


@flow(name="dlflow-maintain", flow_run_name="maintain {run.file}", persist_result=False)
def maintain(run: Parameters, older_than_h: float = 168.0) -> None:
    """Compact, checkpoint and vacuum all tables; runs whose process is gone are marked as crashed."""
    project = run.project()

    def upkeep() -> None:
        done = keep_up(project.pipeline.warehouse, (), InProcess(), sort={}, older_than_h=older_than_h)
        rows = [{name: str(value) for name, value in asdict(one).items()} for one in done]
        create_table_artifact(rows, key="upkeep", description="upkeep")

    as_task("upkeep", upkeep)()
    as_task("zombies", close_dead)(project.state)
