"""Where tasks run: in this process, or on the workers of a Dask cluster. The only file of pipelines with Dask.

Both runners give the same answers, because a task is a pure function of its part and tasks are cut by the input
alone. Futures hold receipts of some kilobytes; sketches are merged on the workers as a tree of fan-in 8.

A failure of the data or of a step is raised at once and never tried again; a failure of the machine (a worker that
died, a file system that hiccuped) is tried again up to three times, on whatever worker is there. A part that kills its
workers takes its neighbours with it: those are run again one by one, and only the part that does it is blamed.
"""

import ctypes
import errno
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.access import carried
from pipelines.errors import PartFailed

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["InProcess", "OnDask", "Progress", "Runner"]

ATTEMPTS = 3
FAN_IN = 8
END_S = 2.0  # for tasks to end by themselves after an interrupt, before their workers are ended
ANSWER_S = 5.0  # for workers to say what they do
MUCH = 0.4  # of a worker's limit of memory
# what a second try cannot mend: a full or read-only disk, a forbidden or missing file
FINAL = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EDQUOT, errno.EFBIG}

Progress = Callable[[int, int, Any], None]
"""`(done, total, answer of the task that just ended)`."""


class Runner(Protocol):
    """Runs a module-level function over many arguments."""

    workers: int

    def run(
        self, fn: Callable[[Any], Any], items: Sequence[Any], *, name: str, progress: Progress
    ) -> list[Any]:
        """`[fn(item) for item in items]`, in the order of the items."""

    def fold(
        self,
        fn: Callable[[Any], Any],
        items: Sequence[Any],
        merge: Callable[[Any, Any], Any],
        *,
        name: str,
        progress: Progress,
    ) -> Any:
        """All answers merged; `merge` gives the same for any order and grouping."""


class InProcess:
    """This process, on as many threads as it has cores: no cluster, no port, the same bytes.

    Arrow and NumPy work without Python's lock, so threads are as good as processes here.
    """

    workers = 0

    def __init__(self, *, threads: int | None = None) -> None:
        self.threads = threads or _cores()

    def run(
        self, fn: Callable[[Any], Any], items: Sequence[Any], *, name: str, progress: Progress
    ) -> list[Any]:
        """In the order of the items."""
        answers = []
        for done, answer in enumerate(self._answers(fn, items, name), 1):
            answers.append(answer)
            progress(done, len(items), answer)
        return answers

    def fold(
        self,
        fn: Callable[[Any], Any],
        items: Sequence[Any],
        merge: Callable[[Any, Any], Any],
        *,
        name: str,
        progress: Progress,
    ) -> Any:
        """In the order of the items; only the merged answer and few others are held."""
        total = None
        for done, answer in enumerate(self._answers(fn, items, name), 1):
            progress(done, len(items), answer)
            total = answer if done == 1 else merge(total, answer)
        return total

    def _answers(self, fn: Callable[[Any], Any], items: Sequence[Any], name: str) -> Iterator[Any]:
        """The answers in the order of the items; a few items ahead, so that finished ones do not pile up."""
        if self.threads == 1 or len(items) < 2:
            for item in items:
                yield self._try(fn, item, name)
            return
        pool = ThreadPoolExecutor(self.threads, f"dlflow-{name}")
        try:
            ahead: deque[Future[Any]] = deque()
            for item in items:
                ahead.append(pool.submit(self._try, fn, item, name))
                if len(ahead) > 4 * self.threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _try(fn: Callable[[Any], Any], item: Any, name: str) -> Any:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return fn(item)
            except OSError as error:
                if error.errno in FINAL or attempt == ATTEMPTS:
                    raise PartFailed(_sentence(name, error)) from error
        raise AssertionError


