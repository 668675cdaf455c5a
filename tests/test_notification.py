"""A webhook hears how runs end: a real HTTP server listens."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows import journal
from flows.environment import Notify
from flows.notification import notify


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
