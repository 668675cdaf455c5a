"""Checkpoints are written by a thread of their own: training goes on while the disk works."""

import threading
from pathlib import Path

from dlflow.training.checkpoint import Checkpoint, Checkpoints

__all__ = ["Saver"]


class Saver:
    """Writes one checkpoint after the other; none is lost, and none overtakes another."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._thread: threading.Thread | None = None
        self._written: list[tuple[Checkpoint, Path]] = []
        self._error: Exception | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Begin to write it, once the one before is written. Its arrays must not change any more.

        Raises: ModelFileError if the one before could not be written.
        """
        self.wait()
        self._thread = threading.Thread(target=self._save, args=(checkpoint,), name="dlflow-saver")
        self._thread.start()

    def written(self) -> list[tuple[Checkpoint, Path]]:
        """What has been written since this was asked last.

        Raises: ModelFileError if something could not be.
        """
        if self._error:
            raise self._error
        found, self._written = self._written, []
        return found

    def wait(self) -> None:
        """Until all is written.

        Raises: ModelFileError if something could not be.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error

    def _save(self, checkpoint: Checkpoint) -> None:
        try:
            path = self._checkpoints.save(checkpoint)
            self._written = [*self._written, (checkpoint, path)]
        except Exception as error:  # noqa: BLE001  raised where somebody listens
            self._error = error
