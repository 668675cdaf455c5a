"""The writer's lock: one holder, named; gone with its process; never handed to a child. And the check before work."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.errors import CommitConflict, PipelineError
from pipelines.warehouse import lock, preflight

HOLD = """
import sys
from pipelines.warehouse import lock
with lock(sys.argv[1], "t", run="run9"):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_holder_waits_until_its_deadline_and_is_told_who_holds(tmp_path):
    with holder(str(tmp_path)) as process:
        told = rf"pid {process.pid}, host .*, run run9.*waited 0.1 s; wait for it"
        with pytest.raises(CommitConflict, match=told), lock(str(tmp_path), "t", wait_s=0.1):
            pass
        with lock(str(tmp_path), "other"):
            pass
        process.stdin.close()
        process.stdout.close()

    with lock(str(tmp_path), "t"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path):
    with holder(str(tmp_path)) as process:
        process.kill()
        process.wait()
        process.stdin.close()

    with lock(str(tmp_path), "t"):
        pass


def test_a_child_does_not_keep_the_lock(tmp_path):
    with lock(str(tmp_path), "t"):
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    with child, lock(str(tmp_path), "t"):
        child.stdin.close()


def test_the_file_names_the_holder_only_while_it_holds(tmp_path):
    path = Path(tmp_path, "_dlflow/locks/t.lock")

    with lock(str(tmp_path), "t", run="r"):
        assert json.loads(path.read_text())["pid"] == os.getpid()

    assert path.read_text() == ""


def test_an_error_inside_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), lock(str(tmp_path), "t"):
        raise KeyError

    with lock(str(tmp_path), "t"):
        pass


def test_a_warehouse_that_can_be_written_passes_and_keeps_no_trace(tmp_path):
    preflight(str(tmp_path / "a" / "b"))

    assert list(Path(tmp_path, "a", "b").iterdir()) == []


def test_a_file_in_the_place_of_the_warehouse_is_named(tmp_path):
    (tmp_path / "w").write_text("")

    with pytest.raises(PipelineError, match="is a file, expected a folder; move it away"):
        preflight(str(tmp_path / "w" / "x"))


def test_a_full_disk_is_found_before_any_work(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(PipelineError, match="cannot write to the warehouse: only a part of 64 KiB"):
            preflight(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_cannot_be_written_is_found_before_any_work():
    with pytest.raises(PipelineError, match=r"cannot write to the warehouse: .*; .*choose another"):
        preflight("/proc/dlflow")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_found_before_any_work(tmp_path):
    tmp_path.chmod(0o500)

    with pytest.raises(PipelineError, match="not writable for this user"):
        preflight(str(tmp_path / "w"))
