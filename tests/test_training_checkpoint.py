"""A checkpoint is whole or not there, and a damaged one is never believed."""

import errno
import os

import numpy as np
import pytest

from dlflow.errors import ModelFileError
from dlflow.training.checkpoint import Checkpoint, Checkpoints, Progress, decode, encode

SIZES = {"parameters": 5, "state": 10}
JOB, OTHER = "a" * 64, "b" * 64


def checkpoint(updates=7, *, epoch=1, best=True, fingerprint=JOB, **progress):
    at = Progress(
        epoch=epoch, updates=updates, loss_sum=0.1 + 0.2, history=[{"epoch": 0, "loss": 1 / 3}], **progress
    )
    w = np.arange(5, dtype=np.float32) + updates
    return Checkpoint(fingerprint, {"numpy": "2"}, at, w, np.ones(10, np.float32), w / 3 if best else None)


def no_warning(why):
    raise AssertionError(why)


@pytest.mark.parametrize("best", [True, False])
def test_what_is_written_is_what_is_read(tmp_path, best):
    store, written = Checkpoints(tmp_path, JOB), checkpoint(best=best)

    store.save(written)
    found = decode(store.newest(**SIZES, warn=no_warning), **SIZES)

    assert found.progress == written.progress
    assert (found.fingerprint, found.numerics) == (JOB, {"numpy": "2"})
    assert found.w.tobytes() == written.w.tobytes()
    assert found.state.tobytes() == written.state.tobytes()
    assert (found.best is None) == (not best)


def test_a_model_without_optimizer_state_has_checkpoints_too(tmp_path):
    empty = np.zeros(0, np.float32)
    made = Checkpoint(JOB, {}, Progress(), np.ones(5, np.float32), empty, None)

    assert decode(encode(made), parameters=5, state=0).state.size == 0


def test_the_newest_is_the_one_with_most_updates_and_two_are_kept(tmp_path):
    store = Checkpoints(tmp_path, JOB)
    for updates, epoch in [(1, 0), (9, 0), (10, 0), (11, 1), (11, 2), (100, 2)]:
        store.save(checkpoint(updates, epoch=epoch))

    found = decode(store.newest(**SIZES, warn=no_warning), **SIZES)

    assert found.progress.updates == 100
    assert len(list(tmp_path.iterdir())) == 2


def test_no_checkpoint_is_no_bytes(tmp_path):
    assert Checkpoints(tmp_path / "nothing", JOB).newest(**SIZES, warn=no_warning) == b""


def test_checkpoints_of_another_job_are_neither_read_nor_removed(tmp_path):
    for updates in range(4):
        Checkpoints(tmp_path, OTHER).save(checkpoint(updates, fingerprint=OTHER))
    store = Checkpoints(tmp_path, JOB)

    assert store.newest(**SIZES, warn=no_warning) == b""
    for updates in range(4):
        store.save(checkpoint(updates))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_job_whose_fingerprint_only_begins_alike_is_another_job(tmp_path):
    near = JOB[:16] + "c" * 48
    Checkpoints(tmp_path, near).save(checkpoint(fingerprint=near))

    with pytest.raises(ModelFileError, match="all 1 checkpoints of this job are damaged"):
        Checkpoints(tmp_path, JOB).newest(**SIZES, warn=lambda why: None)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "grow"])
def test_any_damage_is_seen_and_the_one_before_is_used(tmp_path, harm):
    store = Checkpoints(tmp_path, JOB)
    store.save(checkpoint(1))
    newest = store.save(checkpoint(2))
    whole = newest.read_bytes()
    for place in range(len(whole)):
        bad = bytearray(whole)
        bad[place] ^= 1 << (place % 8)
        newest.write_bytes(
            {"flip": bad, "cut": whole[:place], "empty": b"", "grow": whole + bytes(place + 1)}[harm]
        )
        warnings = []

        found = decode(store.newest(**SIZES, warn=warnings.append), **SIZES)

        assert found.progress.updates == 1
        assert len(warnings) == 1
        assert newest.name in warnings[0]


def test_none_whole_although_some_are_there_is_an_error(tmp_path):
    store = Checkpoints(tmp_path, JOB)
    for updates in (1, 2):
        store.save(checkpoint(updates)).write_bytes(b"damaged")
    warnings = []

    with pytest.raises(
        ModelFileError, match="all 2 checkpoints of this job are damaged; restore one, or remove them"
    ):
        store.newest(**SIZES, warn=warnings.append)

    assert len(warnings) == 2


def test_a_file_too_large_for_the_model_is_not_read(tmp_path):
    store = Checkpoints(tmp_path, JOB)
    path = store.save(checkpoint())
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse
    warnings = []

    with pytest.raises(ModelFileError):
        store.newest(**SIZES, warn=warnings.append)

    assert "more than this model can have" in warnings[0]


@pytest.mark.parametrize("sizes", [{"parameters": 6, "state": 10}, {"parameters": 5, "state": 5}])
def test_a_checkpoint_of_another_model_is_refused(sizes):
    with pytest.raises(ModelFileError, match="expected float32"):
        decode(encode(checkpoint()), **sizes)


def test_a_file_of_a_later_format_says_so(monkeypatch):
    monkeypatch.setattr("dlflow.training.checkpoint.FORMAT", 3)
    later = encode(checkpoint())
    monkeypatch.undo()

    with pytest.raises(ModelFileError, match="of format 3, expected 2"):
        decode(later, **SIZES)


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoints_that_were_there_and_no_other_file(tmp_path, monkeypatch, place):
    store = Checkpoints(tmp_path, JOB)
    store.save(checkpoint(1))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*{"fsync": (os, "fsync", full), "replace": ("pathlib.Path.replace", full)}[place])
    with pytest.raises(ModelFileError, match=r"bytes cannot be written .*No space left.*; make room"):
        store.save(checkpoint(2))
    monkeypatch.undo()

    assert decode(store.newest(**SIZES, warn=no_warning), **SIZES).progress.updates == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ModelFileError, match=r"file/.* cannot be written"):
        Checkpoints(tmp_path / "file", JOB).save(checkpoint())
