"""The pages that a person looks at, in a real browser: a flow run in the Prefect UI with its steps and artifacts, and the report."""

import json
import re
import urllib.request

import pytest

from flows import server
from tests import projects
from tests.browser import look, needs_browser, visit
from tests.scheduling import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420), needs_browser]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run on a local cluster, as a flow at a server with pages: its folder, address, id and record."""
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
            patch.setattr("flows.artifacts.PROGRESS_S", 0.0)  # as if the steps took long enough for a bar
            record = projects.run(shop, prefect=True, workers=1)
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


def test_a_flow_run_shows_bars_of_its_steps_and_links_to_the_dashboard(ran, tmp_path):
    _, address, run, _ = ran

    found = {
        one["key"]: one for one in ask(f"{address}/api/artifacts/filter", {}) if one["flow_run_id"] == run
    }
    bars = {key: one for key, one in found.items() if one["type"] == "progress"}
    assert {"orders-orders-progress", "orders-train-returns-progress"} <= set(bars)
    assert {one["data"] for one in bars.values()} == {100.0}
    link = found["orders-dask-dashboard"]
    assert re.fullmatch(r"\[Dask dashboard\]\(http://127\.0\.0\.1:\d+/status\)", link["data"])
    bar = bars["orders-orders-progress"]
    assert "100%" in look(f"{address}/v2/artifacts/artifact/{bar['id']}", tmp_path / "bar.png")
    assert "Dask dashboard" in look(f"{address}/v2/artifacts/artifact/{link['id']}", tmp_path / "link.png")


def test_tables_are_assets_whose_events_name_what_they_are_made_of_and_no_page_draws_them(ran, tmp_path):
    _, address, run, _ = ran

    made = "prefect.asset.materialization.succeeded"
    events = wait_until(
        lambda: [
            one
            for one in ask(f"{address}/api/events/filter", {"filter": {"event": {"name": [made]}}})["events"]
            if any(each["prefect.resource.id"] == f"prefect.flow-run.{run}" for each in one["related"])
        ],
        "the events of the tables",
        30,
    )
    before = {
        one["resource"]["prefect.resource.id"]: {
            each["prefect.resource.id"] for each in one["related"] if each["prefect.resource.role"] == "asset"
        }
        for one in events
    }
    assert set(before) == {f"dlflow://orders/{name}" for name in projects.TABLES}
    assert before["dlflow://orders/sales"] == {
        f"dlflow://orders/{name}" for name in ("orders", "customers", "products")
    }
    assert "dlflow://orders/sales" in look(f"{address}/v2/events", tmp_path / "events.png", height=4000)
    with urllib.request.urlopen(f"{address}/api/openapi.json", timeout=30) as answer:  # noqa: S310 - our own address
        paths = json.load(answer)["paths"]
    assert "/artifacts/filter" in paths
    assert [path for path in paths if "asset" in path] == []


def test_the_report_of_the_run_is_whole(ran):
    shop, _, _, record = ran

    page = visit(shop / "report.html")

    assert record["run"] in page.dom
    assert page.console == []
    assert page.fetched == []
