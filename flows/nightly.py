"""The flow that most pipelines are scheduled with: tables, models, gate, release. No `from __future__ import annotations` here."""

import datetime as dt
from functools import partial
from typing import Any

from flows.parameters import Parameters
from flows.pipeline import as_task, carry_out, flow, in_turn
from flows.promotion import promote_passing
from pipelines import warehouse

__all__ = ["nightly"]


@flow(name="dlflow-nightly", flow_run_name="nightly {run.file}")
def nightly(run: Parameters, release: str | None = None) -> Any:
    """Bring tables and models up to date, promote the models that pass their gate, and release the tables.

    `release` names the release; a date in it is written as strftime wants it: "nightly_%Y_%m_%d". Without it none is made.
    """
    return in_turn(run, partial(_night, run, release))


def _night(run: Parameters, release: str | None) -> None:
    carry_out(run)
    project = run.project()
    as_task("gate", promote_passing)(run)
    if release is not None:
        name = dt.datetime.now(dt.UTC).strftime(release)
        root = str(project.pipeline.warehouse)
        if name not in {one.name for one in warehouse.releases(root)}:
            note = f"by {project.pipeline.name}"
            as_task("release", warehouse.make_release)(root, name, list(project.pipeline.tables), note=note)
