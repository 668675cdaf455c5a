"""A local S3 server for tests: moto in a process of its own, which enforces conditional puts."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from pyarrow import fs

from pipelines.stores import Storage

__all__ = ["Store", "store_server"]

KEY, SECRET = "AKIDEXAMPLE", "s3cr3t/key+of=store"


@dataclass(frozen=True)
class Store:
    """A running server."""

    endpoint: str

    @property
    def storage(self) -> Storage:
        """How it is reached."""
        return Storage(endpoint=self.endpoint, key=KEY, secret=SECRET, region="us-east-1")

    @property
    def environment(self) -> dict[str, str]:
        """The same, for a program."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def files(self) -> fs.S3FileSystem:
        """For tests that put and remove objects."""
        return fs.S3FileSystem(
            access_key=KEY,
            secret_key=SECRET,
            region="us-east-1",
            scheme="http",
            endpoint_override=self.endpoint.removeprefix("http://"),
            allow_bucket_creation=True,
        )

    def put(self, url: str, content: bytes | str) -> str:
        """Write an object; its URL."""
        with self.files().open_output_stream(url.removeprefix("s3://"), compression=None) as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return url


@contextlib.contextmanager
def store_server(**environment: str) -> Iterator[Store]:
    """Start a server and stop it again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        endpoint, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()  # noqa: S310 - our own
                break
            except OSError:
                assert server.poll() is None, "moto ended; is moto[s3] with flask installed?"
                assert time.monotonic() < deadline, "moto did not answer within 60 s"
                time.sleep(0.05)
        yield Store(endpoint)
    finally:
        server.terminate()
        server.wait(10)
