"""What a worker does to its BLAS: one thread, and as before when the plugin goes."""

import importlib
from typing import Any

from distributed import Worker, WorkerPlugin
from threadpoolctl import threadpool_limits

__all__ = ["OneBlasThread"]


class OneBlasThread(WorkerPlugin):
    """Limits the BLAS of a worker to one thread, on workers of today and of tomorrow."""

    def setup(self, worker: Worker) -> None:  # noqa: ARG002  the signature is Dask's
        importlib.import_module("numpy")  # its BLAS cannot be limited before it is loaded
        self._limits = threadpool_limits(1, "blas")

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._limits.restore_original_limits()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
