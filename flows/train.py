"""The flow that trains the models of a pipeline file on the tables that are there. No `from __future__ import annotations` here."""

from flows.parameters import Parameters
from flows.pipeline import carry_out, flow

__all__ = ["train"]


@flow(name="dlflow-train", flow_run_name="train {run.file}", persist_result=False)
def train(run: Parameters) -> None:
    """Models alone; fails if a table they need is not up to date."""
    carry_out(run, "model")
