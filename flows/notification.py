"""A webhook hears how a run ended. It is told once, within a few seconds, and its own failure is a warning: the run is what counts."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.environment import Notify

__all__ = ["notify"]

DEADLINE_S = 5.0
KEYS = ("pipeline", "run", "status", "error", "started", "ended", "host", "tables")


def notify(where: Notify, entry: Path, record: Mapping[str, Any]) -> None:
    """Tell the webhook how the run of this journal entry ended, if it wants to know."""
    try:
        told: dict[str, Any] = json.loads(entry.read_text("utf-8"))
    except (OSError, ValueError):
        return
    if where.on == "failed" and told["status"] == "done":
        return
    body = {key: told.get(key) for key in KEYS}
    body["models"] = {model["name"]: model.get("metrics") for model in record.get("models", [])}
    request = urllib.request.Request(  # noqa: S310 - the scheme is checked with the pipeline file
        where.url, json.dumps(body, default=str).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S):  # noqa: S310
            pass
    except (OSError, ValueError) as error:  # not the address: it may be the secret
        reason = getattr(error, "reason", error)
        logging.getLogger("dlflow").warning("the webhook of the run was not told: %s", reason)
