"""The Prefect API of a run: which one is configured, and a server of our own that ends with its driver."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request

import psutil
import pytest

from flows.server import ServerError, configured_api, temporary_server

URL = "http://127.0.0.1:4200/api"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty PREFECT_HOME, and no other setting of Prefect."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def test_no_api_is_configured_where_there_is_nothing(home):
    assert configured_api() is None


def test_the_api_of_the_environment_comes_first(home, monkeypatch):
    (home / "profiles.toml").write_text(
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://elsewhere/api"\n'
    )
    monkeypatch.setenv("PREFECT_API_URL", URL)

    assert configured_api() == URL


@pytest.mark.parametrize("chosen", [None, "b"])
def test_the_active_profile_has_the_api(home, monkeypatch, chosen):
    (home / "profiles.toml").write_text(
        f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n[profiles.b]\nPREFECT_API_URL = "{URL}/b"\n'
    )
    if chosen:
        monkeypatch.setenv("PREFECT_PROFILE", chosen)

    assert configured_api() == (f"{URL}/b" if chosen else URL)


@pytest.mark.parametrize(
    "text",
    [
        'active = "ephemeral"\n[profiles.ephemeral]\nPREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"\n',
        "active =",
        "",
    ],
)
def test_a_profile_without_an_api_configures_none(home, text):
    (home / "profiles.toml").write_text(text)

    assert configured_api() is None


def test_prefect_itself_reads_the_same_profile(home):
    (home / "profiles.toml").write_text(f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{URL}"\n')

    program = "from prefect.settings import PREFECT_API_URL; print(PREFECT_API_URL.value())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == configured_api()


def test_the_api_is_found_without_prefect():
    program = "import sys, flows.server; flows.server.configured_api(); print('prefect' in sys.modules)"

    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )


def test_the_server_listens_on_the_loopback_only_and_reports_to_nobody(prefect_server):
    listening = {
        connection.laddr
        for process in psutil.Process().children()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    with urllib.request.urlopen(f"{prefect_server}/admin/settings") as answer:  # noqa: S310  http on the loopback
        settings = json.load(answer)

    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert settings["server"]["analytics_enabled"] is False


def test_a_server_whose_driver_is_killed_ends_too(tmp_path):
    program = """
        import sys, time
        from pathlib import Path
        from flows.server import temporary_server

        with temporary_server(Path(sys.argv[1])):
            print(flush=True)
            time.sleep(60)
    """
    driver = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path], stdout=subprocess.PIPE
    )
    with driver:
        driver.stdout.readline()
        family = psutil.Process(driver.pid).children()

        driver.send_signal(signal.SIGKILL)

        end = time.monotonic() + 10
        while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family):
            assert time.monotonic() < end, "the server outlived its driver"
            time.sleep(0.02)
    assert family


def test_a_server_that_does_not_start_is_told_in_one_sentence(tmp_path):
    with temporary_server(tmp_path) as server, pytest.raises(ServerError) as told:
        server.wait(0)

    assert re.fullmatch(
        r"the Prefect server of this run did not start within 0 s: .*server\.log.*--no-prefect",
        str(told.value),
    )
