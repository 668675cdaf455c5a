"""An SSH server on the loopback that runs commands as OpenSSH does: `python -m tests.ssh_server FOLDER` prints its port.

FOLDER gets the user's key `id`, and `known`, the file of known hosts; `commands` says what it was asked to run.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

import asyncssh


async def serve(folder):
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(str(folder / "id"))
    user_key.write_public_key(str(folder / "authorized"))
    listening = await asyncssh.listen(
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        authorized_client_keys=str(folder / "authorized"),
        process_factory=lambda process: _run(process, folder),
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
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    await process.redirect(stdout=started.stdout, stderr=started.stderr)
    gone = asyncio.ensure_future(_gone(process))
    ended = asyncio.ensure_future(started.wait())
    await asyncio.wait({gone, ended}, return_when=asyncio.FIRST_COMPLETED)
    if started.returncode is None:
        os.killpg(started.pid, signal.SIGKILL)
    process.exit(await ended)


async def _gone(process):
    """The client has sent a signal, or its connection is lost."""
    try:
        while await process.stdin.read(1024):
            pass
        await process.channel.wait_closed()  # an end of the input alone is none
    except (asyncssh.SignalReceived, asyncssh.Error, OSError):
        pass


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
