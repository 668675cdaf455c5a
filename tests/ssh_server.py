"""An SSH server on the loopback that runs commands as OpenSSH does: `python -m tests.ssh_server FOLDER` prints its port.

FOLDER gets the user's key `id`, and `known`, the file of known hosts; `commands` says what it was asked to run. As with
OpenSSH, a command whose connection has ended sees the end of its input, and nothing else.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import asyncssh


async def serve(folder):
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(str(folder / "id"))
    (folder / "id").chmod(0o600)  # ssh takes no other
    user_key.write_public_key(str(folder / "authorized"))
    listening = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized"),
        process_factory=lambda process: _run(process, folder),
        encoding=None,
    )
    public = host_key.export_public_key().decode().strip()
    (folder / "known").write_text(f"[127.0.0.1]:{listening.get_port()} {public}\n")
    print(listening.get_port(), flush=True)
    await listening.wait_closed()


async def _run(process, folder):
    with (folder / "commands").open("a") as file:
        file.write(process.command + "\n")
    started = await asyncio.create_subprocess_shell(
        process.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    feeding = asyncio.ensure_future(_copy(process.stdin, started.stdin))
    await asyncio.gather(_copy(started.stdout, process.stdout), _copy(started.stderr, process.stderr))
    process.exit(await started.wait())
    feeding.cancel()


async def _copy(source, target):
    with contextlib.suppress(asyncssh.SignalReceived, asyncssh.Error, OSError):
        while block := await source.read(1 << 16):
            target.write(block)
            await target.drain()
    if isinstance(target, asyncio.StreamWriter):  # the command's input
        target.close()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
