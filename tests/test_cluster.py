"""Clusters: what a worker is like, what is left when a driver ends, and what an outside cluster must have."""

import logging
import os
import signal
import subprocess
import sys
import textwrap

import dask
import psutil
import pytest

from flows.cluster import ClusterError, ClusterWarning, blas_threads, cluster, worker_pids
from flows.lifeline import NoAnswerError, child
from flows.local_cluster import ENVIRONMENT, SETTINGS
from tests import clusters
from tests.clusters import OURS, wait_until

DRIVER = """
    import logging, sys, time
    from pathlib import Path
    from flows.cluster import cluster, worker_pids

    def work(path):
        Path(path).touch()
        time.sleep(60)

    if __name__ == "__main__":
        logging.basicConfig(filename=sys.argv[1] + ".driver")  # as a run does: what distributed has to say goes there
        with cluster(workers=2, log=Path(sys.argv[1])) as client:
            task = client.submit(work, sys.argv[2], pure=False)
            print(*worker_pids(client).values(), flush=True)
            task.result()
"""


def _at(address):
    return address.partition("://")[0], address.rpartition("/")[2].rpartition(":")[0]


def is_alive(process):
    try:
        return (
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        )  # not yet reaped by process 1
    except psutil.NoSuchProcess:
        return False


def test_a_worker_has_one_blas_thread_whatever_is_exported_and_has_imported_what_tasks_need(
    monkeypatch, tmp_path
):
    def modules():  # sent by value: the worker does not import this file for it
        return {name.partition(".")[0] for name in sys.modules}

    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")

    with cluster(workers=1, log=tmp_path / "log") as client:
        (threads,) = client.run(blas_threads).values()
        (exported,) = client.run(lambda: os.environ["OPENBLAS_NUM_THREADS"]).values()
        (imported,) = client.run(modules).values()

    assert (threads, exported) == (1, "1")
    assert {"numpy", "pyarrow", "distributed"} <= imported
    assert not {"prefect", "pytest"} & imported


def test_every_socket_is_on_the_loopback_and_speaks_tls(local_cluster):
    addresses = [local_cluster.scheduler.address, *worker_pids(local_cluster)]
    listening = {
        connection.laddr.ip
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }

    assert {_at(address) for address in addresses} == {("tls", "127.0.0.1")}
    assert listening <= {"127.0.0.1"}


def test_a_client_without_the_certificate_is_refused(local_cluster):
    address = local_cluster.scheduler.address

    with pytest.raises(ClusterError, match="certificate"), cluster(scheduler=address):
        pass
    with (
        pytest.raises(ClusterError, match=r"did not answer within 1 s"),
        cluster(scheduler=address.replace("tls", "tcp"), deadline_s=1),
    ):
        pass


def test_a_killed_worker_comes_back_and_its_task_is_done(local_cluster):
    before = worker_pids(local_cluster)
    victim = min(before.values())

    task = local_cluster.submit(_die_once, victim, pure=False)

    assert task.result(timeout=30) != victim
    wait_until(lambda: len(local_cluster.nthreads()) == 2, "two workers again")


def _die_once(victim):
    if os.getpid() == victim:
        os.kill(victim, signal.SIGKILL)
    return os.getpid()


def test_what_workers_print_is_in_the_log_and_not_on_the_terminal(tmp_path, capfd):
    log = tmp_path / "log"

    with cluster(workers=1, log=log) as client:
        client.submit(print, "hello from a worker", pure=False).result()

    assert log.read_text().splitlines() == ["hello from a worker"]  # and nothing of what the end has left
    assert capfd.readouterr() == ("", "")


def test_what_dask_has_to_say_goes_where_the_program_logs(tmp_path, caplog, capfd):
    with cluster(workers=1, log=tmp_path / "log"):
        logging.getLogger("distributed.client").error("a worker is gone")
        logging.getLogger("tornado.application").error("a callback failed")

    assert [record.message for record in caplog.records] == ["a worker is gone", "a callback failed"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sign: sign.name)
