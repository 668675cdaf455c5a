"""A real headless browser for pages that the project writes: what it shows, what it complains of, what it fetches."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-domain-reliability",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
)  # fmt: skip
OWN = "not an origin"  # who asked, when it was the browser itself (its updates; no name resolves here)
CONSOLE = re.compile(r'CONSOLE[:(].*?"(.*)", source:')

needs_browser = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium on this machine: apt-get install chromium (CI has it)"
)


@dataclass(frozen=True)
class Page:
    dom: str  # after all loading, as the browser understood it
    console: list[str]  # what it said: errors, refused fetches, broken policies
    fetched: list[str]  # every address on a network that the page asked for


def visit(path, *, width=1300):
    """Open a file in the browser."""
    address = Path(path).resolve().as_uri()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "net.json")
        done = subprocess.run(
            [
                PROGRAM, *QUIET, f"--user-data-dir={folder}/profile", f"--log-net-log={log}", "--enable-logging=stderr",
                "--log-level=0", f"--window-size={width},900", "--dump-dom", address,
            ],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        events = _events(log.read_text())
    asked = {
        event["params"]["url"] for event in events if event.get("params", {}).get("initiator", OWN) != OWN
    }
    return Page(done.stdout, CONSOLE.findall(done.stderr), sorted(asked))


def _events(text):
    """The events of a net log, whose end is missing when the browser leaves quickly."""
    head, _, body = text.partition('"events": [')
    lines = (line.strip().rstrip(",") for line in body.splitlines())
    assert head, "the browser wrote no net log"
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def look(address, picture=None, *, height=1400):
    """The text that a person reads on a page of a local server, once its scripts are done; a picture of it, if wanted."""
    with tempfile.TemporaryDirectory() as folder:
        common = [PROGRAM, *QUIET, f"--user-data-dir={folder}/profile", f"--window-size=1400,{height}"]
        # the page's clock runs on while its scripts wait for nothing, and stands while they fetch
        common += ["--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        shown = subprocess.run(
            [*common, "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True
        )
        if picture is not None:
            subprocess.run(
                [*common, f"--screenshot={picture}", address], capture_output=True, timeout=120, check=True
            )
    return " ".join(
        html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", shown.stdout, flags=re.DOTALL)).split()
    )
