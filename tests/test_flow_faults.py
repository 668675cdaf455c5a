"""What goes wrong around a scheduled run: it is cancelled in the UI, hangs, or loses the Prefect server. A real server, worker and TLS cluster."""

from importlib.metadata import version

import psutil
import pytest

from tests import projects
from tests.scheduling import (
    Api,
    as_undisturbed,
    at_work,
    begin,
    client_of,
    deployed,
    end_group,
    ended,
    entries,
    final,
    holding,
    prefect_worker,
    wait_until,
)
from tests.test_scheduler import tls_cluster  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def api(tmp_path, monkeypatch, request):
    """A Prefect server with the settings of this process for it."""
    one = Api(
        tmp_path / "prefect", request.config.cache.mkdir(f"prefect-{version('prefect')}") / "prefect.db"
    )
    for name, value in one.environment.items():
        monkeypatch.setenv(name, value)
    one.start()
    yield one
    one.kill()


def names(shop):
    return {path.name for path in (shop / "warehouse").iterdir() if not path.name.startswith("_")}


def test_a_run_that_is_cancelled_in_the_ui_ends_its_work_and_leaves_no_half_table(tmp_path, api, tls_cluster):  # noqa: F811
    from prefect.states import Cancelling

    address, files = tls_cluster
    shop = holding(tmp_path / "shop")
    deployment = deployed(shop, "--scheduler", address, "--tls", *files)
    worker = prefect_worker(tmp_path, api.environment)
    try:
        with client_of(api.url) as client:
            run = begin(client, deployment)
            wait_until(lambda: at_work(shop), "the step that waits", 120)
            working = [psutil.Process(pid) for pid in at_work(shop)]

            client.set_flow_run_state(run, Cancelling())  # the button "Cancel"
            state = wait_until(lambda: final(client, run), "the end of the run", 60)
            wait_until(lambda: not any(one.is_running() for one in working), "the end of the tasks", 15)

            assert state.is_cancelled(), (tmp_path / "worker.log").read_text()[-3000:]
            assert [one.status for one in entries(shop)] == ["stopped"]
            assert {"products", "customers"} <= names(shop)
            assert not [name for name in names(shop) if name.startswith(("orders", "sales", "features"))]
            (shop / "hold").unlink()
            again = begin(client, deployment)
            state = wait_until(lambda: final(client, again), "the next run", 120)
    finally:
        end_group(worker)

    assert state.is_completed(), (tmp_path / "worker.log").read_text()[-3000:]
    assert as_undisturbed(shop, tmp_path)


def test_a_run_whose_server_dies_is_done_and_the_server_learns_of_it(tmp_path, api):
    shop = holding(tmp_path / "shop")
    deployment = deployed(shop, "--workers", "1")
    worker = prefect_worker(tmp_path, api.environment)
    try:
        with client_of(api.url) as client:
            run = begin(client, deployment)
        wait_until(lambda: at_work(shop), "the step that waits", 120)
        api.kill()
        (shop / "hold").unlink()
        (done,) = wait_until(lambda: ended(shop), "the end of the run", 120)
        assert done.status == "done", done.error
        assert set(done.tables) == set(projects.TABLES)

        api.start()
        with client_of(api.url) as client:
            state = wait_until(lambda: final(client, run), "the end of the run in Prefect", 120)
            again = begin(client, deployment)
            after = wait_until(lambda: final(client, again), "the next run", 120)
    finally:
        end_group(worker)

    assert state.is_completed() or state.is_crashed()
    assert after.is_completed()
    assert entries(shop)[0].tables == {}  # all had been committed
    assert as_undisturbed(shop, tmp_path)


