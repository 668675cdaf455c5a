"""The command that makes TLS files for a Dask cluster: `dlflow certificates`."""

from pathlib import Path

import click

from flows.options import JSON, failures

__all__ = ["certificates"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("localhost", "127.0.0.1"),
    show_default=True,
    help="May be repeated.",
)
@click.option(
    "--days", type=click.IntRange(1), default=365, show_default=True, help="How long they are valid."
)
@JSON
def certificates(folder: Path, hosts: tuple[str, ...], days: int, as_json: bool) -> None:
    """Make TLS files for a Dask cluster.

    Make the TLS files of a Dask cluster: ca.pem, cert.pem and key.pem in FOLDER.

    \b
    Examples:
      dlflow certificates tls --host head --host node1 --host node2
      dask scheduler --host tls://head --tls-ca-file tls/ca.pem --tls-cert tls/cert.pem --tls-key tls/key.pem
      dlflow run --scheduler tls://head:8786 --tls tls/ca.pem tls/cert.pem tls/key.pem
    """
    from flows.certificates import make_certificates  # noqa: PLC0415 - a command pays only for what it uses
    from flows.tables import print_result  # noqa: PLC0415

    with failures():
        paths = make_certificates(folder, hosts, days=days)
        told = dict(zip(("authority", "certificate", "key"), map(str, paths), strict=True))
        print_result(told, "\n".join(told.values()), as_json=as_json)
        click.echo(
            f"who has {paths[-1].name} may run code on the cluster: keep it to its machines; valid for {days} days",
            err=True,
        )
