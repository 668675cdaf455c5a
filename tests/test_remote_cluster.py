"""Clusters that a run starts on other machines: as jobs of a batch system, and by SSH.

`sbatch`, `scancel`, `qsub` and `qdel` are scripts that start the very job script as a process; the SSH server is that of
asyncssh, on the loopback, with keys of its own. What they start are real schedulers and workers that speak TLS.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from flows.certificates import make_certificates
from flows.cluster import ClusterError, cluster, worker_pids
from flows.cluster_kind import Pbs, Scaling, Slurm, Ssh
from flows.remote_cluster import missing
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
    reached = ssh_server
    tls = tuple(str(path) for path in make_certificates(tmp_path / "tls", ["127.0.0.1"]))
    asked = Ssh(hosts=("127.0.0.1",), user="me", interface="lo", scratch=str(tmp_path), **reached)

    with cluster(workers=2, kind=asked, tls=tls, log=tmp_path / "log") as client:
        client.wait_for_workers(2, timeout=60)
        pids = worker_pids(client)
        assert client.id.startswith("Client-dlflow-")  # what flows.widowed goes by
        scheduler = client.run_on_scheduler(os.getpid)
        watching = client.run_on_scheduler(lambda dask_scheduler: sorted(dask_scheduler.plugins))
        answers = client.gather(client.map(_double, range(8)))

    assert answers == [0, 2, 4, 6, 8, 10, 12, 14]
    assert all(address.startswith("tls://") for address in pids)
    assert "dlflow-widowed" in watching
    assert "PRIVATE KEY" not in (tmp_path / "commands").read_text()
    wait_until(
        lambda: not any(map(psutil.pid_exists, [*pids.values(), scheduler])), "scheduler and workers are gone"
    )


def test_a_host_whose_key_is_not_known_or_that_has_no_python_is_one_sentence(ssh_server, tmp_path):
    reached = ssh_server
    tls = tuple(str(path) for path in make_certificates(tmp_path / "tls", ["127.0.0.1"]))
    (tmp_path / "nobody").touch()
    cases = {
        "not trusted": {"known_hosts": str(tmp_path / "nobody")},
        "/no/such/python": {"python": "/no/such/python"},
    }

    for said, wrong in cases.items():
        asked = Ssh(hosts=("127.0.0.1",), user="me", interface="lo", **{**reached, **wrong})
        with (
            pytest.raises(ClusterError, match=said) as caught,
            cluster(workers=1, kind=asked, tls=tls, log=tmp_path / "log"),
        ):
            pass
        assert "cluster of kind 'ssh' did not start" in str(caught.value)


def test_a_package_that_is_not_installed_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert missing(Ssh(hosts=("a",))) == (
        "a cluster of kind 'ssh' needs the package asyncssh, which is not installed; pip install 'dlflow[ssh]'"
    )
