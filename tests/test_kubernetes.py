"""Workers on Kubernetes: `kubectl` is a stand-in that keeps a number, and starts and ends real workers to it."""

import os
import signal
import stat
import sys
import textwrap

import pytest

from flows.certificates import make_certificates
from flows.cluster import ClusterError, cluster
from flows.cluster_kind import Kubernetes
from flows.kubernetes import ScaledGroup
from tests import clusters
from tests.clusters import OURS, SAFE, wait_until

KUBECTL = """\
#!{python}
import os, pathlib, signal, subprocess, sys
folder = pathlib.Path({folder!r})
replicas, pods, calls = folder / "replicas", folder / "pods", folder / "calls"
with calls.open("a") as file:
    print(*sys.argv[1:], file=file)
given = dict(word.partition("=")[::2] for word in sys.argv[2:])
now = int(replicas.read_text())
if sys.argv[1] == "get":
    print(now, end="")
elif now != int(given["--current-replicas"]):
    sys.exit(f"error: Expected replicas to be {{given['--current-replicas']}}, was {{now}}")
else:
    wanted = int(given["--replicas"])
    replicas.write_text(str(wanted))
    running = pods.read_text().split() if pods.exists() else []
    for pid in running[wanted:]:
        os.killpg(int(pid), signal.SIGTERM)
    worker = (folder / "worker").read_text().split() if (folder / "worker").exists() else []
    for _ in range(wanted - now if worker else 0):
        log = (folder / "pod").open("a")
        started = subprocess.Popen(worker, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        running.append(str(started.pid))
    pods.write_text(" ".join(running[:wanted]))
    print(f"{{sys.argv[-1]}} scaled")
"""


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """The folder of a group without a worker."""
    folder = tmp_path / "group"
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "kubectl"
    program.write_text(textwrap.dedent(KUBECTL).format(python=sys.executable, folder=str(folder)))
    program.chmod(stat.S_IRWXU)
    (folder / "replicas").write_text("0")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    yield folder
    for pid in (folder / "pods").read_text().split() if (folder / "pods").exists() else []:
        os.killpg(int(pid), signal.SIGKILL)


def _asked(scheduler="tls://127.0.0.1:1", **more):
    return Kubernetes(scheduler=scheduler, group="daskworkergroup/dlflow-default", **more)


def test_a_group_is_scaled_up_for_the_run_and_back(kubectl, tmp_path):
    tls = tuple(str(path) for path in make_certificates(tmp_path / "tls", ["127.0.0.1"]))
    with clusters.outside(tmp_path) as make:
        address = make(workers=0, scheduler_env=OURS, tls=tls)
        safe = " ".join(word for pair in zip(SAFE, tls, strict=True) for word in pair)
        (kubectl / "worker").write_text(
            f"{sys.executable} -m distributed.cli.dask_worker {address} --nthreads 1 --no-dashboard "
            f"--host 127.0.0.1 --local-directory {tmp_path} {safe}"
        )
        asked = _asked(address, namespace="shop", start_s=60)

        with cluster(workers=2, kind=asked, tls=tls, log=tmp_path / "log") as client:
            answers = client.gather(client.map(abs, range(-4, 0)))
            during = (kubectl / "replicas").read_text(), len(client.nthreads())
        wait_until(lambda: (kubectl / "replicas").read_text() == "0", "the group is as before")

    assert answers == [4, 3, 2, 1]
    assert during == ("2", 2)
    where = "--namespace=shop --request-timeout=15s -- daskworkergroup/dlflow-default"
    assert (kubectl / "calls").read_text().splitlines() == [
        f"get --subresource=scale --output=jsonpath={{.spec.replicas}} {where}",
        f"scale --current-replicas=0 --replicas=2 {where}",
        f"scale --current-replicas=2 --replicas=0 {where}",
    ]


def test_a_group_that_is_large_enough_or_that_another_has_scaled_is_left_as_it_is(kubectl, capfd):
    (kubectl / "replicas").write_text("3")
    ScaledGroup(_asked(), 2).close()
    calls = (kubectl / "calls").read_text().splitlines()

    grown = ScaledGroup(_asked(), 5)
    (kubectl / "replicas").write_text("7")
    grown.close()

    assert [call.split()[0] for call in calls] == ["get"]
    assert (kubectl / "replicas").read_text() == "7"
    assert "Expected replicas to be 5, was 7; it is left as it is" in capfd.readouterr().err


def test_what_kubectl_refuses_is_one_sentence(kubectl, tmp_path):
    (kubectl / "bin" / "kubectl").write_text(
        "#!/bin/sh\necho noise >&2; echo 'Error: NotFound' >&2; exit 1\n"
    )

    with (
        pytest.raises(
            ClusterError, match=r"did not start: kubectl get daskworkergroup/dlflow-default: Error: NotFound"
        ),
        cluster(workers=2, kind=_asked(), log=tmp_path / "log"),
    ):
        pass


def test_a_scheduler_that_is_not_there_is_told_and_the_group_is_as_before(kubectl, tmp_path):
    tls = tuple(str(path) for path in make_certificates(tmp_path / "tls", ["127.0.0.1"]))

    with (
        pytest.raises(ClusterError, match=r"scheduler 'tls://127\.0\.0\.1:1' did not answer within 1 s"),
        cluster(workers=2, kind=_asked(), tls=tls, log=tmp_path / "log", deadline_s=1.0),
    ):
        pass

    assert (kubectl / "replicas").read_text() == "0"