def test_a_run_that_dies_with_its_server_is_closed_by_the_next_one_which_takes_up_its_work(tmp_path, api):
    shop = holding(tmp_path / "shop")
    deployment = deployed(shop, "--workers", "0")
    worker = prefect_worker(tmp_path, api.environment)
    with client_of(api.url) as client:
        run = begin(client, deployment)
    wait_until(lambda: at_work(shop), "the step that waits", 120)
    children = psutil.Process(worker.pid).children(recursive=True)
    for process in (psutil.Process(worker.pid), *children):
        process.kill()
    worker.wait()
    api.kill()
    api.start()
    with client_of(api.url) as client:
        assert client.read_flow_run(run).state.is_running()  # nothing of Prefect closes it
    assert [one.status for one in entries(shop)] == ["died"]
    (shop / "hold").unlink()

    worker = prefect_worker(tmp_path, api.environment)
    try:
        with client_of(api.url) as client:
            again = begin(client, deployment)
            after = wait_until(lambda: final(client, again), "the next run", 120)
            zombie = client.read_flow_run(run).state
    finally:
        end_group(worker)

    assert after.is_completed(), (tmp_path / "worker.log").read_text()[-3000:]
    assert zombie.is_crashed()
    assert "is gone: it died" in zombie.message
    assert set(entries(shop)[0].tables) == {"orders", "sales", "features"}  # the others were committed before
    assert as_undisturbed(shop, tmp_path)


def test_a_step_that_hangs_is_given_up_and_its_work_ends(tmp_path, api, tls_cluster):  # noqa: F811
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.build import build
    from flows.parameters import Parameters

    address, files = tls_cluster
    shop = holding(tmp_path / "shop")
    file = str(shop / "pipeline.toml")

    with (
        temporary_settings({PREFECT_API_URL: api.url}),
        pytest.warns(match="give it deploy/dask/dlflow.yaml"),
    ):
        state = build(
            Parameters(file=file, scheduler=address, tls=tuple(files), step_timeout_s=30), return_state=True
        )

    APILogWorker.drain_all(timeout=10)
    assert state.is_failed()
    assert "timed out after 30.0 second" in state.message
    assert [one.status for one in entries(shop)] == ["failed"]
    assert at_work(shop)
    processes = [psutil.Process(pid) for pid in at_work(shop) if psutil.pid_exists(pid)]
    wait_until(lambda: not any(one.is_running() for one in processes), "the end of the tasks", 15)
    assert not [name for name in names(shop) if name.startswith(("orders", "sales", "features"))]


def test_a_second_run_of_a_deployment_leaves_the_work_to_the_first(tmp_path, api):
    shop = holding(tmp_path / "shop")
    deployment = deployed(shop, "--workers", "0")
    worker = prefect_worker(tmp_path, api.environment)
    try:
        with client_of(api.url) as client:
            first = begin(client, deployment)
            wait_until(lambda: at_work(shop), "the step that waits", 120)
            other = begin(client, deployment)
            second = wait_until(lambda: final(client, other), "the second run", 120)
            (shop / "hold").unlink()
            done = wait_until(lambda: final(client, first), "the first run", 120)
    finally:
        end_group(worker)

    assert (second.name, second.type.value) == ("Skipped", "COMPLETED")
    assert done.name == "Completed"
    assert len(entries(shop)) == 1


def test_a_server_that_is_lost_for_good_takes_history_and_schedules_with_it_and_nothing_else(tmp_path, api):
    from prefect.exceptions import ObjectNotFound

    shop = projects.make(tmp_path / "shop", rows=1500)

    def completed():
        name = deployed(shop, "--workers", "0")
        worker = prefect_worker(tmp_path, api.environment)
        try:
            with client_of(api.url) as client:
                run = begin(client, name)
                state = wait_until(lambda: final(client, run), "the run", 120)
        finally:
            end_group(worker)
        assert state.is_completed(), (tmp_path / "worker.log").read_text()[-3000:]
        return name

    name = completed()
    api.kill()
    for part in api.folder.glob("prefect.db*"):
        part.unlink()
    api.start()
    with client_of(api.url) as client, pytest.raises(ObjectNotFound):
        client.read_deployment_by_name(name)

    assert completed() == name
    after, before = entries(shop)
    assert (set(before.tables), after.tables) == (set(projects.TABLES), {})  # what was committed is taken up
    assert as_undisturbed(shop, tmp_path)
