"""What rank 0 tells of a training is in its worker's log: `Client.get_worker_logs`, and the page "logs" of a worker in the Dask dashboard.

    training: epoch 3/10, step 120/400, loss 0.412, 120,345 samples/s, 2 workers, 12 s left

The logger is a child of the worker's own with a level of its own, so a cluster whose logs are silenced (as LocalCluster does with its
terminal) has the lines all the same.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

__all__ = ["logged"]

LOG_S = 5.0  # between two lines of progress: the dashboard keeps 10,000 lines of a worker

Report = Callable[[dict[str, Any]], None]


def logged(report: Report) -> Report:
    """The same report, that writes the log too."""
    logger = logging.getLogger("distributed.worker.training")
    logger.setLevel(logging.INFO)
    told = -math.inf

    def tell(event: dict[str, Any]) -> None:
        nonlocal told
        report(event)
        match event["event"]:
            case "start":
                begins = f"at epoch {event['epoch'] + 1}, step {event['step']}"
                logger.info(
                    "training: %s, %s parameters, begins %s",
                    _workers(event), f"{event['parameters']:,}", begins,
                )  # fmt: skip
            case "step" | "epoch" if time.monotonic() - told >= LOG_S or event.get("finished"):
                told = time.monotonic()
                logger.info("training: %s", progress(event))
            case "warning":
                logger.warning("training: %s", event["why"])

    return tell


def progress(event: dict[str, Any]) -> str:
    """One line of a "step" or "epoch" event."""
    said = [f"epoch {event['epoch'] + 1}/{event['epochs']}"]
    said += [f"step {event['step']}/{event['steps']}"] if "step" in event else []
    said += [f"{name.replace('_', ' ')} {event[name]:.4g}" for name in ("loss", "val_loss") if name in event]
    return ", ".join(
        [*said, f"{event['samples_per_s']:,.0f} samples/s", _workers(event), f"{event['eta_s']:,.0f} s left"]
    )


def _workers(event: dict[str, Any]) -> str:
    return "1 worker" if event["workers"] == 1 else f"{event['workers']} workers"
