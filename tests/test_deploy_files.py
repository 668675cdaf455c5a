"""What is in deploy/: it parses, fits together, and its very commands run as plain processes."""

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from distributed import Client, Security

from flows.parameters import Parameters
from tests import projects
from tests.scheduling import (
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
    wait_until,
)

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def manifests():
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def test_the_image_runs_as_nobody_special_from_the_hash_pinned_lock():
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()

    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    assert any("--require-hashes -r requirements.lock" in line for line in lines)
    copied = [
        word
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert all((DEPLOY.parent / name).exists() for name in copied)


def test_services_start_in_a_healthy_order_and_nothing_is_open_to_the_world():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[needed], needed
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source.startswith("./") or source in COMPOSE["volumes"], volume
        if service["image"] == "dlflow":
            assert service["read_only"]
            assert service["cap_drop"] == ["ALL"]
    variables = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "docker" / "compose.yaml").read_text()))
    assert variables == set(
        re.findall(r"^(\w+)=$", (DEPLOY / "docker" / "example.env").read_text(), re.MULTILINE)
    )


def test_scheduler_and_workers_speak_tls_wherever_they_run():
    commands = [SERVICES[name]["command"] for name in ("scheduler", "worker")]
    commands += [
        container["args"]
        for _, manifest in manifests()
        if manifest["kind"] == "DaskCluster"
        for part in ("scheduler", "worker")
        for container in manifest["spec"][part]["spec"]["containers"]
    ]
    assert len(commands) == 4
    for command in commands:
        assert any(word.startswith("tls://") for word in command)
        assert {"--tls-ca-file", "--tls-cert", "--tls-key"} <= set(command)
        assert not any(word.startswith("tcp://") for word in command)


def test_manifests_are_complete():
    kinds = {manifest["kind"]: manifest for _, manifest in manifests()}

    assert set(kinds) == {"DaskCluster", "Deployment", "PersistentVolumeClaim"}
    for manifest in kinds.values():
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", manifest["metadata"]["name"])
    pods = [kinds["DaskCluster"]["spec"][part]["spec"] for part in ("scheduler", "worker")]
    pods.append(kinds["Deployment"]["spec"]["template"]["spec"])
    for pod in pods:
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"]["runAsNonRoot"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"]["memory"]
    runner = kinds["Deployment"]["spec"]
    assert runner["selector"]["matchLabels"] == runner["template"]["metadata"]["labels"]
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pods[2]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims == {kinds["PersistentVolumeClaim"]["metadata"]["name"]}
    address = next(
        word
        for word in kinds["DaskCluster"]["spec"]["worker"]["spec"]["containers"][0]["args"]
        if "://" in word
    )
    name = kinds["DaskCluster"]["metadata"]["name"]
    assert address == f"tls://{name}-scheduler.default.svc:8786"
    told = (DEPLOY.parent / "docs" / "deployment.md").read_text()
    # the operator calls the group of a cluster's own workers so
    assert f'scheduler = "{address}", group = "daskworkergroup/{name}-default"' in told


def test_deployments_name_flows_that_take_their_parameters():
    written = yaml.safe_load((DEPLOY / "prefect" / "prefect.yaml").read_text())

    for deployment in written["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), name)
        flow.validate_parameters(deployment["parameters"])
        assert Parameters(**deployment["parameters"]["run"]).env == "prod"


def test_scripts_are_valid():
    for script in [DEPLOY / "slurm" / "dask.sbatch", DEPLOY / "environment.sh"]:
        subprocess.run(["bash", "-n", script], check=True)


@dataclass(frozen=True)
class Site:
    """The services of compose.yaml as plain processes on this machine: same commands, other ports and folders."""

    folder: Path
    api: str
    scheduler: str
    processes: dict
    start: Callable

    @property
    def options(self):
        """What a deployment is told of the cluster."""
        tls = [str(self.folder / "tls" / name) for name in ("ca.pem", "cert.pem", "key.pem")]
        return ["--scheduler", self.scheduler, "--tls", *tls]

    @property
    def environment(self):
        return {"PREFECT_API_URL": self.api, "PREFECT_HOME": str(self.folder / "prefect")}

    def workers(self):
        """How many the scheduler has."""
        ca, cert, key = self.options[-3:]
        security = Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)
        with Client(self.scheduler, security=security, timeout=30) as client:
            return len(client.scheduler_info(n_workers=-1)["workers"])

    @property
    def said(self):
        return (self.folder / "runner.log").read_text()[-3000:]


