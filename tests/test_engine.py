import os
import signal
from pathlib import Path

import numpy as np
import pytest
from distributed import get_worker

from flows.cluster import cluster
from pipelines import task
from pipelines.engine import InProcess, OnDask
from pipelines.errors import InputError, PartFailed
from pipelines.failpoints import failpoint
from pipelines.packs import AHEAD
from tests import cutting

QUIET = {"name": "test", "progress": lambda done, total, answer: None}


def double(number):
    return 2 * number


def fail(item):
    number, place = item
    if number == 3:
        Path(place, f"tried {len(list(Path(place).iterdir()))}").touch()
        raise InputError("row 7 of part 3 is bad")
    return number


def hiccup(place):
    """Fails twice as a disk that comes back would."""
    count = len(list(Path(place).iterdir()))
    if count < 2:
        Path(place, str(count)).touch()
        raise OSError(5, "Input/output error")
    return count


def full_disk(place):
    Path(place, str(len(list(Path(place).iterdir())))).touch()
    raise OSError(28, "No space left on device")


def die_once(place):
    """Kills its worker the first time."""
    try:
        Path(place).touch(exist_ok=False)
    except FileExistsError:
        return "second life"
    os.kill(os.getpid(), signal.SIGKILL)
    return None


def add(left, right):
    return left + right


@pytest.fixture(params=["in process", "on Dask"])
def runner(request, local_cluster):
    return InProcess() if request.param == "in process" else OnDask(local_cluster)


def test_answers_come_in_the_order_of_the_items(runner):
    told = []

    answers = runner.run(
        double, list(range(50)), name="test", progress=lambda done, total, answer: told.append((done, total))
    )

    assert answers == [2 * number for number in range(50)]
    assert told == [(done, 50) for done in range(1, 51)]


def test_a_fold_merges_every_answer_once(runner):
    assert runner.fold(double, list(range(100)), add, **QUIET) == 9900
    assert runner.fold(double, [21], add, **QUIET) == 42


def test_an_error_of_the_data_is_raised_as_itself_and_not_tried_again(runner, tmp_path):
    with pytest.raises(InputError, match="row 7 of part 3"):
        runner.run(fail, [(number, str(tmp_path)) for number in range(8)], **QUIET)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_that_passes_is_tried_again(runner, tmp_path):
    assert runner.run(hiccup, [str(tmp_path)], **QUIET) == [2]


def test_a_full_disk_is_told_at_once_and_not_tried_again(runner, tmp_path):
    with pytest.raises(PartFailed, match="No space left on device"):
        runner.run(full_disk, [str(tmp_path)], **QUIET)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_worker_that_dies_costs_one_task(local_cluster, tmp_path):
    answers = OnDask(local_cluster).run(die_once, [str(tmp_path / "died")], **QUIET)

    assert answers == ["second life"]
    local_cluster.wait_for_workers(2, timeout=60)


@pytest.fixture
def packs(local_cluster, monkeypatch):
    """Parts on workers travel together from the first on that has ended, however slow this machine is."""
    monkeypatch.setattr("pipelines.packs.PACK_S", 60.0)
    return OnDask(local_cluster)


def and_task(number):
    return number, get_worker().get_current_task()


