"""A run that is killed at any moment, and run again, ends in the tables of an undisturbed run: no row lost or doubled."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipelines import failpoints
from tests import projects

# where the driver of a run without a cluster passes, and at which arrival it is the most telling to die there
PLACES = {
    "part.before_read": 3,
    "part.after_read": 6,
    "part.before_write": 4,
    "part.after_write": 5,
    "part.before_receipt": 2,
    "kept.half_written": 2,
    "file.half_written": 2,
    "file.before_sync": 4,
    "evidence.before_commit": 1,
    "evidence.after_commit": 1,
    "quarantine.before_commit": 2,
    "quarantine.after_commit": 2,
    "commit.before_log": 4,
    "commit.before_sync": 3,
    "commit.after_log": 6,
    "ledger.before_commit": 5,
    "ledger.after_commit": 7,
}
FAST = (
    "part.after_write",
    "quarantine.after_commit",
    "commit.before_log",
    "commit.after_log",
    "ledger.after_commit",
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = projects.make(tmp_path_factory.mktemp("undisturbed") / "shop", rows=1500)
    record = projects.run(folder)
    return projects.everything(folder), projects.ledger(folder), record["models"][0]["weights_sha256"]


def assert_as_undisturbed(folder, undisturbed):
    tables, ledger, weights = undisturbed
    again = projects.command(folder, "run", "--workers", "0", "--no-prefect")
    assert again.returncode == 0, again.stderr
    assert projects.everything(folder) == tables
    assert projects.ledger(folder) == ledger
    models = folder / "warehouse" / "_dlflow" / "models" / "returns"
    assert weights in next(models.glob("*/model.json")).read_text()
    assert projects.command(folder, "run").stdout.startswith("dlflow orders: nothing to do")


def running(processes):
    """Those that still do something after a moment; a zombie is a name that nobody has asked for yet."""
    _, alive = psutil.wait_procs(processes, timeout=6)
    return [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def params():
    return [
        pytest.param(name, nth, marks=() if name in FAST else pytest.mark.chaos, id=f"{name}@{nth}")
        for name, nth in PLACES.items()
    ]


def test_every_failpoint_of_a_run_is_tried():
    elsewhere = {  # where columns or rows by key change, files are loaded one by one or removed, or tables leave
        "commit.before_link",
        "rewrite.before_write",
        "vacuum.after_notice",
        "load.after_manifest",
        "export.before_commit",
        "export.after_commit",
    }
    assert set(PLACES) | elsewhere == set(failpoints.NAMES)


@pytest.mark.parametrize(("place", "nth"), params())
def test_a_driver_killed_anywhere_loses_and_doubles_nothing(tmp_path, undisturbed, place, nth):
    folder = projects.make(tmp_path / "shop", rows=1500)

    killed = projects.command(
        folder, "run", "--workers", "0", "--no-prefect", DLFLOW_FAILPOINTS=f"{place}=kill@{nth}"
    )

    assert killed.returncode == -signal.SIGKILL
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.parametrize("place", ["file.half_written", "commit.before_log"])
def test_a_full_disk_is_one_sentence_and_costs_nothing(tmp_path, undisturbed, place):
    folder = projects.make(tmp_path / "shop", rows=1500)

    failed = projects.command(
        folder, "run", "--workers", "0", "--no-prefect", DLFLOW_FAILPOINTS=f"{place}=enospc@3"
    )

    assert failed.returncode == 3
    assert "No space left on device" in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_within_five_seconds_and_leaves_no_process(tmp_path, undisturbed, stop):
    folder = projects.make(tmp_path / "shop", rows=1500)
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--workers", "2", "--no-prefect"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as run:
        next(
            line for line in run.stdout if line.startswith(" products")
        )  # the first table is committed: the run is under way
        children = psutil.Process(run.pid).children(recursive=True)
        started = time.monotonic()
        os.killpg(run.pid, stop)  # as a terminal does: everybody in the group gets it
        said = run.stdout.read()
        code = run.wait(timeout=20)

    assert time.monotonic() - started < 5
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[stop]
    assert "Traceback" not in said, said
    assert not running(children)
    assert_as_undisturbed(folder, undisturbed)


@pytest.mark.chaos
def test_a_driver_killed_at_any_time_of_a_run_on_workers(tmp_path, undisturbed):
    """kill -9 after 1, 1.3, 1.7 ... s, wherever the run is by then, until one run ends by itself."""
    folder = projects.make(tmp_path / "shop", rows=1500)
    delay = 1.0
    while True:
        run = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "run", "--workers", "2", "--no-prefect"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert run.wait(timeout=delay) == 0
            break
        except subprocess.TimeoutExpired:
            children = psutil.Process(run.pid).children(recursive=True)
            run.kill()
            run.wait()
            assert not running(children)
        delay *= 1.3

    assert_as_undisturbed(folder, undisturbed)


def test_two_runs_at_once_make_each_row_once(tmp_path, undisturbed):
    folder = projects.make(tmp_path / "shop", rows=1500)
    command = [sys.executable, "-m", "flows.cli", "run", "--workers", "0", "--no-prefect"]

    runs = [
        subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [run.communicate(timeout=120)[1] for run in runs]

    assert [run.returncode for run in runs] == [0, 0], errors
    assert_as_undisturbed(folder, undisturbed)
