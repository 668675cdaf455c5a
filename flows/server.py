"""The Prefect API of a run: the one that is configured, else a server of our own beside the run.

Our server listens on a free port of the loopback, keeps its database in a folder of the project, sends nothing to
anyone, and ends with the run, however that ends (see flows.lifeline). It starts while the run does other things. To
look at runs of the past: `PREFECT_HOME=.dlflow/prefect prefect server start`.
"""

import os
import socket
import threading
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.lifeline import Child, Life, NoAnswerError, child

__all__ = ["Server", "ServerError", "check_api", "configured_api", "serve", "temporary_server"]

_IDLE = (
    "SCHEDULER",
    "LATE_RUNS",
    "FOREMAN",
    "CANCELLATION_CLEANUP",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "TRIGGERS",
)
"""Services that a server of one run has no work for: nothing is scheduled, handed to workers or triggered there."""


class ServerError(Exception):
    """The Prefect server of our own did not start. Look at its log, or run without Prefect."""

    exit_code = 3


@dataclass
class Server:
    """A Prefect server on its way."""

    settings: Mapping[str, str]  # environment variables for whoever uses it, but for the address
    _process: Child
    _url: str = ""

    def wait(self, deadline_s: float = 120.0) -> str:
        """The URL of its API, once it answers.

        Raises: ServerError if it does not within `deadline_s`.
        """
        try:
            self._url = self._url or self._process.answer(deadline_s)
            # It listened before it was ready: the request waits in line until the server takes it.
            with urllib.request.urlopen(f"{self._url}/health", timeout=deadline_s):  # noqa: S310  our own http address
                return self._url
        except (NoAnswerError, OSError) as error:
            raise ServerError(
                f"the Prefect server of this run did not start within {deadline_s:g} s: "
                f"{self._process.last_words() or error}; its log is {str(self._process.log)!r}; run with --no-prefect"
            ) from error


@contextmanager
def temporary_server(folder: Path, *, scheduling: bool = False, ui: bool = False) -> Iterator[Server]:
    """A Prefect server that lives as long as the block; its home, database and log are in `folder`.

    With `ui` it has its web pages. With `scheduling` it also makes the runs of deployments, as a server that is there to stay does.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = _settings(folder)
    services = {} if scheduling else {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _IDLE}
    with child(
        "flows.server:serve",
        {
            "outside": [
                name
                for name in os.environ
                if name.startswith("PREFECT_") and name not in {*settings, *services}
            ]
        },
        environment={**settings, **services, "PREFECT_SERVER_UI_ENABLED": str(ui).lower()},
        log=folder / "server.log",
    ) as process:
        yield Server(settings, process)


def serve(life: Life, *, outside: list[str]) -> None:
    """The server's whole life; `outside` are settings of the user that are not meant for it."""
    for name in outside:
        os.environ.pop(name, None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    os.environ["PREFECT_UI_API_URL"] = url  # else its pages would look for an API at port 4200
    life.answer(url)

    server: Any = None

    def end() -> None:
        life.cut.wait()
        if server is None or not server.started:  # it would first migrate its database to the end
            life.leave()
        server.should_exit = True

    threading.Thread(target=end, daemon=True, name="end").start()
    import uvicorn  # noqa: PLC0415  the rest takes seconds
    from prefect.server.api.server import create_app  # noqa: PLC0415

    server = uvicorn.Server(
        uvicorn.Config(create_app(final=True), log_level="warning", timeout_graceful_shutdown=2)
    )
    server.run(sockets=[listener])
    life.leave()  # else its database threads keep it for another second


def configured_api() -> str | None:
    """The URL of the Prefect API that the user has configured, read without importing Prefect (0.7 s).

    PREFECT_API_URL comes first, then the profile that is active: PREFECT_PROFILE, else the one named in profiles.toml.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    profiles = _profiles()
    name = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    profile = profiles.get("profiles", {}).get(name, {})
    return profile.get("PREFECT_API_URL") or profile.get("api", {}).get("url") or None


def check_api(url: str, deadline_s: float = 5.0) -> None:
    """Nothing, if a Prefect API answers at this URL, whatever it answers.

    Raises: ServerError.
    """
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=deadline_s):  # noqa: S310  the user's own setting
            return
    except urllib.error.HTTPError:  # it wants a key, which Prefect has and we need not
        return
    except (OSError, ValueError) as error:
        raise ServerError(
            f"the Prefect API at {url!r} does not answer ({getattr(error, 'reason', error)}); start it (it needs some "
            "seconds), correct PREFECT_API_URL or the active profile, or use `dlflow run --no-prefect`: the tables are the same"
        ) from error


def _profiles() -> dict[str, Any]:
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or one that Prefect itself will complain about
        return {}


def _settings(folder: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(folder.resolve()),
        "PREFECT_PROFILES_PATH": str(folder.resolve() / "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