@pytest.fixture
def site(tmp_path, postgres, database):
    """All services, healthy."""
    ports = {}
    for service in ("prefect", "scheduler"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports[service] = free.getsockname()[1]
    made = subprocess.run(
        [sys.executable, "-m", "flows.cli", "certificates", str(tmp_path / "tls"), "--host", "127.0.0.1"],
        check=False,
    )
    assert made.returncode == 0
    store = postgres.url(database).replace("postgresql://", "postgresql+asyncpg://")
    shared = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    shared |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "DASK_CONFIG": str(DEPLOY / "dask"),
        "DO_NOT_TRACK": "1",
    }
    processes = {}

    def words(service):
        changed = {
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - this is what is replaced
            "4200": str(ports["prefect"]),
            "8786": str(ports["scheduler"]),
            "tls://0.0.0.0": "tls://127.0.0.1",
            "tls://scheduler:8786": f"tls://127.0.0.1:{ports['scheduler']}",
            "/tmp": str(tmp_path),
            **{f"/tls/{name}": str(tmp_path / "tls" / name) for name in ("ca.pem", "cert.pem", "key.pem")},
        }
        return [changed.get(word, word) for word in SERVICES[service]["command"]]

    def start(name, service, **environment):
        log = (tmp_path / f"{name}.log").open("w")
        processes[name] = subprocess.Popen(
            [sys.executable, "-m", *words(service)],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env={**shared, **environment},
            start_new_session=True,
        )
        log.close()

    api = f"http://127.0.0.1:{ports['prefect']}/api"
    start("prefect", "prefect", PREFECT_API_DATABASE_CONNECTION_URL=store)
    start("scheduler", "scheduler")
    for number in (1, 2):
        start(f"worker{number}", "worker")
    try:
        wait_until(lambda: _answers(f"{api}/health"), "the Prefect server", 120)
        start("runner", "runner", PREFECT_API_URL=api)
        yield Site(tmp_path, api, f"tls://127.0.0.1:{ports['scheduler']}", processes, start)
    finally:
        for process in reversed(processes.values()):
            end_group(process)


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=3):  # noqa: S310 - our own address
            return True
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_services_of_compose_run_a_schedule_through_the_loss_of_a_worker(site):
    shop = projects.make(site.folder / "shop")
    deployed(shop, "--flow", "nightly", "--every", "15", *site.options, **site.environment)

    first = wait_until(lambda: ended(shop), "a run", 240)
    assert first[-1].status == "done", site.said
    os.killpg(site.processes["worker1"].pid, signal.SIGKILL)
    site.processes["worker1"].wait(10)
    site.start("worker3", "worker")
    orders = min((shop / "data").glob("orders-*.csv"))
    lines = orders.read_text().splitlines(keepends=True)
    orders.write_text("".join(lines[:-5]))
    again = wait_until(
        lambda: [run for run in ended(shop) if run.tables and run.run != first[-1].run],
        "a run with new data",
        240,
    )

    assert again[0].status == "done", site.said
    assert "orders" in again[0].tables


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_all_workers_of_compose_are_rolled_under_a_run_which_goes_on(site):
    """Each old worker is told to end (SIGTERM, as `docker compose` does) after a new one has joined."""
    shop = holding(site.folder / "shop")
    name = deployed(shop, "--flow", "nightly", "--name", "rolled", *site.options, **site.environment)
    old = ["worker1", "worker2"]
    with client_of(site.api) as client:
        run = begin(client, name)
        wait_until(lambda: at_work(shop), "the step that waits", 120)
        working = at_work(shop)
        for number, worker in enumerate(old, 1):
            site.start(f"new{number}", "worker")
            wait_until(lambda: site.workers() == len(old) + 1, "a new worker", 60)
            site.processes[worker].send_signal(signal.SIGTERM)
            site.processes[worker].wait(30)  # the grace period of compose.yaml
            wait_until(lambda: site.workers() == len(old), "the end of an old worker", 60)
        wait_until(lambda: set(at_work(shop)) - set(working), "the step on a new worker", 60)
        assert final(client, run) is None
        (shop / "hold").unlink()
        state = wait_until(lambda: final(client, run), "the end of the run", 240)

    assert state.is_completed(), site.said
    (entry,) = entries(shop)
    assert (entry.status, set(entry.tables)) == ("done", set(projects.TABLES))
    assert as_undisturbed(shop, site.folder)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_run_on_the_services_of_compose_is_cancelled(site):
    from prefect.states import Cancelling

    shop = holding(site.folder / "shop")
    name = deployed(shop, "--name", "cancelled", *site.options, **site.environment)
    with client_of(site.api) as client:
        run = begin(client, name)
        wait_until(lambda: at_work(shop), "the step that waits", 120)
        working = [psutil.Process(pid) for pid in at_work(shop)]

        client.set_flow_run_state(run, Cancelling())  # the button "Cancel"
        state = wait_until(lambda: final(client, run), "the end of the run", 60)
        wait_until(lambda: not any(one.is_running() for one in working), "the end of the tasks", 15)

    assert state.is_cancelled(), site.said
    assert [one.status for one in entries(shop)] == ["stopped"]
    assert not (shop / "warehouse" / "orders").exists()
