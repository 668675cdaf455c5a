"""The flow that brings the tables of a pipeline file up to date. No `from __future__ import annotations` here."""

from flows.parameters import Parameters
from flows.pipeline import carry_out, flow

__all__ = ["build"]


@flow(name="dlflow-build", flow_run_name="build {run.file}", persist_result=False)
def build(run: Parameters) -> None:
    """Tables alone: each is one task, and a rerun takes up what is committed."""
    carry_out(run, "table")
