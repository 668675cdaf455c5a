"""A Dask cluster on hosts that are reached by the machine's own `ssh`: a scheduler on the first, workers on all.

    here: ssh HOST python -m flows.remote_host  --stdin: order and keys, then the lifeline-->  scheduler, or workers
                                                <--stdout: one answer; stderr: what they print--

One connection for the scheduler and one for the workers of each host. `ssh` asks nothing (BatchMode), reads the
user's own configuration, and refuses a host that is not known. A host that does not answer for a minute is given up.
"""

import contextlib
import json
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from flows.certificates import make_certificates
from flows.cluster_kind import Ssh

__all__ = ["SshHosts"]

_CONNECT_S = 15
_ALIVE_S = 15  # between signs of life; four are missed before the connection counts as lost
_END_S = 10.0  # for connections to end by themselves


class SshHosts:
    """A cluster that is started when this is made, and ends with `close` or with this process.

    Raises: RuntimeError with one sentence that names the host if one of them does not start; nothing is left then.
    """

    def __init__(self, asked: Ssh, workers: int, folder: Path) -> None:
        deadline = time.monotonic() + asked.start_s
        tls = _certificates(folder / "tls", asked.hosts)
        order = {"interface": asked.interface, "memory": asked.memory, "scratch": asked.scratch, "tls": tls}
        self.security = {
            "tls_ca_file": tls["ca"],
            "tls_client_cert": tls["cert"],
            "tls_client_key": tls["key"],
        }
        self._connections: list[_Connection] = []
        try:
            head = self._connect(asked, asked.hosts[0], {**order, "scheduler": None, "workers": 0})
            self.scheduler_address = head.answer(deadline)["address"]
            turns = Counter(asked.hosts[turn % len(asked.hosts)] for turn in range(workers))
            order["scheduler"] = self.scheduler_address
            started = [
                self._connect(asked, host, {**order, "workers": count}) for host, count in turns.items()
            ]
            for one in started:
                one.answer(deadline)
        except BaseException:
            self.close(0.0)
            raise

    def close(self, end_s: float = _END_S) -> None:
        """End the workers, then the scheduler; connections that have not ended after `end_s` are killed, to the same end."""
        for one in reversed(self._connections):
            one.cut()
        deadline = time.monotonic() + end_s
        for one in self._connections:
            one.end(deadline)

    def _connect(self, asked: Ssh, host: str, order: dict[str, Any]) -> "_Connection":
        made = _Connection(host, _command(asked, host), order)
        self._connections.append(made)
        return made


class _Connection:
    """One `ssh`; what the host prints goes to our standard error with the host's name before it."""

    def __init__(self, host: str, command: Sequence[str], order: dict[str, Any]) -> None:
        self.host = host
        self._last: deque[str] = deque(maxlen=2)
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._threads = [
            threading.Thread(target=self._read, args=(stream,), daemon=True, name=f"ssh {host}")
            for stream in (self._process.stdout, self._process.stderr)
        ]
        for thread in self._threads:
            thread.start()
        self._stdin: IO[bytes] = self._process.stdin  # type: ignore[assignment]  # it is a pipe
        with contextlib.suppress(BrokenPipeError):  # it has ended; whoever waits for the answer is told
            self._stdin.write(json.dumps(order).encode() + b"\n")
            self._stdin.flush()

    def answer(self, deadline: float) -> dict[str, Any]:
        """What the host says when it is up.

        Raises: RuntimeError if it ends or has said nothing at the deadline (of time.monotonic).
        """
        try:
            found = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise RuntimeError(self._sentence("has not answered in time")) from None
        if found is None:
            self.end(deadline)
            raise RuntimeError(self._sentence("ended"))
        return found

    def cut(self) -> None:
        """The host's process sees the end of its input, and ends."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def end(self, deadline: float) -> None:
        """Wait until `ssh` has ended, and kill it at the deadline: the connection then ends with it."""
        self.cut()
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(1.0)

    def _sentence(self, what: str) -> str:
        return f"host {self.host!r} {what}: {'; '.join(self._last) or 'it has printed nothing'}"

    def _read(self, stream: IO[bytes]) -> None:
        """Pass on what the host prints; one line of its standard output is the answer, others are of its shell."""
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                if stream is self._process.stdout and line.startswith("{"):
                    self._answers.put(json.loads(line))
                    continue
                if line and not line.startswith((" ", "Traceback ")):  # of a traceback: what went wrong
                    self._last.append(line.strip())
                print(f"{self.host}: {line}", file=sys.stderr, flush=True)  # noqa: T201
        if stream is self._process.stdout:
            self._process.wait()
            self._answers.put(None)


def _command(asked: Ssh, host: str) -> list[str]:
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": str(_CONNECT_S),
        "ServerAliveInterval": str(_ALIVE_S),
        "ServerAliveCountMax": "4",
        "StrictHostKeyChecking": "yes",
        "ControlPath": "none",  # a shared connection would outlive this one
        "ClearAllForwardings": "yes",
    }
    if asked.known_hosts:
        options["UserKnownHostsFile"] = asked.known_hosts
    if asked.key:
        options["IdentitiesOnly"] = "yes"
    given = {"-l": asked.user, "-p": asked.port, "-i": asked.key}
    return [
        "ssh",
        "-T",
        "-a",
        "-x",
        *(word for name, value in options.items() for word in ("-o", f"{name}={value}")),
        *(word for name, value in given.items() if value is not None for word in (name, str(value))),
        "--",
        host,
        shlex.join([asked.python or sys.executable, "-P", "-m", "flows.remote_host"]),
    ]


def _certificates(folder: Path, hosts: Sequence[str]) -> dict[str, str]:
    """Authority, certificate and key of this run, as text; the files are gone at once."""
    paths = make_certificates(folder, list(dict.fromkeys(hosts)))
    texts = [path.read_text() for path in paths]
    for path in paths:
        path.unlink()
    return dict(zip(("ca", "cert", "key"), texts, strict=True))
