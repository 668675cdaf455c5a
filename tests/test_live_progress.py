"""What is seen of a training while it runs: at a terminal, as an artifact of a flow run; the log in the Dask dashboard is in test_parallel_gang."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from dlflow.parallel import log
from flows import server
from tests import projects
from tests.test_ui import ask
from tests.training_jobs import job


def test_the_time_that_is_left_is_told_and_lines_of_the_log_are_few(tmp_path, monkeypatch, caplog):
    from dlflow.training import fit, trainer

    monkeypatch.setattr(trainer, "REPORT_S", 0.0)
    events = []
    with caplog.at_level("INFO", logger="distributed.worker.training"):
        fit(job(tmp_path), log.logged(events.append))

    left = [event["eta_s"] for event in events if event["event"] in {"step", "epoch"}]
    assert len(left) == 33 + 3
    assert all(each > 0 for each in left[:-2])
    assert left[-2:] == [0, 0]
    assert len(caplog.messages) == 3  # start, first step, end


def _busy_project(folder):
    shop = projects.make(folder, rows=2000)
    file = shop / "pipeline.toml"
    text, count = re.subn(r"epochs = \d+", "epochs = 150", file.read_text("utf-8"))
    assert count == 1
    file.write_text(re.sub(r"patience = \d+\n", "", text), "utf-8")
    return shop


@pytest.mark.slow
def test_a_terminal_shows_loss_samples_workers_and_the_time_that_is_left(tmp_path):
    shop = _busy_project(tmp_path / "shop")
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS", "LINES"}}
    program = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--workers", "2"],
        cwd=shop, stdin=side, stdout=side, stderr=side, env=env | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    os.close(side)
    written = b""
    with contextlib.suppress(OSError):  # so Linux says that the other side is closed
        while piece := os.read(main, 65536):
            written += piece
    os.close(main)

    assert program.wait(60) == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode())
    shown = re.findall(r"train returns.*?epoch (\d+)/150  loss 0\.\d+.*?samples/s  2 workers +(\S+)", plain)
    assert shown
    assert any(re.fullmatch(r"\d+:\d\d", left) for _, left in shown)


@pytest.mark.slow
def test_the_artifact_of_a_flow_run_says_loss_samples_workers_and_the_time_that_is_left(tmp_path):
    shop = _busy_project(tmp_path / "shop")
    with (
        server.temporary_server(tmp_path / "prefect", scheduling=True) as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        api = own.wait()
        for name, value in {**own.settings, "PREFECT_API_URL": api}.items():
            patch.setenv(name, value)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: api}):
            patch.setattr("flows.artifacts.PROGRESS_S", 0.0)
            projects.run(shop, prefect=True, workers=1)
        found = [
            one for one in ask(f"{api}/artifacts/filter", {}) if one["key"] == "orders-train-returns-progress"
        ]

    assert found
    assert re.fullmatch(
        r"train returns: epoch \d+/150  loss 0\.\d+.*  [\d.]+ k? ?samples/s  1 worker( {2}.* left)?",
        found[0]["description"],
    )
