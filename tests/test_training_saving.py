"""Checkpoints written beside the training: in order, none lost, and errors are heard."""

import pytest

from dlflow.errors import ModelFileError
from dlflow.training.checkpoint import Checkpoint, Checkpoints, Progress, decode
from dlflow.training.saving import Saver
from tests.training_jobs import aligned_vector

SIZES = {"parameters": 5, "state": 0}


def checkpoint(updates):
    return Checkpoint("f" * 64, {}, Progress(updates=updates), aligned_vector(5), aligned_vector(0), None)


def test_the_last_one_saved_is_the_newest_on_disk(tmp_path):
    checkpoints = Checkpoints(tmp_path, "f" * 64)
    saver = Saver(checkpoints)
    for updates in range(5):
        saver.save(checkpoint(updates))
    saver.wait()

    assert [each.progress.updates for each, _ in saver.written()] == [0, 1, 2, 3, 4]
    assert saver.written() == []
    assert checkpoints.updates() == 4
    assert decode(checkpoints.newest(**SIZES, warn=print), **SIZES).progress.updates == 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("ask", [Saver.wait, Saver.written, lambda saver: saver.save(checkpoint(2))])
def test_a_write_that_fails_is_heard_by_whoever_asks_next(tmp_path, ask):
    (tmp_path / "file").write_text("no folder")
    saver = Saver(Checkpoints(tmp_path / "file" / "in", "f" * 64))
    saver.save(checkpoint(1))
    saver._thread.join()

    with pytest.raises(ModelFileError, match="cannot be written"):
        ask(saver)
