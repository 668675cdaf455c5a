"""The command that looks at everything a run depends on: `dlflow doctor`."""

from pathlib import Path

import click

from flows.options import ENV, FILE, JSON, TLS, failures

__all__ = ["doctor"]


@click.command()
@FILE
@ENV
@click.option(
    "--scheduler", metavar="ADDRESS", help="A Dask cluster to look at: tcp://HOST:PORT or tls://HOST:PORT."
)
@TLS
@JSON
def doctor(
    file: Path, env: str | None, scheduler: str | None, tls: tuple[str, str, str] | None, as_json: bool
) -> None:
    """Look at all that a run depends on.

    Look at machine, packages, storage, Prefect and cluster, and say what to do.

    Exit code 3 if something will not work; what is only slow or risky is a note.

    \b
    Examples:
      dlflow doctor
      dlflow doctor --env prod --json
      dlflow doctor --scheduler tls://head:8786 --tls ca.pem cert.pem key.pem
    """
    from flows.doctor import examine, print_findings  # noqa: PLC0415 - a command pays only for what it uses

    with failures():
        found = examine(file, env=env, scheduler=scheduler, tls=tls)
        print_findings(found, as_json=as_json)
    if any(one.verdict == "bad" for one in found):
        raise click.exceptions.Exit(3)
