"""Clusters that a run starts on other machines: as jobs of a batch system, and by SSH.

`sbatch`, `scancel`, `qsub` and `qdel` are scripts that start the very job script as a process; `ssh` is the real one, and
its server that of asyncssh, on the loopback, with keys of its own. What they start are real schedulers and workers that
speak TLS.
"""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time

import psutil
import pytest
from distributed import Client, Security

from flows.cluster import ClusterError, cluster, worker_pids
from flows.cluster_kind import Pbs, Scaling, Slurm, Ssh
from flows.remote_cluster import missing
from flows.ssh_hosts import SshHosts
from tests.conftest import REPOSITORY
from tests.test_cluster import is_alive, wait_until


@pytest.fixture
def batch_system(tmp_path, monkeypatch):
    """Slurm and PBS, as far as dask-jobqueue sees them; the folder that all "nodes" share."""
    bin_, shared = tmp_path / "bin", tmp_path / "shared"
    bin_.mkdir()
    shared.mkdir()
    submit = textwrap.dedent(
        f"""\
        #!/bin/sh
        job=$(mktemp {shared}/job-XXXXXX)
        cp "$1" "$job"
        setsid sh "$job" >>{shared}/output 2>&1 </dev/null &
        echo $! >>{shared}/submitted
        echo "Submitted batch job $!"
        """
    )
    cancel = f'#!/bin/sh\necho "$@" >>{shared}/cancelled\nkill -9 -- -"$1"\n'
    for name, text in {"sbatch": submit, "qsub": submit, "scancel": cancel, "qdel": cancel}.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    yield shared
    for job in _lines(shared / "submitted"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(job), signal.SIGKILL)


def _lines(file):
    return file.read_text().split() if file.exists() else []


def _double(number):
    return 2 * number


@pytest.mark.parametrize(
    ("kind", "directive"), [(Slurm, "#SBATCH"), pytest.param(Pbs, "#PBS", marks=pytest.mark.slow)]
)
def test_jobs_are_workers_with_tls_and_end_with_the_run(batch_system, tmp_path, kind, directive):
    asked = kind(
        cores=2,
        memory="1GiB",
        folder=str(batch_system),
        interface="lo",
        queue="short",
        directives=("--mark=x",),
        prologue=("export MARK=there",),
        scratch=str(tmp_path),
        start_s=60,
    )

    with cluster(workers=3, kind=asked, log=tmp_path / "log") as client:
        client.wait_for_workers(4, timeout=60)  # two jobs of two
        pids = worker_pids(client)
        marks = client.run(os.getenv, "MARK")
        answers = client.gather(client.map(_double, range(8)))
        keys = [stat.S_IMODE(file.stat().st_mode) for file in batch_system.glob(".dask-jobqueue*")]

    assert answers == [0, 2, 4, 6, 8, 10, 12, 14]
    assert all(address.startswith("tls://") for address in pids)
    assert set(marks.values()) == {"there"}
    assert keys == [0o600] * 3
    assert not list(batch_system.glob(".dask-jobqueue*"))
    script = next(batch_system.glob("job-*")).read_text()
    assert f"{directive} --mark=x" in script
    assert "short" in script
    assert "PRIVATE KEY" not in script
    assert sorted(_lines(batch_system / "cancelled")) == sorted(_lines(batch_system / "submitted"))
    wait_until(lambda: not any(map(psutil.pid_exists, pids.values())), "the workers are gone")


