"""A webhook hears how runs end: a real HTTP server listens."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows import journal, server
from flows.environment import Notify
from flows.notification import notify
from tests import projects
from tests.scheduling import begin, client_of, deployed, end_group, final, prefect_worker, wait_until

SCRIPT = projects.REPOSITORY / "deploy" / "prefect" / "notify.py"


@pytest.fixture
def hook():
    heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def ended(folder, error):
    path = journal.begin(folder, run="r1", pipeline="shop", file=folder / "f", driver="direct")
    journal.end(path, error, {"orders": 4})
    return path


@pytest.mark.parametrize(
    ("on", "error", "told"),
    [
        ("failed", None, 0),
        ("failed", ValueError("no room"), 1),
        ("always", None, 1),
        ("always", ValueError("no"), 1),
    ],
)
def test_the_webhook_is_told_what_it_wants_to_know(hook, tmp_path, on, error, told):
    url, heard = hook
    record = {"models": [{"name": "returns", "metrics": {"test": {"auc": 0.7}}}]}

    notify(Notify(url=url, on=on), ended(tmp_path, error), record)

    assert len(heard) == told
    for body in heard:
        assert body["pipeline"] == "shop"
        assert body["status"] == ("failed" if error else "done")
        assert body["error"] == (str(error) if error else None)
        assert body["tables"] == {"orders": 4}
        assert body["models"] == {"returns": {"test": {"auc": 0.7}}}


def test_a_webhook_that_does_not_answer_is_a_warning_without_its_address(tmp_path, caplog):
    notify(Notify(url="http://127.0.0.1:9/secret", on="always"), ended(tmp_path, None), {})

    assert "the webhook of the run was not told" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_webhook_is_told_of_a_run_that_failed_and_of_no_other(tmp_path, monkeypatch, hook):
    from prefect.states import Crashed

    address, told = hook
    shop = projects.make(tmp_path / "shop", rows=500)
    with server.temporary_server(tmp_path / "prefect", scheduling=True) as own:
        environment = {**own.settings, "PREFECT_API_URL": own.wait()}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for where in ("http://127.0.0.1:9/old", address):  # a second call changes the address
            monkeypatch.setenv("HOOK_URL", where)
            said = subprocess.run(
                [sys.executable, SCRIPT], capture_output=True, text=True, timeout=120, check=False
            )
            assert said.stdout == "dlflow-failed: called when a run with the tag dlflow fails\n", said.stderr
        deployment = deployed(shop, "--workers", "0")
        worker = prefect_worker(tmp_path, environment)
        try:
            with client_of(environment["PREFECT_API_URL"]) as client:
                good = begin(client, deployment)
                assert wait_until(lambda: final(client, good), "the run", 120).is_completed()
                for orders in (shop / "data").glob("orders-*.csv"):
                    orders.unlink()
                bad = begin(client, deployment)
                state = wait_until(lambda: final(client, bad), "the run that fails", 120)
                name = client.read_flow_run(bad).name
                wait_until(lambda: told, "the webhook", 60)
        finally:
            end_group(worker)
        with client_of(environment["PREFECT_API_URL"]) as client:
            dead = begin(client, deployment)
            client.set_flow_run_state(dead, Crashed(message="it died"), force=True)  # as flows.zombies does
            wait_until(lambda: len(told) > 1, "the webhook again", 60)

    assert state.is_failed()
    assert [(one["flow"], one["run"], one["pipeline"], one["state"]) for one in told] == [
        ("dlflow-build", name, "orders", "Failed"),
        ("dlflow-build", told[1]["run"], "orders", "Crashed"),
    ]
    assert told[0]["error"] == state.message
    assert "orders" in told[0]["error"]
