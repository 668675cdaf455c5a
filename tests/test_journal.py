"""The journal of runs: what began, how it ended, and what died without a word."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from flows import journal


def begun(folder, run="20260105T000000-abc"):
    return journal.begin(folder, run=run, pipeline="shop", file=folder / "pipeline.toml", driver="direct")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (None, "done", None),
        (ValueError("first line\nsecond"), "failed", "first line"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt"),
    ],
)
def test_a_run_is_remembered_with_its_end(tmp_path, error, status, text):
    path = begun(tmp_path)
    assert [entry.status for entry in journal.entries(tmp_path)] == ["running"]

    journal.note(path, flow_run="f00")
    journal.end(path, error, {"orders": 3})

    (entry,) = journal.entries(tmp_path)
    assert (entry.status, entry.error, entry.flow_run, entry.tables) == (status, text, "f00", {"orders": 3})
    assert entry.started <= entry.ended
    assert entry.pid == os.getpid()


def test_runs_are_listed_newest_first_and_the_oldest_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "KEPT", 3)
    for number in range(5):
        begun(tmp_path, f"2026010{number}T000000-abc")

    assert [entry.run[:8] for entry in journal.entries(tmp_path)] == ["20260104", "20260103", "20260102"]


def test_a_run_whose_process_is_gone_is_told_as_dead(tmp_path):
    program = (
        "import sys; from pathlib import Path; from flows import journal\n"
        "journal.begin(Path(sys.argv[1]), run='r', pipeline='p', file=Path('f'), driver='direct')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)

    assert [entry.status for entry in journal.entries(tmp_path)] == ["died"]


def test_the_number_of_a_process_may_be_anothers_by_now(tmp_path):
    path = begun(tmp_path)
    (entry,) = journal.entries(tmp_path)
    journal.note(path, born=entry.born - 1000)

    assert [entry.status for entry in journal.entries(tmp_path)] == ["died"]


@pytest.mark.parametrize(
    ("started", "status"), [("2999-01-01T00:00:00+00:00", "running"), ("2020-01-01T00:00:00+00:00", "died")]
)
def test_a_run_on_another_machine_is_given_a_day(tmp_path, started, status):
    journal.note(begun(tmp_path), host="elsewhere", started=started)

    assert [entry.status for entry in journal.entries(tmp_path)] == [status]


def test_what_is_no_entry_is_left_out(tmp_path):
    path = begun(tmp_path)
    path.with_name("other.json").write_text("{")
    path.with_name("newer.json").write_text('{"unknown": 1}')

    assert len(journal.entries(tmp_path)) == 1
    assert journal.entries(tmp_path / "nowhere") == []


def test_a_run_that_found_nothing_to_do_is_a_run(tmp_path):
    journal.remember(tmp_path, pipeline="shop", file=tmp_path / "f", driver="direct")

    (entry,) = journal.entries(tmp_path)
    assert (entry.status, entry.tables) == ("done", {})
    assert replace(entry, run="").pipeline == "shop"
