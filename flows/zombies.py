"""Flow runs that still read "running" though their process is gone: Prefect alone cannot know, our journal does."""

from pathlib import Path
from uuid import UUID

from flows import journal

__all__ = ["close_dead"]


def close_dead(state: Path) -> list[str]:
    """Mark the flow runs of dead processes as crashed at the configured API; the runs that were."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415
    from prefect.exceptions import ObjectNotFound  # noqa: PLC0415
    from prefect.states import Crashed  # noqa: PLC0415

    closed = []
    with get_client(sync_client=True) as client:
        for entry in journal.entries(state):
            if entry.status != "died" or entry.flow_run is None:
                continue
            try:
                found = client.read_flow_run(UUID(entry.flow_run))
            except (ObjectNotFound, ValueError):  # of another server
                continue
            if found.state is not None and not found.state.is_final():
                message = f"its process {entry.pid} on {entry.host} is gone; what it committed stays, run again to continue"
                client.set_flow_run_state(found.id, Crashed(message=message), force=True)
                closed.append(entry.run)
    return closed
