"""`dlflow run --scheduler` on a real Dask cluster: a `dask scheduler` and two `dask worker` processes that speak TLS only."""

import json
import os
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pytest

from flows.certificates import make_certificates
from flows.cluster import cluster
from pipelines.custom import Python
from tests import projects
from tests.strategies import with_origin


@pytest.fixture
def tls_cluster(tmp_path):
    """Address and TLS files of a cluster of three processes."""
    files = [str(path) for path in make_certificates(tmp_path / "tls", ["127.0.0.1"])]
    tls = ["--tls-ca-file", files[0], "--tls-cert", files[1], "--tls-key", files[2]]
    log = (tmp_path / "cluster.log").open("wb")
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "inf"}
    started = []

    def start(*command):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "dask", *command, *tls],
                stdout=log,
                stderr=log,
                cwd=tmp_path,
                env=environment,
                start_new_session=True,
            )
        )

    place = tmp_path / "scheduler.json"
    start(
        "scheduler",
        "--host",
        "tls://127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(place),
    )
    deadline = time.monotonic() + 30
    while not place.exists() or not place.read_text():
        assert time.monotonic() < deadline, (tmp_path / "cluster.log").read_text()
        time.sleep(0.05)
    for _ in range(2):
        start(
            "worker",
            "--scheduler-file",
            str(place),
            "--nthreads",
            "1",
            "--host",
            "tls://127.0.0.1",
            "--no-dashboard",
            "--local-directory",
            str(tmp_path),
        )
    yield json.loads(place.read_text())["address"], files
    for process in reversed(started):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()
    log.close()


def test_a_run_on_a_tls_cluster_makes_the_tables_and_weights_of_a_run_in_this_process(tls_cluster, tmp_path):
    address, files = tls_cluster
    here, there = projects.make(tmp_path / "here"), projects.make(tmp_path / "there")
    alone = projects.run(here)

    ran = projects.command(there, "run", "--scheduler", address, "--tls", *files, "--no-prefect", "--prove")

    assert address.startswith("tls://")
    assert ran.returncode == 0, ran.stderr
    assert "2 workers" in ran.stdout
    assert ran.stderr.startswith("note: scheduler ")  # it runs with Dask's own settings
    assert "ClusterWarning" not in ran.stderr
    assert "identical" in ran.stdout
    assert alone["models"][0]["weights_sha256"][:6] in ran.stdout
    assert projects.everything(there) == projects.everything(here)


@pytest.mark.slow  # it waits as long as a person would; `test_cluster` has the sentence with a short deadline
def test_a_cluster_that_cannot_be_reached_is_one_sentence(tmp_path):
    folder = projects.make(tmp_path / "shop")

    ran = projects.command(folder, "run", "--scheduler", "tcp://127.0.0.1:9", "--no-prefect")

    assert ran.returncode == 3
    assert "scheduler 'tcp://127.0.0.1:9' did not answer" in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


@pytest.mark.filterwarnings("ignore::flows.cluster.ClusterWarning")  # it runs with Dask's own settings
def test_modules_of_the_pipeline_reach_workers_that_come_later(tls_cluster, tmp_path):
    address, files = tls_cluster
    code = tmp_path / "code"
    code.mkdir()
    (code / "rates.py").write_text("RATE = 3.0\n")
    (code / "prices.py").write_text(
        "import pyarrow as pa\nfrom rates import RATE\n\ndef euro(table):\n"
        "    return pa.table({'euro': [RATE * price for price in table['price'].to_pylist()]})\n"
    )
    table = with_origin(pa.table({"price": [1.0, 2.0]}))
    stage = Python(function="prices:euro", columns={"euro": "float64"}).located(code).stage(table.schema)
    late = [
        sys.executable,
        "-m",
        "dask",
        "worker",
        address,
        "--no-nanny",
        "--nthreads",
        "1",
        "--no-dashboard",
    ]
    late += ["--host", "tls://127.0.0.1", "--local-directory", str(tmp_path), "--tls-ca-file", files[0]]
    late += ["--tls-cert", files[1], "--tls-key", files[2]]

    with cluster(scheduler=address, tls=tuple(files)) as client:
        client.wait_for_workers(2, timeout=30)
        before = set(client.nthreads())
        client.gather(client.submit(stage, table, workers=list(before), pure=False))
        with (tmp_path / "late.log").open("wb") as log:
            process = subprocess.Popen(late, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
        try:
            client.wait_for_workers(3, timeout=30)
            newcomer = list(set(client.nthreads()) - before)
            made = client.submit(stage, table, workers=newcomer, pure=False).result(timeout=30)
        finally:
            process.kill()
            process.wait()

    assert made.kept["euro"].to_pylist() == [3.0, 6.0]
