"""A private PostgreSQL server for tests: its own folder, port, user and password; it ends with the session."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PASSWORD", "Postgres", "bin_folder", "postgres_server"]

PASSWORD = "s3cr3t@:/%?"  # every sign that a URL reads otherwise
USER = "loader"


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    folder: Path

    def url(self, database: str = "postgres", *, password: str = PASSWORD, port: int | None = None) -> str:
        """Where a database is, with the password."""
        return f"postgresql://{USER}:{urllib.parse.quote(password, safe='')}@127.0.0.1:{port or self.port}/{database}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each in a transaction of its own."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.url(database), autocommit=True) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, query: str, database: str = "postgres") -> list[tuple]:
        """The answer to a query."""
        from adbc_driver_postgresql import dbapi

        with dbapi.connect(self.url(database), autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


def bin_folder() -> Path | None:
    """Where Debian, or the path, has the server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [
        Path(path).resolve() for path in [shutil.which("initdb")] if path
    ]
    return found[-1].parent if found else None


@contextlib.contextmanager
def postgres_server(programs: Path) -> Iterator[Postgres]:
    """Start a server and stop it again. PostgreSQL refuses root, and another user may not enter pytest's folders."""
    user = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="dlflow-postgres-"))
    password = folder / "password"
    password.write_text(PASSWORD)
    if user:
        for path in (folder, password):
            os.chown(path, pwd.getpwnam(user).pw_uid, -1)
    data = folder / "data"
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    try:
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                USER,
                "-A",
                "scram-sha-256",
                f"--pwfile={password}",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            user=user,
            env=environment,
            cwd=folder,
            check=True,
            capture_output=True,
            timeout=60,
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder}
        settings |= {"fsync": "off", "max_connections": 40, "shared_buffers": "64MB"}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        control = [programs / "pg_ctl", "-D", data, "-w", "-t", "60"]
        log = ["-l", folder / "log", "-o", options]
        subprocess.run(
            [*control, *log, "start"],
            user=user,
            env=environment,
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=90,
        )
        try:
            yield Postgres(port, folder)
        finally:
            subprocess.run(
                [*control, "-m", "immediate", "stop"],
                user=user,
                env=environment,
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                timeout=90,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
