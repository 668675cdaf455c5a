"""The flow that brings the tables of a pipeline file up to date. No `from __future__ import annotations` here."""

from functools import partial
from typing import Any

from flows.parameters import Parameters
from flows.pipeline import carry_out, flow, in_turn

__all__ = ["build"]


@flow(name="dlflow-build", flow_run_name="build {run.file}")
def build(run: Parameters) -> Any:
    """Tables alone: each is one task, and a rerun takes up what is committed."""
    return in_turn(run, partial(carry_out, run, "table"))