@pytest.mark.slow
def test_a_cluster_grows_with_its_work_and_shrinks_to_its_least(batch_system, tmp_path):
    asked = Slurm(cores=1, memory="1GiB", folder=str(batch_system), interface="lo", scratch=str(tmp_path))

    with cluster(workers=Scaling(at_least=1, at_most=3), kind=asked, log=tmp_path / "log") as client:
        before = len(client.nthreads())
        tasks = client.map(lambda seconds: time.sleep(seconds), [1.0] * 100, pure=False)
        wait_until(lambda: len(client.nthreads()) == 3, "three workers", 60)
        client.cancel(tasks)
        wait_until(lambda: len(client.nthreads()) == 1, "one worker again", 60)

    assert before == 1


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_no_job(batch_system, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import time
            from pathlib import Path
            from flows.cluster import cluster, worker_pids
            from flows.cluster_kind import Slurm

            if __name__ == "__main__":
                kind = Slurm(cores=1, memory="1GiB", folder={str(batch_system)!r}, interface="lo", scratch={str(tmp_path)!r})
                with cluster(workers=1, kind=kind, log=Path({str(tmp_path / "log")!r})) as client:
                    print(*worker_pids(client).values(), flush=True)
                    time.sleep(60)
            """
        )
    )
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [psutil.Process(int(pid)) for pid in driver.stdout.readline().split()]
    driver.kill()
    driver.wait()
    driver.stdout.close()

    wait_until(lambda: not any(map(is_alive, workers)), "the workers are gone", 30)
    assert len(workers) == 1
    assert _lines(batch_system / "cancelled") == _lines(batch_system / "submitted")


def test_a_batch_system_that_refuses_is_one_sentence(batch_system, tmp_path):
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho 'invalid partition' >&2; exit 1\n")
    asked = Slurm(cores=1, memory="1GiB", folder=str(batch_system), interface="lo")

    with pytest.raises(ClusterError) as caught, cluster(workers=1, kind=asked, log=tmp_path / "log"):
        pass

    assert "the cluster of kind 'slurm' did not start: Command exited with non-zero exit code" in str(
        caught.value
    )
    assert "invalid partition" in str(caught.value)


@pytest.fixture
def ssh_server(tmp_path):
    """What reaches an SSH server on the loopback."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.ssh_server", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    port = int(server.stdout.readline())
    yield {"port": port, "key": str(tmp_path / "id"), "known_hosts": str(tmp_path / "known")}
    server.kill()
    server.wait()
    server.stdout.close()


def test_hosts_by_ssh_are_scheduler_and_workers_with_tls_and_end_with_the_run(ssh_server, tmp_path):
    asked = Ssh(
        hosts=("127.0.0.1",), user="me", interface="lo", scratch=str(tmp_path / "spill"), **ssh_server
    )

    with cluster(workers=2, kind=asked, log=tmp_path / "log") as client:
        client.wait_for_workers(2, timeout=60)
        pids = worker_pids(client)
        assert client.id.startswith("Client-dlflow-")  # what flows.widowed goes by
        scheduler = client.run_on_scheduler(os.getpid)
        watching = client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.plugins))
        answers = client.gather(client.map(_double, range(8)))
        told = [psutil.Process(pid).cmdline() for pid in (scheduler, *pids.values())]
        leaked = [
            file
            for file in tmp_path.rglob("*")
            if file.is_file() and b"-----BEGIN PRIVATE KEY" in file.read_bytes()
        ]

    assert answers == [0, 2, 4, 6, 8, 10, 12, 14]
    assert all(address.startswith("tls://") for address in pids)
    assert "dlflow-widowed" in watching
    assert (tmp_path / "commands").read_text() == f"{sys.executable} -P -m flows.remote_host\n" * 2
    assert "PRIVATE KEY" not in str(told)
    assert not leaked
    wait_until(
        lambda: not any(map(psutil.pid_exists, [*pids.values(), scheduler])), "scheduler and workers are gone"
    )
    assert not list((tmp_path / "spill").iterdir())


def test_hosts_end_what_they_run_when_the_connection_is_lost(ssh_server, tmp_path):
    asked = Ssh(hosts=("127.0.0.1",), user="me", interface="lo", scratch=str(tmp_path), **ssh_server)
    made = SshHosts(asked, 1, tmp_path / "here")
    with Client(
        made.scheduler_address, security=Security(require_encryption=True, **made.security)
    ) as client:
        pids = [*worker_pids(client).values(), client.run_on_scheduler(os.getpid)]
    started = [psutil.Process(pid) for pid in pids]
    try:
        for one in made._connections:
            one._process.kill()
        wait_until(lambda: not any(map(is_alive, started)), "scheduler and worker are gone", 30)
    finally:
        made.close()


WRONG = {
    "a host whose key is not known": ({"known_hosts": "/dev/null"}, "Host key verification failed"),
    "a host without this python": ({"python": "/no/such/python"}, "/no/such/python"),
    "a host without dlflow": ({"python": "/usr/bin/python3"}, "No module named"),
    "a host where nobody listens": ({"port": 1}, "Connection refused"),
    "a host that does not let the user in": ({"key": "/dev/null"}, "Permission denied"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_host_is_one_sentence_with_its_name(ssh_server, tmp_path, wrong):
    settings, said = WRONG[wrong]
    asked = Ssh(hosts=("127.0.0.1",), user="me", interface="lo", **{**ssh_server, **settings})

    with (
        pytest.raises(ClusterError) as caught,
        cluster(workers=1, kind=asked, log=tmp_path / "log"),
    ):
        pass

    assert "the cluster of kind 'ssh' did not start: host '127.0.0.1' ended: " in str(caught.value)
    assert said in str(caught.value)


def test_a_host_that_accepts_and_stays_silent_meets_the_deadline(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = Ssh(hosts=("127.0.0.1",), port=silent.getsockname()[1], start_s=2.0)
        with (
            pytest.raises(ClusterError, match=r"host '127.0.0.1' has not answered in time"),
            cluster(workers=1, kind=asked, log=tmp_path / "log"),
        ):
            pass


def test_what_is_not_installed_is_named_with_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert missing(Ssh(hosts=("a",))) == (
        "a cluster of kind 'ssh' needs the program ssh, which is not on PATH; install OpenSSH's client"
    )
    assert missing(Slurm(cores=1, memory="1GiB", folder="/x")) == (
        "a cluster of kind 'slurm' needs the package dask_jobqueue, which is not installed; pip install 'dlflow[jobqueue]'"
    )
