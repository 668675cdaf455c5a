"""The pages that a person looks at, in a real browser: a flow run in the Prefect UI with its steps and artifacts, and the report."""

import json
import urllib.request

import pytest

from flows import server
from tests import projects
from tests.browser import look, needs_browser, visit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420), needs_browser]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run as a flow at a server with pages: its folder, address, id and record."""
    folder = tmp_path_factory.mktemp("ui")
    shop = projects.make(folder / "shop", rows=1500)
    with (
        server.temporary_server(folder / "prefect", scheduling=True, ui=True) as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        api = own.wait()
        for name, value in {**own.settings, "PREFECT_API_URL": api}.items():
            patch.setenv(name, value)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: api}):
            record = projects.run(shop, prefect=True)
        runs = ask(f"{api}/flow_runs/filter", {})
        yield (
            shop,
            api.removesuffix("/api"),
            next(one["id"] for one in runs if one["name"] == record["run"]),
            record,
        )


def ask(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
        return json.load(answer)


def test_a_flow_run_shows_the_steps_of_the_terminal(ran, tmp_path):
    _, address, run, record = ran

    text = look(f"{address}/v2/runs/flow-run/{run}?tab=TaskRuns", tmp_path / "steps.png")

    assert record["run"] in text
    assert [step for step in (*projects.TABLES, "train returns") if step not in text] == []
    assert "Completed" in text
    logs = look(f"{address}/v2/runs/flow-run/{run}?tab=Logs", tmp_path / "logs.png")
    assert "quarantined" in logs
    assert "✔ balanced" in logs


def test_a_flow_run_shows_rows_ledger_quarantine_checks_and_metrics(ran, tmp_path):
    _, address, run, _ = ran

    text = look(f"{address}/v2/runs/flow-run/{run}?tab=Artifacts", tmp_path / "artifacts.png")

    wanted = [
        "orders: rows",
        "orders: ledger, step by step",
        "orders: quarantine, by rule",
        "orders: quality checks",
    ]
    wanted += ["returns: metrics", "ledger of the run", "report"]
    assert [one for one in wanted if one not in text] == []
    (artifact,) = [
        one
        for one in ask(
            f"{address}/api/artifacts/filter", {"artifacts": {"key": {"any_": ["orders-orders-ledger"]}}}
        )
        if one["flow_run_id"] == run
    ]
    text = look(f"{address}/v2/artifacts/artifact/{artifact['id']}", tmp_path / "artifact.png")
    assert "deduplicate order_id" in text
    assert "rows_in" in text


def test_the_report_of_the_run_is_whole(ran):
    shop, _, _, record = ran

    page = visit(shop / "report.html")

    assert record["run"] in page.dom
    assert page.console == []
    assert page.fetched == []
