"""[env.NAME]: what is different where a pipeline runs, and what is told of mistakes in it."""

import pytest

from flows.cluster_kind import Kubernetes, Scaling, Slurm, Ssh
from flows.environment import Environment, Notify
from flows.project import open_project
from flows.session import Options
from pipelines.errors import SpecError

FILE = """
name = "shop"
[params]
data = "raw"
[sources.orders]
kind = "csv"
path = "{data}/*.csv"
columns = { id = "int64" }
[tables.orders]
source = "orders"
"""
PROD = """
[env.prod]
params = { data = "/mnt/raw" }
warehouse = "elsewhere"
scheduler = "tls://${HEAD}:8786"
tls = ["${CERTS:-/etc/certs}/ca.pem", "cert.pem", "key.pem"]
notify = { url = "https://example.org/${TOKEN:-x}", on = "always" }
[env.test]
workers = 0
"""


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "pipeline.toml"
        path.write_text(FILE + text)
        return path

    return write


def test_an_environment_has_other_params_another_warehouse_and_a_cluster(file, monkeypatch, tmp_path):
    monkeypatch.setenv("HEAD", "head")

    project = open_project(file(PROD), env="prod")

    assert project.environment == Environment(
        params={"data": "/mnt/raw"},
        warehouse="elsewhere",
        scheduler="tls://head:8786",
        tls=("/etc/certs/ca.pem", "cert.pem", "key.pem"),
        notify=Notify(url="https://example.org/x", on="always"),
    )
    assert project.pipeline.warehouse == (tmp_path / "elsewhere").resolve()
    assert project.pipeline.sources["orders"].path == "/mnt/raw/*.csv"


HPC = """
[env.hpc]
workers = { at_least = 2, at_most = 40 }
[env.hpc.cluster]
kind = "slurm"
cores = 8
memory = "32GiB"
folder = "${SCRATCH}/dlflow"
directives = ["--reservation=${TOKEN:-none}"]
[env.lab]
cluster = { kind = "ssh", hosts = ["head", "node"], start_s = 30 }
workers = 4
"""


def test_an_environment_may_have_a_cluster_started_by_its_kind(file, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/shared")

    hpc = open_project(file(HPC), env="hpc").environment
    lab = open_project(file(HPC), env="lab").environment

    assert hpc.cluster == Slurm(
        cores=8, memory="32GiB", folder="/shared/dlflow", directives=("--reservation=none",)
    )
    assert hpc.workers == Scaling(at_least=2, at_most=40)
    assert lab.cluster == Ssh(hosts=("head", "node"), start_s=30.0)
    assert Options().within(lab) == Options(workers=4, cluster=lab.cluster)
    assert Options(workers=1).within(lab) == Options(workers=1)


def test_workers_on_kubernetes_have_the_files_of_their_scheduler(file):
    text = """
[env.pods]
workers = 4
tls = ["ca.pem", "cert.pem", "key.pem"]
cluster = { kind = "kubernetes", scheduler = "tls://${HEAD:-head}:8786", group = "deployment/worker" }
"""

    pods = open_project(file(text), env="pods").environment

    assert pods.cluster == Kubernetes(scheduler="tls://head:8786", group="deployment/worker")
    assert Options().within(pods) == Options(
        workers=4, tls=("ca.pem", "cert.pem", "key.pem"), cluster=pods.cluster
    )


def test_without_an_environment_nothing_is_different_and_its_variables_need_not_be_set(file):
    project = open_project(file(PROD))

    assert project.environment == Environment()
    assert project.pipeline.params == {"data": "raw"}


def test_the_command_line_comes_before_the_environment(file, monkeypatch):
    monkeypatch.setenv("HEAD", "head")
    project = open_project(file(PROD), {"data": "mine"}, "prod")

    assert project.pipeline.params == {"data": "mine"}
    assert Options(workers=3).within(project.environment) == Options(workers=3)
    assert Options(scheduler="tcp://a:1").within(project.environment) == Options(scheduler="tcp://a:1")
    assert Options(prove=True).within(project.environment) == Options(
        prove=True, scheduler="tls://head:8786", tls=("/etc/certs/ca.pem", "cert.pem", "key.pem")
    )
    assert Options().within(open_project(file(PROD), env="test").environment) == Options(workers=0)


@pytest.mark.parametrize(
    ("text", "env", "message"),
    [
        (PROD, "prd", "--env prd: the file has prod, test; did you mean 'prod'"),
        ("", "prod", "--env prod: the file has no [env.NAME]"),
        ("[env.a]\nworker = 2", "a", "unknown key 'worker' in env.a; did you mean 'workers'"),
        ("[env.a]\nworkers = -1", None, "env.a.workers = -1: expected 0 or more"),
        ('[env.a]\nworkers = 2\nscheduler = "tcp://h:1"', None, "no scheduler, whose workers are those that are there"),
        ('[env.a]\ntls = ["a", "b", "c"]', None, 'env.a.tls: is for a scheduler; add scheduler = "tls://HOST:PORT"'),
        ('[env.a]\nnotify = { url = "ftp://secret" }', "a", "env.a.notify.url: expected https://..."),
        ("[env.a]\nparams = { dat = 1 }", "a", "the file has no such param; did you mean 'data'"),
        ("[env]\na = 1", None, "env.a"),
        ('[env.a]\ncluster = { kind = "slrm" }', "a", "kind = 'slrm': expected { kind = \"ssh\" | \"slurm\" | \"pbs\" | \"kubernetes\", ... }; did you mean 'slurm'"),
        ('[env.a]\nworkers = 2\ncluster = { kind = "slurm", cores = 1, memory = "1GiB", folder = "/x", cors = 2 }', "a", "pipeline.toml:13: unknown key 'cors' in env.a.cluster; did you mean 'cores'"),
        ('[env.a]\nworkers = 2\ncluster = { kind = "slurm", memory = "1GiB", folder = "/x" }', None, "env.a.cluster: key 'cores' is missing"),
        ('[env.a]\ncluster = { kind = "slurm", cores = 1, memory = "1GiB", folder = "/x" }', None, "env.a.workers: is needed with a cluster"),
        ('[env.a]\nworkers = 2\ntls = ["a", "b", "c"]\ncluster = { kind = "slurm", cores = 1, memory = "1GiB", folder = "/x" }', None, "env.a.tls: a cluster that is started for a run gets certificates of its own"),
        ('[env.a]\nworkers = 2\ntls = ["a", "b", "c"]\ncluster = { kind = "ssh", hosts = ["h"] }', None, "env.a.tls: a cluster that is started for a run gets certificates of its own"),
        ("[env.a]\nworkers = { at_least = 1, at_most = 2 }", None, "only a cluster of kind slurm or pbs grows and shrinks"),
        ('[env.a]\nworkers = { at_least = 3, at_most = 2 }\ncluster = { kind = "slurm", cores = 1, memory = "1GiB", folder = "/x" }', None, "expected 0 <= at_least <= at_most"),
        ('[env.a]\nworkers = "4"', None, "env.a.workers = '4': expected 0 or more"),
        ('[env.a]\nworkers = 2\nscheduler = "tcp://h:1"\ncluster = { kind = "slurm", cores = 1, memory = "1GiB", folder = "/x" }', None, "env.a.cluster: is started for the run"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_what_to_do(file, text, env, message):
    with pytest.raises(SpecError) as caught:
        open_project(file(text), env=env)

    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
