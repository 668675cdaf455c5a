"""The packs of one pass on a Dask cluster: which are under way, what comes of them, and what is left when it ends.

The only file of pipelines that knows Dask's functions. A pack travels as bytes, so the scheduler, which unpacks what it
is sent, has nothing to unpack; a function that a worker lacks is then an error of its task, and no silence.
"""

import functools
import queue
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipelines.access import carried
from pipelines.errors import PartFailed
from pipelines.failures import FINAL, is_of_the_machine, sentence
from pipelines.memory import give_back
from pipelines.packs import Pack, Packs, each

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Sending", "Tree"]

FAN_IN = 8
FETCH_S = 0.02  # answers that come within it are fetched together: to fetch costs what a task costs
LOOK_S = 2.0  # between looks at how many threads there are
END_S = 2.0  # for tasks to end by themselves after an interrupt, before their workers are ended
ANSWER_S = 5.0  # for workers to say what they do
MUCH = 0.4  # of a worker's limit of memory


class Sending:
    """The tasks of one pass. Whatever ends the block, Ctrl-C included: what is queued is dropped, what is done is forgotten."""

    def __init__(self, client: "Client", *, name: str, deadline_s: float, outlives: bool) -> None:
        self.client, self.name, self.outlives = client, name, outlives
        self.deadline_s, self.deadline = deadline_s, time.monotonic() + deadline_s
        self.flying: dict[str, Pack] = {}
        self.held: dict[str, Future] = {}  # with those that have ended and are still needed
        self.done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.keys, self.sent = f"{name}-{uuid.uuid4().hex}", 0
        self.threads, self.looked = 1, -LOOK_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if error is not None:
                self.client.cancel(list(self.held.values()), force=True)
                if self.outlives and (not isinstance(error, Exception) or isinstance(error, TimeoutError)):
                    self._end_running()
        finally:
            self.release(*self.held.values())

    def answers(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Pack, list[Any]]]:
        """Every pack with the answers of its parts, as they come."""
        for ended in self._ended(fn, items, None):
            futures = [future for _, future in ended]
            try:
                found = self.client.sync(self._gathered, futures, callback_timeout=self._left())
            except Exception:
                if all(future.status == "finished" for future in futures):
                    raise
                for pack, future in ended:  # their workers have died since: looked at again
                    self.flying[future.key] = pack
                    self.done.put(future)
                continue
            self.release(*futures)
            yield from zip((pack for pack, _ in ended), found, strict=True)

    def states(
        self, fn: Callable[[Any], Any], items: Sequence[Any], merge: Callable[[Any, Any], Any]
    ) -> Iterator[tuple[Pack, "Future"]]:
        """Every pack with the merged state of its parts, which stays on its worker."""
        for ended in self._ended(fn, items, merge):
            yield from ended

    def submit(self, fn: Callable[..., Any], *arguments: Any) -> "Future":
        """One more task, before those that wait."""
        future = self.client.submit(fn, *arguments, key=self._key(), pure=False, priority=1)
        self.held[future.key] = future
        return future

    def release(self, *futures: "Future") -> None:
        """These are not needed any more."""
        for future in futures:
            self.held.pop(future.key, None)
            future.release()

    def result(self, future: "Future") -> Any:
        """What a task gives, within the deadline."""
        return future.result(timeout=self._left())

    # ---- what is under way

    def _ended(
        self, fn: Callable[[Any], Any], items: Sequence[Any], merge: Callable[[Any, Any], Any] | None
    ) -> Iterator[list[tuple[Pack, "Future"]]]:
        """Packs that have ended well; what has not is tried again, or raised."""
        packs, fn = Packs(len(items), time.monotonic()), carried(fn)
        self._send(packs, fn, items, merge)
        while self.flying:
            ended = []
            for future in self._batch():
                pack = self.flying.pop(future.key)
                if future.status == "finished":
                    ended.append((pack, future))
                else:
                    self._judge(packs, pack, future)
            packs.ended(sum(len(pack) for pack, _ in ended), time.monotonic())
            self._send(packs, fn, items, merge)
            if ended:
                yield ended

    def _send(self, packs: Packs, fn: Any, items: Sequence[Any], merge: Any) -> None:
        from distributed.protocol.pickle import dumps  # noqa: PLC0415

        if (now := time.monotonic()) > self.looked + LOOK_S:
            with suppress(OSError):  # it does not answer: what is under way will say so
                self.threads = max(1, sum(self.client.nthreads().values()))
            self.looked = now
        found = packs.next(len(self.flying), self.threads)
        if not found:
            return
        letters = [dumps((fn, merge, items[pack.start : pack.stop])) for pack in found]
        firsts = [pack.start for pack in found]
        futures = self.client.map(_work, letters, firsts, key=[self._key() for _ in found], pure=False)
        for pack, future in zip(found, futures, strict=True):
            self.flying[future.key], self.held[future.key] = pack, future
            future.add_done_callback(self.done.put)

    def _batch(self) -> list["Future"]:
        """The tasks that end next, well or not."""
        try:
            batch = [self.done.get(timeout=self._left())]
        except queue.Empty:
            raise PartFailed(
                f"{self.name}: not done within {self.deadline_s:,.0f} s; look at the cluster, then run again to continue"
            ) from None
        until = time.monotonic() + FETCH_S
        with suppress(queue.Empty):
            while len(batch) < len(self.flying):
                batch.append(self.done.get(timeout=max(0.0, until - time.monotonic())))
        return batch

    def _judge(self, packs: Packs, pack: Pack, future: "Future") -> None:
        """Raise what another try cannot mend: an error of the data or of a step, a full disk, one failure too many."""
        if future.status == "error":
            error = future.exception(timeout=60)
        else:
            error = ConnectionError(f"the scheduler has {future.status} it")
        self.release(future)
        if not is_of_the_machine(error):
            raise error
        if type(error).__name__ == "KilledWorker":
            part, last = pack.start, packs.killed(pack)
        else:
            part, last = packs.failed(pack, getattr(error, "part", None))
        if last or getattr(error, "errno", None) in FINAL:
            raise PartFailed(sentence(f"{self.name}, part {part}", error)) from error

    async def _gathered(self, futures: list["Future"]) -> Any:
        return await self.client.gather(futures, asynchronous=True)

    def _key(self) -> str:
        self.sent += 1
        return f"{self.keys}-{self.sent}"

    def _left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    # ---- what is left

    def _end_running(self) -> None:
        """End what still runs of these tasks: Dask cannot, so their workers are started anew, where nothing else is lost with them.

        A task that ends within a moment costs no worker. Dask runs again elsewhere what begins on one in between.
        """
        deadline = time.monotonic() + END_S
        with suppress(
            OSError, RuntimeError
        ):  # the scheduler is gone, or does not answer: there is nothing to ask
            while busy := self._busy(set(self.held)):
                if time.monotonic() > deadline:
                    self.client.restart_workers(busy, timeout=2 * ANSWER_S, raise_for_error=False)
                    return
                time.sleep(0.1)

    def _busy(self, keys: set[str]) -> list[str]:
        """Workers that run one of these tasks, run and hold nothing else, and have a nanny that starts them again."""

        async def asked() -> Any:
            return await self.client.run(_at_work, on_error="ignore")

        found = self.client.sync(asked, callback_timeout=ANSWER_S)
        return [
            address
            for address, (running, held, nanny) in found.items()
            if nanny and keys & {*running} and keys >= {*running, *held}
        ]


