"""Where tasks run: in this process, or on the workers of a Dask cluster.

Both runners give the same answers, because a task is a pure function of its part and tasks are cut by the input
alone. Short parts travel together (pipelines.packs), and a bounded number of packs at a time, so the scheduler holds
some hundred tasks however many parts there are. Futures hold receipts of some kilobytes; sketches are merged on the
workers as a tree of fan-in 8.

A failure of the data or of a step is raised at once and never tried again; a failure of the machine (a worker that
died, a file system that hiccuped) is tried again up to three times, on whatever worker is there. A part that kills its
workers takes its neighbours with it: those are run again one by one, and only the part that does it is blamed.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

from pipelines import memory
from pipelines.errors import PartFailed
from pipelines.failures import ATTEMPTS, FINAL, sentence
from pipelines.sending import Sending, Tree

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["InProcess", "OnDask", "Progress", "Runner"]


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
        memory.keep()

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
                    raise PartFailed(sentence(name, error)) from error
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
        """As workers are free."""
        answers: list[Any] = [None] * len(items)
        done = 0
        with self._sending(name) as sending:
            for pack, found in sending.answers(fn, items):
                answers[pack.start : pack.stop] = found
                for answer in found:
                    done += 1
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
        done = 0
        with self._sending(name) as sending:
            tree = Tree(sending, merge)
            for pack, state in sending.states(fn, items, merge):
                tree.add(pack, state)
                for _ in range(len(pack)):
                    done += 1
                    progress(done, len(items), None)
            return tree.root()

    def _sending(self, name: str) -> Sending:
        return Sending(self.client, name=name, deadline_s=self.deadline_s, outlives=self.outlives)


def _cores() -> int:
    """Cores that this process may use; more than 8 threads of one process would wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)
