"""What every test may rely on: a quiet, isolated process; one cluster and one Prefect server per session; no leaks.

The environment is set here, before NumPy, Dask or Prefect are imported, since all three read it when they are.
"""

import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_HOME = Path(tempfile.mkdtemp(prefix="dlflow-tests-"))
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "DASK_"))]:
    del os.environ[_name]
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HOME": str(_HOME),
    "XDG_CONFIG_HOME": str(_HOME / ".config"),
    "XDG_CACHE_HOME": str(_HOME / ".cache"),
    "PREFECT_HOME": str(_HOME / ".prefect"),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "DO_NOT_TRACK": "1",
    "PYTHONPATH": str(REPOSITORY),  # programs that tests start find the packages wherever they run
}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a process without byte code starts three times slower

import hypothesis  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402

# A deadline measures the machine; what hangs meets pytest's own. CI draws the same examples every time.
hypothesis.settings.register_profile("dlflow", deadline=None, derandomize=os.environ.get("CI") == "true")
hypothesis.settings.load_profile("dlflow")

REQUIRE_ALL = os.environ.get("DLFLOW_REQUIRE_ALL") == "1"
"""Set in CI: a test that is skipped fails, unless it waits for what CI cannot have."""

MAY_BE_MISSING = re.compile(
    "DLFLOW_DATA|^root |^SCIPY_ARRAY_API "
)  # real data; a user who is not root; arrays that are not NumPy's
OURS_TO_KEEP = (
    "multiprocessing.resource_tracker",
    "multiprocessing.forkserver",
)  # one per process, until it ends
POOLS = (
    "asyncio_",
    "Dask-",
    "AnyIO",
    "ThreadPoolExecutor",
    "IO loop",
    "Profile",
    "APILogWorkerThread",
    "EventsWorkerThread",
    "GlobalEventLoopThread",
    "RunSyncEventLoopThread",
)
"""Threads that libraries start once and keep; they are no leak of the test that happened to be the first."""


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not MAY_BE_MISSING.search(reason.removeprefix("Skipped: ")):
            report.outcome = "failed"
            report.longrepr = f"DLFLOW_REQUIRE_ALL is set, so this test may not be skipped: {reason}"
    return report


@pytest.fixture(autouse=True)
def _no_leak() -> Iterator[None]:
    """Every process and thread that a test starts has ended 5 s after it."""
    processes, threads = set(psutil.Process().children()), set(threading.enumerate())

    yield

    left = [child for child in psutil.Process().children() if child not in processes and not _is_kept(child)]
    _, left = psutil.wait_procs(left, timeout=5)
    assert not left, f"processes left behind: {[' '.join(child.cmdline())[:200] for child in left]}"
    running = [
        thread
        for thread in threading.enumerate()
        if thread not in threads and not thread.name.startswith(POOLS)
    ]
    for thread in running:
        thread.join(timeout=5)
    assert not [thread for thread in running if thread.is_alive()], f"threads left behind: {running}"


def _is_kept(child: psutil.Process) -> bool:
    try:
        return any(name in part for part in child.cmdline() for name in OURS_TO_KEEP)
    except psutil.Error:  # it ended meanwhile
        return True


@pytest.fixture(scope="session")
def local_cluster(tmp_path_factory):
    """The client of two worker processes of this machine; a test that kills one waits until it is back."""
    from flows.cluster import cluster

    with cluster(workers=2, log=tmp_path_factory.mktemp("cluster") / "log") as client:
        yield client


@pytest.fixture(scope="session")
def _server(tmp_path_factory, request):
    """One Prefect server; the empty database that the first session made (4 s) is kept for the next."""
    from flows.server import temporary_server

    folder = tmp_path_factory.mktemp("prefect")
    empty = request.config.cache.mkdir(f"prefect-{version('prefect')}") / "prefect.db"
    if empty.exists():
        shutil.copy(empty, folder)
    with temporary_server(folder, scheduling=True) as server:
        server.wait()
        if not empty.exists():
            with (
                contextlib.closing(sqlite3.connect(folder / "prefect.db")) as source,
                contextlib.closing(sqlite3.connect(empty)) as target,
            ):
                source.backup(target)
        yield server


@pytest.fixture
def prefect_server(_server, monkeypatch):
    """The URL of the session's Prefect API, which flows of this process and of its children use during the test."""
    url = _server.wait()
    for name, value in {**_server.settings, "PREFECT_API_URL": url}.items():
        monkeypatch.setenv(name, value)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    # without heartbeats a flow ends at once, with them after a second
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets: DLFLOW_DATA, else beside the repository."""
    folder = Path(os.environ.get("DLFLOW_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set DLFLOW_DATA to the folder")
    return folder


@pytest.fixture
def repository() -> Path:
    """The root of the source."""
    return REPOSITORY


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of this session."""
    from tests.postgres import bin_folder, postgres_server

    programs = bin_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server here; apt-get install postgresql")
    with postgres_server(programs) as server:
        yield server


@pytest.fixture
def database(postgres):
    """The name of a new, empty database."""
    name = f"d{os.urandom(6).hex()}"
    postgres.run(f"CREATE DATABASE {name} TEMPLATE template0")
    return name


@pytest.fixture(scope="session")
def store():
    """A local S3 server of this session."""
    from tests.stores import store_server

    with store_server() as server:
        yield server


@pytest.fixture
def bucket(store):
    """The name of a new, empty bucket."""
    name = f"b{os.urandom(6).hex()}"
    store.files().create_dir(name)
    return name
