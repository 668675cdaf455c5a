"""Every command of `dlflow`: examples in its help, JSON for programs and nothing else on stdout. A new command has to have both."""

import json
import re

import pytest
from click.testing import CliRunner

from flows.cli import cli
from tests import projects
from tests.conftest import REPOSITORY

WITHOUT_JSON = {
    "demo": "a show for people; `dlflow run --json` in its folder gives the same as data",
    "infer": "its result is TOML, for the pipeline file",
    "serve": "runs until Ctrl-C; `dlflow status --json` says what it does",
    "score-server": "runs until Ctrl-C, and answers in JSON",
}
DATABASE = "sqlite:///out.db"
CALLS = {  # what each prints as JSON, in a project that has been run
    "new": (["fresh", "--rows", "500"], {"folder", "file"}),
    "check": ([], {"file", "problems", "sources", "tables", "models"}),
    "plan": ([], {"pipeline", "tables", "models"}),
    "run": (["--workers", "0", "--no-prefect"], {"run", "tables", "models", "ledger", "report", "seconds"}),
    "tables": ([], None),
    "history": (["orders"], None),
    "checks": ([], None),
    "analyse": (["orders", "--column", "quantity", "--column", "unit_price"], {"correlations"}),
    "sql": (["select count(*) as n from orders"], None),
    "export": (["products", "--to", DATABASE], {"table", "version", "rows", "to"}),
    "quarantine": (["orders"], {"table", "rows"}),
    "evidence": (["customers"], {"table"}),
    "replay": (["products"], {"table"}),
    "changes": (["orders", "--by", "order_id", "--since", "0"], None),
    "restore": (["products", "0"], {"table", "version", "content_of"}),
    "release": (["spring", "--stale"], {"name", "tables"}),
    "releases": ([], None),
    "pins": ([], None),
    "maintain": (["--dry-run"], None),
    "models": ([], None),
    "promote": (["returns", "1"], {"model", "version", "in_use"}),
    "predict": (["returns", "--table", "sales", "--limit", "2"], None),
    "score": (["returns", "--table", "sales", "--into", "scored"], {"into", "rows"}),
    "export-model": (["returns", "--scorer", "returns.pyz"], {"model", "version", "scorer"}),
    "explain": (["returns", "--rows", "50", "--repeats", "1"], None),
    "search": (["returns", "--try", "epochs=1"], None),
    "status": ([], {"pipeline", "runs", "tables", "models", "prefect"}),
    "backfill": (
        ["days.toml", "--from", "2026-01-01", "--to", "2026-01-02", "--dry-run"],
        {"periods", "left"},
    ),
    "certificates": (["tls"], {"authority", "certificate", "key"}),
    "doctor": ([], None),
}
DAYS = """name = "days"
params = { day = "2026-01-01" }
sources.orders = { kind = "csv", path = "days/{day}/*.csv", on_change = "ignore", columns = { id = "int64" } }
tables.orders = { source = "orders", load = "append" }
"""
ELSEWHERE = {"deploy": "needs a Prefect API: tests/test_deployment.py"}


def options(name):
    return {
        option
        for parameter in cli.commands[name].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("name", cli.commands)
def test_a_command_has_examples_that_name_it_and_json(name):
    shown = cli.commands[name].help or ""

    assert re.search(rf"Examples?[^\n]*:\n *.*\bdlflow {name}\b", shown), (
        f"dlflow {name} --help has no examples"
    )
    assert ("--json" in options(name)) != (name in WITHOUT_JSON), (
        f"dlflow {name}: --json, or a reason why not"
    )
    assert name in {*CALLS, *WITHOUT_JSON, *ELSEWHERE}, f"dlflow {name}: say in this file how it is called"


@pytest.mark.parametrize("name", cli.commands)
def test_the_options_in_examples_are_there(name):
    for line in re.findall(r"^ *(dlflow .*)$", cli.commands[name].help or "", re.MULTILINE):
        for command, rest in re.findall(r"dlflow ([a-z-]+)([^|&]*)", line):
            used = set(re.findall(r"(?<= )--[a-z-]+", re.sub(r"(['\"]).*?\1", "", rest)))
            assert used <= {*options(command), "--help"}, line


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A project and its first run, by `dlflow run --json`."""
    folder = projects.make(tmp_path_factory.mktemp("commands") / "shop", rows=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = invoke("run", "--workers", "0", "--no-prefect", "--json")
    (folder / "days.toml").write_text(DAYS)
    return folder, done


@pytest.fixture
def shop(first):
    return first[0]


def invoke(*words):
    return CliRunner().invoke(cli, list(words), catch_exceptions=False)


@pytest.mark.parametrize("name", CALLS)
def test_stdout_is_one_json_value_and_nothing_else(shop, name, monkeypatch):
    monkeypatch.chdir(shop)
    words, keys = CALLS[name]

    done = invoke(name, *words, "--json")

    assert done.exit_code == 0 or name == "doctor", done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, list) if keys is None else keys <= set(value)
    assert "\x1b[" not in done.stdout + done.stderr


def test_progress_of_a_run_is_on_stderr_where_the_result_is_json(first):
    _, done = first

    assert done.exit_code == 0, done.stderr
    value = json.loads(done.stdout)
    assert {table["name"]: table["status"] for table in value["tables"]} == dict.fromkeys(
        projects.TABLES, "built"
    )
    assert value["ledger"]["balanced"]
    assert "✔ balanced" in done.stderr


def test_problems_of_a_file_are_a_list_and_exit_code_2(tmp_path):
    (tmp_path / "pipeline.toml").write_text("nmae = 'x'\n")

    done = invoke("check", str(tmp_path / "pipeline.toml"), "--json")

    assert done.exit_code == 2
    assert "did you mean 'name'" in json.loads(done.stdout)["problems"][0]


def test_the_table_of_exit_codes_is_that_of_the_errors():
    """Every error class of ours with an exit code has one that the document explains."""
    from dlflow import errors as models
    from flows import cluster, server
    from pipelines import errors as tables

    written = {
        int(code)
        for code in re.findall(
            r"^\| (\d+) \|", (REPOSITORY / "docs" / "commands.md").read_text(), re.MULTILINE
        )
    }
    used = {
        found.exit_code
        for module in (tables, models, cluster, server)
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Exception) and hasattr(found, "exit_code")
    }
    assert used | {0, 1, 130, 143} == written