def test_short_parts_travel_together_and_the_scheduler_holds_few_of_them(packs, local_cluster):
    held = []

    def told(done, total, answer):
        if done % 500 == 0:
            held.append(local_cluster.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    answers = packs.run(and_task, range(5000), name="test", progress=told)

    assert [number for number, _ in answers] == list(range(5000))
    assert len({key for _, key in answers}) < 5000 / 20
    assert max(held) <= 2 * (2 * AHEAD)  # under way for two threads, and fetched


def fail_at(item):
    """A logic error, a hiccup, or a full disk in one part, noted each time."""
    number, bad, place, error = item
    if number != bad:
        return [number]
    tried = len(list(Path(place).iterdir()))
    Path(place, str(tried)).touch()
    if isinstance(error, InputError) or tried < 2 or error.errno == 28:
        raise error
    return [number]


def parts_with(error, place, *, bad=300):
    return [(number, bad, str(place), error) for number in range(600)]


def test_an_error_of_the_data_in_a_pack_is_raised_as_itself_and_not_tried_again(packs, tmp_path):
    with pytest.raises(InputError, match="row 7 of part 300"):
        packs.run(fail_at, parts_with(InputError("row 7 of part 300 is bad"), tmp_path), **QUIET)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_in_a_pack_names_the_part_and_is_not_tried_again(packs, tmp_path):
    with pytest.raises(PartFailed, match=r"test, part 300: OSError: .*No space left"):
        packs.run(fail_at, parts_with(OSError(28, "No space left on device"), tmp_path), **QUIET)

    assert len(list(tmp_path.iterdir())) == 1


def test_a_hiccup_in_a_pack_is_tried_again_and_changes_neither_answers_nor_their_order(packs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "fold").mkdir()
    error = OSError(5, "Input/output error")

    answers = packs.run(fail_at, parts_with(error, tmp_path / "run"), **QUIET)
    state = packs.fold(fail_at, parts_with(error, tmp_path / "fold"), add, **QUIET)

    assert answers == [[number] for number in range(600)]
    assert state == list(range(600))
    assert [len(list((tmp_path / name).iterdir())) for name in ("run", "fold")] == [3, 3]


def die_at(item):
    """Part 300 ends its worker: the first time, or always."""
    number, place = item
    if number == 300 and not (place and Path(place).exists()):
        if place:
            Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return [number]


def test_a_worker_that_dies_of_a_pack_changes_neither_answers_nor_their_order(packs, local_cluster, tmp_path):
    assert packs.fold(die_at, [(number, str(tmp_path / "died")) for number in range(600)], add, **QUIET) == [
        *range(600)
    ]
    local_cluster.wait_for_workers(2, timeout=60)


@pytest.mark.chaos
def test_the_part_of_a_pack_that_kills_its_worker_is_blamed_and_not_its_neighbours(packs, local_cluster):
    with pytest.raises(PartFailed, match="test, part 300: the workers that ran it died"):
        packs.run(die_at, [(number, None) for number in range(600)], **QUIET)

    local_cluster.wait_for_workers(2, timeout=60)


KEPT = []


def litter(_):
    """Leaves little, between pieces of memory that it has freed."""
    pieces = []
    for _ in range(25):
        pieces.append(np.ones(1 << 20))
        KEPT.append(np.ones(1000))


def held_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def test_a_worker_gives_back_what_its_tasks_have_freed_before_dask_pauses_it():
    with cluster(workers=1, memory_limit=400 << 20) as client:
        OnDask(client).run(litter, [1], **QUIET)

        assert max(client.run(held_mb).values()) < 0.6 * 400


def kill_always(number):
    """Part 2 ends its worker, every time; the others are innocent."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.chaos
def test_the_part_that_kills_its_worker_is_blamed_and_not_its_neighbours(local_cluster):
    done = []

    with pytest.raises(PartFailed, match="test, part 2: the workers that ran it died"):
        OnDask(local_cluster).run(
            kill_always,
            list(range(6)),
            name="test",
            progress=lambda number, total, answer: done.append(answer),
        )

    assert 2 not in done
    local_cluster.wait_for_workers(2, timeout=60)


def test_what_was_finished_before_a_crash_is_not_done_again(tmp_path, monkeypatch):
    """A full disk ends a build in its second pass; the next one reads no part that was finished, and ends alike."""
    done = []

    def watched(name, which=""):
        done.append((name, which))
        failpoint(name, which)

    def tasks(*places):
        return [which for name, which in done if name in places and which.startswith("orders/")]

    whole = cutting.files(tmp_path / "whole", monkeypatch, InProcess())
    monkeypatch.setattr(task, "failpoint", watched)
    monkeypatch.setenv("DLFLOW_FAILPOINTS", "part.before_write:orders/1/=enospc@4")
    with pytest.raises(PartFailed, match="No space left on device"):
        cutting.files(tmp_path / "again", monkeypatch, InProcess(threads=1))
    finished = tasks("part.before_receipt")
    monkeypatch.delenv("DLFLOW_FAILPOINTS")
    done.clear()

    again = cutting.files(tmp_path / "again", monkeypatch, InProcess())

    assert again == whole
    assert len(finished) > 8
    assert not set(finished) & set(tasks("part.before_read"))
    assert len(tasks("part.before_read")) > 8
