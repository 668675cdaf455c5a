"""The flow that trains the models of a pipeline file on the tables that are there. No `from __future__ import annotations` here."""

from functools import partial
from typing import Any

from flows.parameters import Parameters
from flows.pipeline import carry_out, flow, in_turn

__all__ = ["train"]


@flow(name="dlflow-train", flow_run_name="train {run.file}")
def train(run: Parameters) -> Any:
    """Models alone; fails if a table they need is not up to date."""
    return in_turn(run, partial(carry_out, run, "model"))
