"""Flow runs that still read "running" though their process is gone: Prefect alone cannot know, our journal does."""

import logging
from pathlib import Path
from uuid import UUID

import httpx

from flows import journal

__all__ = ["close_dead"]

WORDS = {
    "died": "it died; what it committed stays, run again to continue",
    "done": "its tables and models are done; what came after them is not known",
    "failed": "its steps had failed",
    "stopped": "it had been stopped",
}


def close_dead(state: Path) -> list[str]:
    """Mark the flow runs of processes that are gone as crashed at the configured API; the runs that were.

    An API that does not answer is left alone: the next call does it.
    """
    gone = {
        entry.flow_run: entry
        for entry in reversed(journal.entries(state))
        if entry.flow_run is not None and entry.status != "running" and not journal.alive(entry)
    }
    if not gone:
        return []
    try:
        return _close(gone)
    except httpx.HTTPError as error:
        logging.getLogger("dlflow").warning("flow runs of dead processes are not closed: %s", error)
        return []


def _close(gone: dict[str, journal.Entry]) -> list[str]:
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.client.schemas.filters import (  # noqa: PLC0415
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType  # noqa: PLC0415
    from prefect.states import Crashed  # noqa: PLC0415

    under_way = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    wanted = FlowRunFilter(
        id=FlowRunFilterId(any_=[UUID(name) for name in gone]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=under_way)),
    )
    closed = []
    with get_client(sync_client=True) as client:
        for found in client.read_flow_runs(flow_run_filter=wanted):
            entry = gone[str(found.id)]
            message = f"its process {entry.pid} on {entry.host} is gone: {WORDS[entry.status]}"
            client.set_flow_run_state(found.id, Crashed(message=message), force=True)
            closed.append(entry.run)
    return closed