def test_nothing_is_left_of_a_cluster_5_s_after_its_driver_was_told_to_end(sign, tmp_path):
    program, temporary = tmp_path / "driver.py", tmp_path / "temporary"
    program.write_text(textwrap.dedent(DRIVER))
    temporary.mkdir()
    driver = subprocess.Popen(
        [sys.executable, program, tmp_path / "log", tmp_path / "started"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    with driver:
        workers = [int(pid) for pid in driver.stdout.readline().split()]
        family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        wait_until((tmp_path / "started").exists, "a worker that works")

        driver.send_signal(sign)
        driver.wait(5)
        wait_until(lambda: not any(map(is_alive, family)), "the end of the whole family", 5)
        errors = driver.stderr.read()

    assert {process.pid for process in family} >= {driver.pid, *workers}
    assert list(temporary.iterdir()) == []
    assert errors.count("Traceback") == (1 if sign == signal.SIGINT else 0)  # the driver's own


def test_an_interrupt_in_the_terminal_reaches_the_driver_alone(local_cluster):
    ours = os.getpgid(0)

    assert all(os.getpgid(pid) != ours for pid in worker_pids(local_cluster).values())


def test_a_child_that_fails_to_start_says_why(tmp_path):
    with (
        child("os:no_such_function", {}, environment={}, log=tmp_path / "log") as started,
        pytest.raises(NoAnswerError, match="no_such_function"),
    ):
        started.answer(10)


@pytest.fixture
def outside(tmp_path):
    """Starts a plain Dask cluster, as an operator would: `outside(...)` gives its address."""
    with clusters.outside(tmp_path) as make:
        yield make


def test_the_configuration_of_an_outside_cluster_is_that_of_ours():
    (told,) = dask.config.collect_yaml([OURS["DASK_CONFIG"]])

    for name, value in SETTINGS.items():
        assert dask.config.get(name, config=told) == value
    for name, value in told["distributed"]["nanny"]["pre-spawn-environ"].items():
        assert ENVIRONMENT[name] == str(value)


def test_an_outside_cluster_works_and_its_blas_is_limited(outside):
    address = outside(
        scheduler_env=OURS, worker_env={**OURS, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    )

    with cluster(scheduler=address) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        assert set(client.run(blas_threads).values()) == {1}


def test_a_cluster_is_reached_with_the_files_of_its_certificate(local_cluster, tmp_path):
    paths = []
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        paths.append(tmp_path / f"{name}.pem")
        paths[-1].write_text(getattr(local_cluster.security, name))

    with cluster(scheduler=local_cluster.scheduler.address, tls=tuple(map(str, paths))) as client:
        assert client.submit(sum, [1, 2]).result() == 3


def test_other_settings_of_the_scheduler_are_a_warning(outside):
    address = outside(scheduler_env={**OURS, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5 minutes"})

    with (
        pytest.warns(ClusterWarning, match=r"worker-ttl is '5 minutes', not '30s'"),
        cluster(scheduler=address) as client,
    ):
        assert len(client.nthreads()) == 1


def test_code_that_a_worker_lacks_is_an_error_at_once(outside, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "pipelines").mkdir(parents=True)
    (elsewhere / "pipelines" / "__init__.py").write_text("raise ModuleNotFoundError('not on this machine')")
    address = outside(scheduler_env=OURS, worker_env={"PYTHONPATH": str(elsewhere)})

    with (
        pytest.raises(
            ClusterError, match=r"worker tcp://\S+: cannot import 'pipelines' \(not on this machine\)"
        ),
        cluster(scheduler=address),
    ):
        pass


def test_no_scheduler_and_no_worker_are_told_apart(outside):
    with (
        pytest.raises(ClusterError, match="did not answer within 1 s"),
        cluster(scheduler="tcp://127.0.0.1:9", deadline_s=1),
    ):
        pass
    address = outside(workers=0)
    with (
        pytest.raises(ClusterError, match="has no worker after 1 s"),
        cluster(scheduler=address, deadline_s=1),
    ):
        pass


def test_another_version_anywhere_is_an_error(local_cluster, monkeypatch):
    from flows import cluster as module

    monkeypatch.setattr(module, "_installed", lambda name: "0.0.1" if name == "pyarrow" else None)

    with pytest.raises(ClusterError, match=r"worker tls://\S+: pyarrow is '\S+', here it is '0.0.1'"):
        module._check(local_cluster, "tls://here", 5)


def test_settings_are_restored_after_the_block(tmp_path):
    before = dask.config.get("distributed.scheduler.worker-ttl", None)

    with cluster(workers=1, log=tmp_path / "log"):
        assert dask.config.get("distributed.scheduler.worker-ttl") == "30s"

    assert dask.config.get("distributed.scheduler.worker-ttl", None) == before


@pytest.mark.parametrize("address", ["localhost:8786", "http://127.0.0.1:8786"])
def test_an_address_without_tcp_or_tls_is_an_error(address):
    with (
        pytest.raises(ClusterError, match="expected tcp://host:port or tls://host:port"),
        cluster(scheduler=address),
    ):
        pass


def test_a_tls_file_that_is_not_there_is_named():
    with (
        pytest.raises(ClusterError, match=r"TLS file 'no\.pem' is not there"),
        cluster(scheduler="tls://127.0.0.1:9", tls=("no.pem", "no.pem", "no.pem")),
    ):
        pass
