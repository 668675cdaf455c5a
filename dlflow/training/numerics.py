"""What the bits of a training depend on beside the job: NumPy, the BLAS kernel and its threads, the processor, the C library.

OpenBLAS picks its kernel by the processor when it is loaded, NumPy picks its own loops likewise, and the sums of a product depend
on how many threads share it. So all ranks must agree, and each computes with one BLAS thread while it trains.
"""

import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dlflow.errors import ModelError

__all__ = ["check_alike", "numerics", "one_blas_thread", "unlike"]

EXACT = ("numpy", "blas", "simd", "machine", "libc")  # facts that all ranks must share


def numerics() -> dict[str, str | int]:
    """Facts of this process as they are now: equal facts, equal bits."""
    import threadpoolctl  # noqa: PLC0415  (0.1 s of looking at loaded libraries)

    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    # another package may bring a BLAS of its own; NumPy's wheel has it beside it, other builds have just one
    bundled = str(Path(np.__file__).parent.parent / "numpy.libs")
    pools = [pool for pool in pools if pool["filepath"].startswith(bundled)] or pools
    names = [
        f"{pool['internal_api']} {pool['version']} {pool.get('architecture', '')}".strip() for pool in pools
    ]
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "numpy": np.__version__,
        "blas": ", ".join(sorted(names)) or "unknown",
        "blas_threads": max((int(pool["num_threads"]) for pool in pools), default=1),
        "simd": " ".join([*simd.get("baseline", []), *simd.get("found", [])]),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
    }


def unlike(facts: dict[str, Any], others: dict[str, Any]) -> str | None:
    """The first of the `numerics` that two processes do not share, so that their bits would differ; None if they are alike."""
    return next((name for name in EXACT if facts[name] != others[name]), None)


def check_alike(facts: dict[str, dict[str, Any]]) -> None:
    """`facts` has the `numerics` of each rank by its address.

    Raises: ModelError if ranks would compute different bits.
    """
    first = next(iter(facts.values()))
    for each in facts.values():
        if name := unlike(first, each):
            listed = "; ".join(f"{address} has {each[name]!r}" for address, each in facts.items())
            raise ModelError(
                f"workers differ in {name!r}, and so in the last bits they compute: {listed}; install the same versions, and set "
                "OPENBLAS_CORETYPE to one kernel before the workers start, or choose workers that are alike"
            )


@contextmanager
def one_blas_thread() -> Iterator[dict[str, str | int]]:
    """BLAS computes with one thread meanwhile; gives the facts, read back. Ranks in one process may overlap."""
    import threadpoolctl  # noqa: PLC0415

    # the keeper's limit is the process's; the inner one is for an OpenMP BLAS, where each thread has its own
    with _keeper.used(), threadpoolctl.threadpool_limits(1, "blas"):
        yield numerics()


class _Keeper:
    """A thread that holds the limit from the first user to the last: threadpoolctl lets only the thread that set it change it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def used(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._thread is None:
                ready, self._done = threading.Event(), threading.Event()
                self._thread = threading.Thread(
                    target=_hold, args=(ready, self._done), name="dlflow-blas", daemon=True
                )
                self._thread.start()
                ready.wait()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users and self._thread is not None:
                    self._done.set()
                    self._thread.join()
                    self._thread = None


def _hold(ready: threading.Event, done: threading.Event) -> None:
    import threadpoolctl  # noqa: PLC0415

    try:
        with threadpoolctl.threadpool_limits(1, "blas"):
            ready.set()
            done.wait()
    finally:
        ready.set()


_keeper = _Keeper()
