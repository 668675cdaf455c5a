"""Schedules on a real Prefect server with a real worker: runs fire, do the work on a TLS cluster, and what dies is closed."""

import json
import os
import signal
import subprocess

import pytest

from flows import journal, server
from flows.project import open_project
from pipelines.warehouse import Snapshot
from tests import projects
from tests.scheduling import PYTHON, end_group, ended, prefect_worker, wait_until
from tests.test_scheduler import tls_cluster  # noqa: F401


@pytest.fixture
def prefect(tmp_path, monkeypatch):
    """The environment of a server that schedules, and what it is called with."""
    with server.temporary_server(tmp_path / "prefect", scheduling=True) as own:
        environment = {**own.settings, "PREFECT_API_URL": own.wait()}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield environment


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_schedule_fires_and_runs_on_a_tls_cluster_of_separate_processes(tmp_path, prefect, tls_cluster):  # noqa: F811
    address, files = tls_cluster
    shop = projects.make(tmp_path / "shop")
    made = projects.command(
        shop,
        "deploy",
        "--every",
        "20",
        "--release",
        "nightly_%Y_%m_%d",
        "--scheduler",
        address,
        "--tls",
        *files,
    )
    assert made.stdout == "dlflow-nightly/orders: every 20 s, in work pool dlflow\n", made.stderr

    worker = prefect_worker(tmp_path, prefect)
    try:
        runs = wait_until(lambda: len(ended(shop)) >= 2 and ended(shop), "two runs", 300)
    finally:
        end_group(worker)

    assert [run.status for run in runs] == ["done"] * len(runs), (tmp_path / "worker.log").read_text()[-3000:]
    assert set(runs[-1].tables) == set(projects.TABLES)
    assert runs[-2].tables == {}  # nothing had changed
    assert runs[-1].flow_run
    status = json.loads(projects.command(shop, "status", "--json").stdout)
    assert [(one["model"], one["newest"], one["in_use"]) for one in status["models"]] == [("returns", 1, 1)]
    (deployment,) = status["prefect"]["deployments"]
    assert deployment["schedules"] == ["every 0:00:20"]
    assert deployment["next"]
    assert projects.command(shop, "releases").stdout.count("nightly_") == 1
    alone = projects.make(tmp_path / "alone")
    projects.run(alone)
    assert projects.content(shop, "features") == projects.content(alone, "features")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_flights_pipeline_is_run_by_a_schedule_on_a_tls_cluster(tmp_path, prefect, tls_cluster, data_dir):  # noqa: F811
    data = data_dir / "nycflights13"
    if not data.is_dir():
        pytest.skip(f"no real data at {data}; set DLFLOW_DATA to the folder of data sets")
    address, files = tls_cluster
    folder = tmp_path / "flights"
    folder.mkdir()
    text = (projects.REPOSITORY / "flows" / "gallery" / "flights" / "pipeline.toml").read_text("utf-8")
    assert "\nepochs = 12\n" in text  # two are enough to see it learn
    (folder / "pipeline.toml").write_text(text.replace("\nepochs = 12\n", "\nepochs = 2\n"), "utf-8")
    made = projects.command(
        folder, "deploy", "--cron", "* * * * *", "--set", f"data={data}", "--scheduler", address, "--tls", *files
    )  # fmt: skip
    assert made.stdout == "dlflow-nightly/flights: * * * * *, in work pool dlflow\n", made.stderr

    worker = prefect_worker(tmp_path, prefect)
    try:
        run = wait_until(lambda: ended(folder), "a run", 480)[-1]
    finally:
        end_group(worker)

    assert run.status == "done", (tmp_path / "worker.log").read_text()[-3000:]
    root = folder / "warehouse"
    rows = {
        name: Snapshot.open(str(root / name)).rows
        for name in ("flights", "weather", "departures", "features")
    }
    assert rows == {"flights": 336_776, "weather": 26_111, "departures": 336_776, "features": 327_346}
    (model,) = json.loads(projects.command(folder, "models", "--json").stdout)
    assert model["model"] == "late"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_rows_are_answered_by_a_schedule_each_once(tmp_path, prefect):
    from prefect.client.orchestration import get_client

    shop = projects.make(tmp_path / "shop", rows=1500)
    projects.run(shop)
    made = projects.command(
        shop, "deploy", "--flow", "score", "--score", "returns", "sales", "expected", "--name", "scores",
        "--every", "10", "--workers", "0",
    )  # fmt: skip
    assert made.stdout == "dlflow-score/scores: every 10 s, in work pool dlflow\n", made.stderr

    def over():
        return [one for one in client.read_flow_runs() if one.state.is_final()]

    worker = prefect_worker(tmp_path, prefect)
    try:
        with get_client(sync_client=True) as client:
            runs = wait_until(lambda: len(over()) >= 2 and over(), "two runs", 240)
    finally:
        end_group(worker)

    assert {one.state.name for one in runs} <= {"Completed", "Skipped"}, (
        tmp_path / "worker.log"
    ).read_text()[-3000:]
    assert runs[0].name == "score returns: sales into expected"
    answers = projects.content(shop, "expected")
    assert len(answers) == len(projects.content(shop, "sales"))
    assert (
        Snapshot.open(str(shop / "warehouse" / "expected")).version == 0
    )  # the second run had nothing to do


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_flows_in_this_process_show_their_steps_and_dead_runs_are_closed(tmp_path, prefect):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    from flows.build import build
    from flows.maintain import maintain
    from flows.parameters import Parameters
    from flows.train import train
    from pipelines.errors import SpecError

    shop = projects.make(tmp_path / "shop", rows=1500)
    run = Parameters(file=str(shop / "pipeline.toml"), workers=0)
    with pytest.raises(
        SpecError, match="is not up to date, and this flow builds no tables; run build or nightly first"
    ):
        train(run)
    build(run)
    train(run)

    state = open_project(shop / "pipeline.toml").state
    trained, built, refused = journal.entries(state)
    assert (refused.status, built.status, trained.status) == ("failed", "done", "done")
    assert set(built.tables) == set(projects.TABLES)
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[built.flow_run]))
        )
        assert {"orders-orders", "orders-sales-ledger", "orders-report"} <= {
            artifact.key for artifact in found
        }
        rows = json.loads(next(one for one in found if one.key == "orders-orders").data)
        assert rows[0]["rows_in"] == rows[0]["rows_out"] + rows[0]["quarantined"] + rows[0]["deduplicated"]
        dead = client.create_flow_run(build, parameters={"run": run.model_dump(mode="json")})
        path = journal.begin(
            state, run="29990101T000000-dead", pipeline="orders", file=shop, driver="prefect"
        )
        journal.note(path, flow_run=str(dead.id), born=0.0)
        maintain(run)
        assert client.read_flow_run(dead.id).state.name == "Crashed"
    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def test_a_deployment_without_an_api_says_what_to_do(tmp_path):
    shop = projects.make(tmp_path / "shop", rows=500)

    said = projects.command(
        shop, "deploy", "--cron", "0 3 * * *", PREFECT_API_URL="", PREFECT_HOME=str(tmp_path)
    )

    assert said.returncode == 3
    assert "no Prefect API is configured" in " ".join(said.stderr.split())
    assert "dlflow serve" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve"], "give a schedule"),
        (["deploy", "--cron", "0 3 * * *", "--every", "5"], "give one of them"),
        (["deploy", "--flow", "build", "--release", "x"], "--release is for --flow nightly"),
        (["deploy", "--scheduler", "tcp://h:1", "--workers", "2"], "leave --workers out"),
        (["deploy", "--release", "nightly-%Y"], "table name 'nightly-"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(tmp_path, arguments, message):
    shop = projects.make(tmp_path / "shop", rows=500)

    said = projects.command(shop, *arguments)

    assert said.returncode == 2
    assert message in " ".join(said.stderr.split())


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_serve_brings_its_own_server_and_ends_with_ctrl_c_and_sigterm(tmp_path, number, code):
    shop = projects.make(tmp_path / "shop", rows=500)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    said = tmp_path / "said"
    with said.open("w") as log:
        process = subprocess.Popen(
            [*PYTHON, "flows.cli", "serve", "--every", "10", "--workers", "0"],
            cwd=shop,
            env={**environment, "PREFECT_HOME": str(tmp_path / "home")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until(lambda: ended(shop), "a run", 150)
        process.send_signal(number)
        ended_with = process.wait(30)
    finally:
        end_group(process)

    assert ended(shop)[-1].status == "done", said.read_text()[-3000:]
    assert ended_with == code
    assert "never awaited" not in said.read_text()
    assert said.read_text().splitlines()[-1] == "stopped; what was committed stays, run again to continue"