class OnDask:
    """The workers of a cluster, local or not. One that `outlives` the run has nothing of it running after an interrupt."""

    def __init__(self, client: "Client", *, deadline_s: float = 86_400.0, outlives: bool = False) -> None:
        self.client = client
        self.deadline_s = deadline_s
        self.outlives = outlives
        self.workers = len(client.nthreads())

    def run(
        self, fn: Callable[[Any], Any], items: Sequence[Any], *, name: str, progress: Progress
    ) -> list[Any]:
        """All at once, as workers are free."""
        fn = carried(fn)
        fn = functools.partial(_lean, fn)
        futures = self.client.map(fn, items, key=name, pure=False)
        place = {future.key: number for number, future in enumerate(futures)}
        answers: list[Any] = [None] * len(items)
        with self._released(futures):
            for done, (key, answer) in enumerate(self._as_done(fn, items, futures, place, name), 1):
                answers[place[key]] = answer
                progress(done, len(items), answer)
        return answers

    def fold(
        self,
        fn: Callable[[Any], Any],
        items: Sequence[Any],
        merge: Callable[[Any, Any], Any],
        *,
        name: str,
        progress: Progress,
    ) -> Any:
        """Merged on the workers as a tree, so that no state passes through the client but the last."""
        fn = carried(fn)
        fn = functools.partial(_lean, fn)
        level = self.client.map(fn, items, key=name, pure=False)
        leaves = list(level)
        with self._released(leaves):
            place = {future.key: number for number, future in enumerate(leaves)}
            for done, _ in enumerate(self._as_done(fn, items, leaves, place, name, gather=False), 1):
                progress(done, len(items), None)
            level = leaves
            nodes = []
            while len(level) > 1:
                groups = [level[start : start + FAN_IN] for start in range(0, len(level), FAN_IN)]
                level = [self.client.submit(_merge_all, merge, group, pure=False) for group in groups]
                nodes.extend(level)
            try:
                return level[0].result(timeout=self.deadline_s)
            finally:
                for node in nodes:
                    node.release()

    def _as_done(
        self,
        fn: Callable[[Any], Any],
        items: Sequence[Any],
        futures: list[Any],
        place: dict[str, int],
        name: str,
        *,
        gather: bool = True,
    ) -> Iterator[tuple[str, Any]]:
        from distributed import as_completed  # noqa: PLC0415

        attempts: dict[int, int] = {}
        suspects: list[int] = []
        waiting = as_completed(futures, loop=self.client.loop, raise_errors=False, timeout=self.deadline_s)

        def again(number: int) -> None:
            key = f"{name}-{number}-again-{attempts.get(number, 1)}-{id(futures)}"
            futures[number] = self.client.submit(fn, items[number], key=key, pure=False)
            place[key] = number
            waiting.add(futures[number])

        try:
            for future in waiting:
                number = place[future.key]
                if future.status == "finished":
                    yield future.key, future.result(timeout=self.deadline_s) if gather else None
                elif number not in attempts and _has_killed(future):
                    attempts[number] = (
                        ATTEMPTS  # or its neighbour has killed them: that shows when it runs alone
                    )
                    suspects.append(number)
                else:
                    attempts[number] = attempts.get(number, 1) + 1
                    _raise_final(future, f"{name}, part {number}", attempts[number])
                    again(number)
                if suspects and waiting.is_empty():
                    again(suspects.pop(0))
        except TimeoutError as error:
            if type(error) is not TimeoutError:  # not ours: whoever called has a deadline too
                raise
            raise PartFailed(
                f"{name}: not done within {self.deadline_s:,.0f} s; look at the cluster, then run again to continue"
            ) from error

    @contextmanager
    def _released(self, futures: list[Any]) -> Iterator[None]:
        """Whatever ends the block, Ctrl-C included: what is queued is dropped, what is done is forgotten."""
        try:
            yield
        except BaseException as error:
            self.client.cancel(futures, force=True)
            if self.outlives and (not isinstance(error, Exception) or isinstance(error, TimeoutError)):
                self._end_running({future.key for future in futures})
            raise
        finally:
            for future in futures:
                future.release()

    def _end_running(self, keys: set[str]) -> None:
        """End what still runs of these tasks: Dask cannot, so their workers are started anew, where nothing else is lost with them.

        A task that ends within a moment costs no worker. Dask runs again elsewhere what begins on one in between.
        """
        deadline = time.monotonic() + END_S
        with suppress(
            OSError, RuntimeError
        ):  # the scheduler is gone, or does not answer: there is nothing to ask
            while busy := self._busy(keys):
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


def _lean(fn: Callable[[Any], Any], item: Any) -> Any:
    """The answer of a task; then a worker that holds much memory gives back what nothing uses any more.

    Arrow and malloc keep what was freed for the next task. Dask counts it as used: it would pause the worker at four
    fifths of its limit, and with no task to end it would stay paused for ever.
    """
    from distributed import get_worker  # noqa: PLC0415

    try:
        return fn(item)
    finally:
        worker = get_worker()
        limit = worker.memory_manager.memory_limit
        if limit and worker.monitor.get_process_memory() > MUCH * limit:
            import pyarrow as pa  # noqa: PLC0415

            pa.default_memory_pool().release_unused()
            with suppress(AttributeError, OSError):  # another C library than glibc
                ctypes.CDLL(None).malloc_trim(0)


def _cores() -> int:
    """Cores that this process may use; more than 8 threads of one process would wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def _has_killed(future: Any) -> bool:
    """Whether workers died on which the task was, running or waiting for its turn."""
    return future.status == "error" and type(future.exception(timeout=60)).__name__ == "KilledWorker"


def _raise_final(future: Any, name: str, attempt: int) -> None:
    """Raise what another try cannot mend: an error of the data or of a step, a full disk, one failure too many."""
    if future.status == "error":
        error = future.exception(timeout=60)
    else:
        error = ConnectionError(f"the scheduler has {future.status} it")
    if not _is_of_the_machine(error):
        raise error
    if getattr(error, "errno", None) in FINAL or attempt > ATTEMPTS:
        raise PartFailed(_sentence(name, error)) from error


def _at_work(dask_worker: Any = None) -> tuple[list[str], list[str], bool]:
    """What a worker runs, what results it holds, and whether it would be started again."""
    return list(dask_worker.active_keys), list(dask_worker.data), dask_worker.nanny is not None


def _merge_all(merge: Callable[[Any, Any], Any], states: list[Any]) -> Any:
    total = states[0]
    for state in states[1:]:
        total = merge(total, state)
    return total


def _is_of_the_machine(error: BaseException) -> bool:
    return isinstance(error, OSError) or type(error).__name__ in {
        "KilledWorker",
        "CommClosedError",
        "FutureCancelledError",
        "CancelledError",
        "NoValidWorkerError",
    }


def _sentence(name: str, error: BaseException) -> str:
    if type(error).__name__ == "KilledWorker":
        return (
            f"{name}: the workers that ran it died ({error}); most often they had too little memory: "
            f"give each worker more (fewer workers), or read smaller parts (part_bytes)"
        )
    return f"{name}: {type(error).__name__}: {error}; finished parts are kept, run again to continue"
