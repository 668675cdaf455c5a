"""What the commands share: arguments, where the warehouse is, and how a failure is told."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from flows.failures import explain
from pipelines.access import is_url
from pipelines.errors import SpecError
from pipelines.places import Place, root_of

__all__ = [
    "ENV",
    "FILE",
    "JSON",
    "PIPELINE",
    "SET",
    "TLS",
    "WAREHOUSE",
    "WORKERS",
    "Terminated",
    "failures",
    "settings_of",
    "warehouse_of",
]

PIPELINE = "pipeline.toml"
FILE = click.argument("file", type=click.Path(path_type=Path), default=PIPELINE)
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Override a value of [params]; may be repeated.",
)
ENV = click.option(
    "--env", metavar="NAME", help="Use [env.NAME] of the file: other params, warehouse, cluster."
)


class _Root(click.ParamType):
    """A folder, or a prefix of an object store."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Place:
        """The place."""
        if not isinstance(value, str):
            given: Place = value
            return given
        try:
            return root_of(value) if is_url(value) else Path(value)
        except SpecError as error:
            self.fail(str(error), param, ctx)


WAREHOUSE = click.option(
    "--warehouse",
    type=_Root(),
    help="Folder of the tables, or s3://bucket/prefix (default: that of pipeline.toml here, or ./warehouse).",
)
TLS = click.option(
    "--tls",
    nargs=3,
    type=click.Path(exists=True, resolve_path=True),
    metavar="CA CERT KEY",
    help="Certificates for a tls:// address.",
)
WORKERS = click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Worker processes of a local cluster; 0: this process.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


class Terminated(BaseException):
    """SIGTERM: the run ends as by Ctrl-C."""


def settings_of(pairs: tuple[str, ...], option: str = "--set") -> dict[str, str]:
    """The values of --set, or of another option, by name."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} {pair}: expected NAME=VALUE")
        settings[name] = value
    return settings


def warehouse_of(given: Place | None) -> Place:
    """The folder of --warehouse, else that of the pipeline file here, else ./warehouse."""
    if given is not None:
        return given
    if Path(PIPELINE).exists():
        from flows.project import open_project  # noqa: PLC0415

        return open_project(Path(PIPELINE)).pipeline.warehouse
    if Path("warehouse").is_dir():
        return Path("warehouse")
    raise click.UsageError(
        f"there is no {PIPELINE} and no folder warehouse/ here; go to a project, or give --warehouse FOLDER"
    )


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Known errors become one sentence and an exit code; unknown ones a sentence and a traceback in a file."""
    try:
        yield
    except (KeyboardInterrupt, Terminated, BrokenPipeError, click.ClickException):
        raise
    except Exception as error:
        text, code = explain(error)
        click.echo(text, err=True)
        raise click.exceptions.Exit(code) from error
