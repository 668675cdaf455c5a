"""Which checkpoints stay: the newest, and those of the best epochs, also of a training that was interrupted."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import Adam
from dlflow.parallel.testing import ThreadRing, on_every_rank
from dlflow.training import fit, train
from dlflow.training.checkpoint import NAME, load_checkpoint
from tests.training_jobs import job

RESTLESS = {
    "optimizer": Adam(0.3),
    "epochs": 6,
    "checkpoint_s": 1e9,
}  # so that no epoch is better than all before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("best")


def epochs_kept(folder):
    """Of the checkpoints in a folder, by their names."""
    return sorted(
        int(match[2]) - 1 for path in Path(folder).iterdir() if (match := NAME.fullmatch(path.name))
    )


def best_epochs(history, count, name="val_loss"):
    return sorted(range(len(history)), key=lambda epoch: (history[epoch][name], epoch))[:count]


def test_the_best_and_the_newest_checkpoints_stay(folder, tmp_path):
    this = replace(job(folder, **RESTLESS), keep_best=2, keep_last=1, folder=str(tmp_path))

    outcome = fit(this)

    best = best_epochs(outcome.history, 2)
    assert epochs_kept(tmp_path) == sorted({*best, 5})
    found = [load_checkpoint(path) for path in outcome.best_checkpoints]
    assert [each.progress.epoch - 1 for each in found] == best
    assert [each.progress.history[-1]["val_loss"] for each in found] == [
        outcome.history[at]["val_loss"] for at in best
    ]


def test_the_best_checkpoint_has_the_weights_that_early_stopping_ends_with(folder, tmp_path):
    this = replace(job(folder, **RESTLESS), keep_best=1, patience=6, folder=str(tmp_path))

    outcome = fit(this)

    (path,) = outcome.best_checkpoints
    assert hashlib.sha256(load_checkpoint(path).w.tobytes()).hexdigest() == outcome.weights_sha256
    assert load_checkpoint(path).progress.epoch - 1 == outcome.best_epoch


@pytest.mark.parametrize("size", [1, 3])
def test_a_training_that_was_interrupted_ends_with_the_same_best(folder, tmp_path, size):
    whole = fit(replace(job(folder, **RESTLESS), keep_best=2, folder=str(tmp_path / "whole")))
    this = replace(job(folder, **RESTLESS), keep_best=2, checkpoint_steps=3, folder=str(tmp_path / "broken"))

    class Interrupted(Exception):
        pass

    def interrupt(event):
        if event["event"] == "checkpoint" and event["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        on_every_rank(ThreadRing(2), lambda comm: train(this, comm, interrupt))
    outcome = on_every_rank(ThreadRing(size), lambda comm: train(this, comm))[0]

    def kept(outcome):
        return [load_checkpoint(path).progress.updates for path in outcome.best_checkpoints]

    assert kept(outcome) == kept(whole)
    assert len(kept(whole)) == 2


def test_more_is_better_for_an_accuracy(folder, tmp_path):
    this = replace(job(folder, **RESTLESS), keep_best=1, monitor="val_accuracy", folder=str(tmp_path))

    outcome = fit(this)

    most = max(range(6), key=lambda epoch: (outcome.history[epoch]["val_accuracy"], -epoch))
    assert load_checkpoint(outcome.best_checkpoints[0]).progress.epoch - 1 == most


def test_a_checkpoint_that_was_damaged_is_refused(folder, tmp_path):
    (path,) = fit(replace(job(folder, **RESTLESS), keep_best=1, folder=str(tmp_path))).best_checkpoints
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)

    with pytest.raises(ModelFileError, match="its bytes are not those that were written"):
        load_checkpoint(path)


def test_a_number_that_no_epoch_has_is_told(folder, tmp_path):
    with pytest.raises(
        ModelError, match=r"the best checkpoints are those of 'val_los', which no epoch has; .*val_loss"
    ):
        fit(replace(job(folder), keep_best=1, monitor="val_los", folder=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_last": 0}, "keep_last is 0 and keep_best 0, expected at least 1 and 0"),
        ({"keep_best": -1}, "keep_last is 2 and keep_best -1"),
        (
            {"keep_best": 1, "validation": None},
            "keep_best is 1 by 'val_loss' and there are no validation rows",
        ),
    ],
)
def test_settings_that_keep_nothing_are_refused(folder, settings, message):
    with pytest.raises(ModelError, match=message):
        job(folder, **settings)
