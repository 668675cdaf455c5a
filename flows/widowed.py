"""The scheduler's part of a cluster that a run has started: it ends when the run's client has gone."""

from typing import Any

from distributed import SchedulerPlugin

__all__ = ["Widowed"]

_AWAY_S = 60.0  # a client whose network hiccups is back before


class Widowed(SchedulerPlugin):
    """Closes the scheduler, and with it the workers, when no client named dlflow has been there for a minute.

    Who started the cluster ends it, also after a kill -9; this is for the loss of that whole machine.
    """

    name = "dlflow-widowed"

    async def start(self, scheduler: Any) -> None:
        """The scheduler has taken it in."""
        self.scheduler = scheduler

    def remove_client(self, scheduler: Any, client: str) -> None:
        """A client has gone, or its connection is lost."""
        if _ours(client):
            scheduler.loop.call_later(_AWAY_S, self._end)

    async def _end(self) -> None:
        if not any(_ours(client) for client in self.scheduler.clients):
            await self.scheduler.close(reason="the client that started it has gone")


def _ours(client: str) -> bool:
    return client.startswith("Client-dlflow-")  # distributed makes the id of a client from its name
