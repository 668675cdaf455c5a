"""A step as a Prefect task: what is tried again, and what of it Prefect keeps. One server for the session."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path

import pytest

from pipelines.errors import CheckFailed, PartFailed

SECRET = "a-word-that-nobody-shall-read"


@pytest.fixture(autouse=True)
def _told(prefect_server):
    """What is on its way to the server has arrived before it ends."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    yield
    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)


def run_step(monkeypatch, do):
    """One step in a flow of its own; its end, and how often it was tried."""
    from flows import pipeline

    monkeypatch.setattr(pipeline, "RETRY_S", (0, 0))
    tried = []

    def step():
        tried.append(None)
        return do(len(tried))

    @pipeline.flow
    def one():
        pipeline.as_task("step", step)()

    return one(return_state=True), len(tried)


def test_what_fails_for_the_machines_sake_is_tried_again(prefect_server, monkeypatch):
    def do(attempt):
        if attempt < 3:
            raise PartFailed("orders, part 3: OSError: the storage hiccuped")

    state, tries = run_step(monkeypatch, do)

    assert state.is_completed()
    assert tries == 3


@pytest.mark.parametrize(
    "error", [CheckFailed("a check failed"), ValueError("a bug"), TimeoutError("it hung")]
)
def test_bad_data_and_bugs_and_what_hung_are_not_tried_again(prefect_server, monkeypatch, error):
    def do(attempt):
        raise error

    state, tries = run_step(monkeypatch, do)

    assert state.is_failed()
    assert tries == 1


def stored():
    """The files that Prefect keeps results in: where this process has read it at its first import, whatever a server was told since."""
    from prefect.settings import get_current_settings

    folder = get_current_settings().results.local_storage_path
    return {path for path in folder.rglob("*") if path.is_file()}


def test_what_a_flow_raised_is_kept_as_a_sentence_and_not_as_a_pickle(prefect_server, monkeypatch):
    before = stored()

    def do(attempt):
        raise CheckFailed("orders: 3 rows are not unique")

    run_step(monkeypatch, do)

    (path,) = stored() - before
    assert json.loads(path.read_text()) == {
        "__exc_type__": "pipelines.errors.CheckFailed",
        "message": "orders: 3 rows are not unique",
    }


def test_prefect_keeps_no_result_and_no_secret(prefect_server, monkeypatch, tmp_path):
    from flows.build import build
    from flows.parameters import Parameters

    data = tmp_path / SECRET
    data.mkdir()
    (data / "t.csv").write_text("id\n1\n")
    (tmp_path / "pipeline.toml").write_text(
        'name = "quiet"\nsources.raw = { kind = "csv", path = "${FOLDER}/t.csv", columns = { id = "int64" } }\n'
        'tables.t = { source = "raw" }\n'
    )
    monkeypatch.setenv("FOLDER", str(data))
    before = stored()

    build(Parameters(file=str(tmp_path / "pipeline.toml"), workers=0))

    assert stored() == before
    with contextlib.closing(sqlite3.connect(Path(os.environ["PREFECT_HOME"], "prefect.db"))) as database:
        kept = "\n".join(
            str(row)
            for table in ("flow_run", "task_run", "log")
            for row in database.execute(f"SELECT * FROM {table}")
        )
    assert str(tmp_path / "pipeline.toml") in kept
    assert SECRET not in kept