class Tree:
    """States that are merged eight by eight as they come, neighbours with neighbours, so that few are held."""

    def __init__(self, sending: Sending, merge: Callable[[Any, Any], Any]) -> None:
        self.sending, self.merge = sending, merge
        self.waiting: dict[int, tuple[int, Future]] = {}  # by first part: those before it are not there yet
        self.next = 0
        self.levels: list[list[Future]] = []

    def add(self, pack: Pack, state: "Future") -> None:
        """The state of a pack."""
        self.waiting[pack.start] = (pack.stop, state)
        while self.next in self.waiting:
            self.next, state = self.waiting.pop(self.next)
            self._put(0, state)

    def root(self) -> Any:
        """All in one."""
        rest = [state for level in reversed(self.levels) for state in level]
        return self.sending.result(rest[0] if len(rest) == 1 else self._merged(rest))

    def _put(self, height: int, state: "Future") -> None:
        if height == len(self.levels):
            self.levels.append([])
        level = self.levels[height]
        level.append(state)
        if len(level) == FAN_IN:
            self.levels[height] = []
            self._put(height + 1, self._merged(level))

    def _merged(self, states: list["Future"]) -> "Future":
        node = self.sending.submit(functools.reduce, self.merge, states)
        self.sending.release(*states)
        return node


def _work(letter: bytes, first: int) -> Any:
    """What a worker does with a pack: the answers of its parts, or their merged state."""
    from distributed.protocol.pickle import loads  # noqa: PLC0415

    fn, merge, items = loads(letter)
    answers = each(functools.partial(_lean, fn), items, first)
    return list(answers) if merge is None else functools.reduce(merge, answers)


def _lean(fn: Callable[[Any], Any], item: Any) -> Any:
    """The answer of a part; then a worker that holds much memory gives back what nothing uses any more.

    Arrow and malloc keep what was freed for the next part. Dask counts it as used: it would pause the worker at four
    fifths of its limit, and with no task to end it would stay paused for ever.
    """
    from distributed import get_worker  # noqa: PLC0415

    try:
        return fn(item)
    finally:
        worker = get_worker()
        limit = worker.memory_manager.memory_limit
        if limit and worker.monitor.get_process_memory() > MUCH * limit:
            give_back()


def _at_work(dask_worker: Any = None) -> tuple[list[str], list[str], bool]:
    """What a worker runs, what results it holds, and whether it would be started again."""
    return list(dask_worker.active_keys), list(dask_worker.data), dask_worker.nanny is not None
