"""A build that dies at any step of its commits, for any reason, is made good by the next run, once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

A = {"version": 0, "ids": [1, 2], "rejects": [1, 2]}
B = {"version": 1, "ids": [3, 4, 5], "rejects": [3, 4, 5]}


def run(tmp_path, scenario, action, most):
    script = Path(__file__).with_name("commit_builds.py")
    command = [sys.executable, str(script), str(tmp_path), scenario, action, str(most)]
    root = str(script.parents[2])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def check(cases, log):
    assert len(cases) > 20
    for case in cases:
        assert case["rerun"] == 0, (case, log)
        assert case["between"] in (A, B), case
        assert case["after"] == B, case
        assert case["ledger"] == [[0, 4, 2, 2], [1, 6, 3, 3]], case
        assert case["commits"] == [0, 1], case
        assert all(case["clean"].values()), case
        assert case["others"] == ["_delta_log", "data"], case


def hit(cases):
    return {case["setting"].partition("=")[0] for case in cases if case["code"] != 0}


def test_a_build_killed_at_any_step_is_made_good_by_the_next(tmp_path):
    cases, log = run(tmp_path, "same", "kill", most=3)  # the commits of rejects, rows and leftovers

    check(cases, log)
    assert len(hit(cases)) == 9  # all but the link of a new partitioning


@pytest.mark.chaos
@pytest.mark.parametrize(
    ("scenario", "action"),
    [
        ("same", "enospc"),
        ("same", "eio"),
        ("repartition", "kill"),
        ("repartition", "enospc"),
        ("repartition", "eio"),
    ],
)
def test_a_build_failing_at_any_step_in_any_way_is_made_good_by_the_next(tmp_path, scenario, action):
    cases, log = run(tmp_path, scenario, action, most=20)

    check(cases, log)
    if action == "kill":
        assert "commit.before_link" in hit(cases)
