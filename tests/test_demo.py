"""`dlflow demo` as a newcomer meets it."""

import pytest

from tests import projects

ROWS = ("--rows", "6000")


def test_the_demo_shows_the_whole_mission_in_25_calm_lines(tmp_path):
    shown = projects.command(tmp_path, "demo", *ROWS, "--no-prefect", NO_COLOR="1")

    lines = shown.stdout.splitlines()
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 100
    for label in (
        "ingest",
        "clean",
        "integrate",
        "warehouse",
        "ledger",
        "quality",
        "train",
        "evaluate",
        "proof",
        "report",
        "next",
    ):
        assert any(line.startswith(f" {label} ") for line in lines), label
    assert "balanced" in shown.stdout
    assert "identical" in shown.stdout
    assert (tmp_path / "dlflow-demo" / "report.html").stat().st_size > 50_000


@pytest.mark.slow  # two demos; `test_parallel_gang` kills workers in the fast suite
def test_a_killed_worker_changes_nothing_but_the_time(tmp_path):
    for name in (
        "calm",
        "killed",
    ):  # the demo's own project, trained long enough that a worker can die on the way
        folder = projects.make(tmp_path / name)
        file = folder / "pipeline.toml"
        file.write_text(file.read_text().replace("epochs = 5", "epochs = 100"))
        (folder / ".dlflow-demo").touch()

    calm = projects.command(tmp_path, "demo", "--keep", "--no-prefect", "--folder", "calm")
    killed = projects.command(
        tmp_path, "demo", "--keep", "--no-prefect", "--folder", "killed", "--kill-worker"
    )

    proof = next(line for line in calm.stdout.splitlines() if line.startswith(" proof"))
    assert killed.returncode == 0, killed.stderr
    assert "kill -9" in killed.stdout
    assert "was lost" in killed.stdout
    assert (
        next(line for line in killed.stdout.splitlines() if line.startswith(" proof")).split("…")[0]
        == proof.split("…")[0]
    )
    assert len(killed.stdout.splitlines()) <= 25
    assert projects.content(tmp_path / "killed", "features") == projects.content(
        tmp_path / "calm", "features"
    )


def test_the_demo_runs_as_a_prefect_flow_on_a_server_of_its_own(tmp_path):
    shown = projects.command(tmp_path, "demo", *ROWS)

    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    assert len(shown.stdout.splitlines()) <= 25
    assert (tmp_path / "dlflow-demo" / "prefect" / "prefect.db").exists()


def test_a_folder_that_is_not_a_demo_is_not_overwritten(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")

    refused = projects.command(tmp_path, "demo", *ROWS, "--no-prefect", "--folder", "precious")

    assert refused.returncode == 2
    assert "not empty and not a demo" in " ".join(refused.stderr.split())
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "mine"


def test_a_new_project_runs_at_once(tmp_path):
    made = projects.command(tmp_path, "new", "shop", "--rows", "3000")
    checked = projects.command(tmp_path / "shop", "check")
    ran = projects.command(tmp_path / "shop", "run", "--workers", "0")
    again = projects.command(tmp_path, "new", "shop")

    assert made.stdout.splitlines()[-1] == "next: cd shop && dlflow run"
    assert checked.stdout == "pipeline.toml: fine: 3 sources, 5 tables, 1 model\n"
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(
        "driver: direct (no Prefect API is configured; --prefect starts one for the run)\n"
    )
    assert again.returncode == 2


def test_every_command_has_help_and_a_wrong_one_says_what_there_is(tmp_path):
    shown = projects.command(tmp_path, "--help")
    assert shown.stdout.startswith("Usage: dlflow [OPTIONS] COMMAND")
    assert (
        "\n    dlflow demo                 see the whole thing" in shown.stdout
    )  # the lines of the examples stay lines
    assert "..." not in shown.stdout.partition("Commands:")[2]
    for name in ("demo", "run", "check", "plan", "new", "tables", "history", "sql"):
        assert f"  {name} " in shown.stdout
        assert projects.command(tmp_path, name, "--help").returncode == 0

    wrong = projects.command(tmp_path, "rum")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_a_prefect_api_that_does_not_answer_is_told_before_any_work(tmp_path):
    folder = projects.make(tmp_path / "shop")

    told = projects.command(folder, "run", "--workers", "0", PREFECT_API_URL="http://127.0.0.1:9/api")
    without = projects.command(
        folder, "run", "--workers", "0", "--no-prefect", PREFECT_API_URL="http://127.0.0.1:9/api"
    )

    assert told.returncode == 3
    assert "the Prefect API at 'http://127.0.0.1:9/api' does not answer" in " ".join(told.stderr.split())
    assert "dlflow run --no-prefect" in " ".join(told.stderr.split())
    assert without.returncode == 0
