"""`dlflow doctor`: what it finds, and what it says of what is broken."""

import json

import pytest

from flows import doctor
from flows.doctor import examine
from tests.projects import command


def found(tmp_path, **more):
    return {
        one.what: one
        for one in examine(tmp_path / "pipeline.toml", env=None, scheduler=None, tls=None, **more)
    }


def test_a_machine_that_runs_these_tests_has_nothing_bad(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))

    findings = found(tmp_path)

    assert [one.what for one in findings.values() if one.verdict == "bad"] == []
    assert {
        "machine",
        "BLAS",
        "Python",
        "packages",
        "disk",
        "warehouse",
        "clock of the storage",
        "Prefect",
    } <= set(findings)


def test_versions_that_are_known_to_break_are_named_with_how(tmp_path, monkeypatch):
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata,
        "version",
        lambda name: {"fastapi": "0.163.2", "sqlalchemy": "2.1.9"}.get(name) or real(name),
    )

    findings = {one.what: one for one in doctor._packages()}

    assert findings["fastapi"].verdict == findings["sqlalchemy"].verdict == "bad"
    assert "every Prefect flow run crashes" in findings["fastapi"].found
    assert "schedules silently never fire" in findings["sqlalchemy"].found


def test_a_wrong_pipeline_file_and_a_dead_api_are_bad_and_the_exit_code_is_3(tmp_path):
    (tmp_path / "pipeline.toml").write_text("nmae = 'x'\n")

    said = command(tmp_path, "doctor", "--json", PREFECT_API_URL="http://127.0.0.1:9/api")

    bad = {one["what"]: one for one in json.loads(said.stdout) if one["verdict"] == "bad"}
    assert said.returncode == 3
    assert set(bad) == {"pipeline file", "Prefect"}
    assert "unknown section 'nmae'; did you mean 'name'" in bad["pipeline file"]["found"]
    assert bad["Prefect"]["found"] == "http://127.0.0.1:9/api does not answer"


def test_a_cluster_that_is_not_there_is_bad():
    findings = list(doctor._cluster("tcp://127.0.0.1:9", None, deadline_s=1))

    assert [one.verdict for one in findings] == ["bad"]
    assert "did not answer" in findings[0].found


@pytest.mark.parametrize(
    ("seconds", "verdict", "text"),
    [
        (0.1, "ok", "agrees with this machine"),
        (5, "note", "5.0 s ahead of this machine"),
        (-3, "note", "3.0 s behind this machine"),
    ],
)
def test_clocks_that_differ_are_noted(seconds, verdict, text):
    one = doctor._skew("clock", seconds)

    assert (one.verdict, one.found) == (verdict, text)
