"""What a worker that was started without us does to its BLAS: one thread, and as before when the plugin goes."""

import importlib

from distributed import Worker, WorkerPlugin
from threadpoolctl import threadpool_limits

__all__ = ["OneBlasThread"]


class OneBlasThread(WorkerPlugin):
    """Limits BLAS to one thread, on the workers of now and on those that come later."""

    def setup(self, worker: Worker) -> None:
        """Limit it; NumPy is imported first, since a BLAS that is not loaded cannot be limited."""
        del worker
        importlib.import_module("numpy")
        self._limits = threadpool_limits(1, "blas")

    def teardown(self, worker: Worker) -> None:
        """As many threads as before."""
        del worker
        self._limits.restore_original_limits()
