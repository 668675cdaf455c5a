"""A Prefect server that can be killed and started again at its place, a worker that takes runs, and a pipeline that waits for a sign."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from flows import journal
from flows.project import open_project
from flows.server import _settings
from tests import projects

PYTHON = [sys.executable, "-m"]
HOLD = """import os
import time
from pathlib import Path

def hold(table, *, folder):
    if len(table):
        Path(folder, f"began-{os.getpid()}").touch()
    end = time.monotonic() + 120
    while len(table) and Path(folder, "hold").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return table
"""
STEP = '  { do = "python", function = "wait:hold", takes = ["quantity"], columns = { quantity = "int32" }, params = { folder = "FOLDER" } },\n'


def wait_until(condition, what, deadline_s):
    end = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {deadline_s} s"
        time.sleep(0.5)
    return found


class Api:
    """`prefect server start` on a port of its own."""

    def __init__(self, folder, empty):
        folder.mkdir()
        if empty.exists():  # the database of a server that nobody has used: to make one takes seconds
            shutil.copy(empty, folder)
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {**_settings(folder), "PREFECT_API_URL": self.url}

    def start(self):
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [*PYTHON, "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, "the Prefect server", 120)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=3):  # noqa: S310 - our own address
                return True
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def prefect_worker(folder, environment):
    """`prefect worker start`, in a process group of its own: its runs end with it."""
    with (folder / "worker.log").open("w") as log:
        return subprocess.Popen(
            [*PYTHON, "prefect", "worker", "start", "--pool", "dlflow", "--type", "process"],
            cwd=folder,
            env={**os.environ, **environment, "PREFECT_WORKER_QUERY_SECONDS": "2"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def end_group(process):
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def entries(folder):
    """Runs in the journal, newest first."""
    return journal.entries(open_project(folder / "pipeline.toml").state)


def ended(folder):
    """Runs in the journal that have ended, newest first."""
    return [entry for entry in entries(folder) if entry.status != "running"]


def client_of(url):
    """A client of the Prefect API at this address."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        return get_client(sync_client=True)


def deployed(shop, *options, **environment):
    """Have a pipeline deployed (by default its flow `build`); the full name of the deployment."""
    made = projects.command(shop, "deploy", "--flow", "build", *options, **environment)
    assert made.returncode == 0, made.stderr
    return made.stdout.partition(":")[0]


def begin(client, deployment):
    """Have a run of a deployment made, as the button in the UI does."""
    return client.create_flow_run_from_deployment(client.read_deployment_by_name(deployment).id).id


def final(client, run):
    """The state of a flow run that has ended, else None."""
    state = client.read_flow_run(run).state
    return state if state.is_final() else None


def as_undisturbed(shop, tmp_path):
    """Whether the tables are those of a run that nothing disturbs; it is made in `tmp_path`."""
    alone = projects.make(tmp_path / "alone", rows=1500)
    projects.run(alone)
    return all(projects.content(shop, name) == projects.content(alone, name) for name in projects.TABLES)


def holding(folder, *, rows=1500):
    """A project whose table `orders` is not done before the file `hold` in its folder is gone."""
    shop = projects.make(folder, rows=rows)
    (shop / "wait.py").write_text(HOLD)
    file = shop / "pipeline.toml"
    before = '  { do = "trim", columns = ["channel", "sku"] },\n'
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, before + STEP.replace("FOLDER", str(shop))))
    (shop / "hold").touch()
    return shop


def at_work(shop):
    """Processes that have begun the step that waits."""
    return [int(path.name.removeprefix("began-")) for path in shop.glob("began-*")]
