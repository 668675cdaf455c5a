"""What the supervisor asks of a Dask cluster. Every question has a deadline, and one silent worker holds up no other's answer."""

import asyncio
import queue
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dlflow.errors import GangFailed

__all__ = ["Cluster", "Event"]

Event = dict[str, Any]

LOCK = "dlflow-gang"
ASK_S = 10.0
RELEASE_S = 2.0
FAILURES = (
    OSError,
    TimeoutError,
    RuntimeError,
    asyncio.CancelledError,
)  # of a call to a scheduler that may be gone


class Cluster:
    """A distributed.Client whose questions end."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.lost = False  # the scheduler is gone: no question is worth its deadline any more

    def alive(self) -> list[str]:
        """Addresses of the workers the scheduler knows now, sorted.

        `Client.nthreads`, not `scheduler_info`: a callback overwrites the answer of that one with one that has no workers.
        Raises: GangFailed if the scheduler is gone.
        """
        try:
            return sorted(self._ask(self.client.nthreads, ASK_S))
        except FAILURES as error:
            self.lost = True
            raise GangFailed(
                f"the scheduler {self.address} does not answer ({error!r}); start it again, then run again to resume from the newest checkpoint"
            ) from error

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        workers: Iterable[str],
        seconds: float = ASK_S,
        nanny: bool = False,
    ) -> dict[str, Any]:
        """`function(*args)` out of turn on each worker (or on its nanny): results by address, exceptions among them."""
        addresses = list(workers)

        async def one(address: str) -> Any:
            call = self.client.run(function, *args, workers=[address], nanny=nanny, on_error="return")
            answers = await asyncio.wait_for(call, seconds)
            return answers.get(address, OSError(f"{address} has no answer"))

        async def every() -> list[Any]:
            return await asyncio.gather(*map(one, addresses), return_exceptions=True)

        try:
            return dict(zip(addresses, self._ask(every, seconds + 1), strict=True))
        except FAILURES as error:
            return dict.fromkeys(addresses, error)

    def nannies(self) -> dict[str, str | None]:
        """The nanny of each worker, if it has one."""
        try:
            workers = self._ask(lambda: self.client.scheduler.identity(n_workers=-1), ASK_S)["workers"]
        except FAILURES:
            return {}
        return {address: facts.get("nanny") for address, facts in workers.items()}

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(self.client.scheduler.address)

    @contextmanager
    def events(self, topic: str) -> Iterator["queue.SimpleQueue[Event]"]:
        """What workers log under this topic meanwhile."""
        heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.client.subscribe_topic(topic, lambda event: heard.put(dict(event[1])))
        try:
            yield heard
        finally:
            with suppress(*FAILURES, ValueError):  # the scheduler may be gone
                self.client.unsubscribe_topic(topic)

    @contextmanager
    def exclusive(self, wait_s: float, waiting: Callable[[], None]) -> Iterator[None]:
        """Alone with this cluster: two gangs, each with some of the workers, would wait for each other.

        The lock is freed by the scheduler about 30 s after its holder died.
        Raises: GangFailed if another training holds the cluster for longer than `wait_s`.
        """
        from distributed import Lock  # noqa: PLC0415

        lock = Lock(LOCK, scheduler_rpc=self.client.scheduler, loop=self.client.loop)
        deadline, told = time.monotonic() + wait_s, False
        while not lock.acquire(timeout=0.5):
            if not told:
                waiting()
                told = True
            if time.monotonic() > deadline:
                raise GangFailed(
                    f"another training has held the cluster {self.address} for {wait_s:g} s; wait for it, or end it, then run again"
                )
        try:
            yield
        finally:
            with suppress(*FAILURES):  # the lock is lost with the scheduler, else freed by it
                self._ask(lock.release, RELEASE_S)

    def cancel(self, futures: list[Any]) -> None:
        """Have the scheduler forget these tasks, as far as it can be told."""
        if not self.lost:
            with suppress(*FAILURES):
                self.client.cancel(futures, force=True)

    def _ask(self, call: Callable[[], Awaitable[Any]], seconds: float) -> Any:
        if self.lost:
            raise TimeoutError(f"the scheduler {self.address} is gone")

        async def asked() -> Any:
            return await call()

        return self.client.sync(asked, callback_timeout=seconds)
