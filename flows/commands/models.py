"""The commands about models: `dlflow models`, `promote`."""

from pathlib import Path

import click

from flows.options import ENV, FILE, JSON, failures

__all__ = ["models", "promote"]


@click.command()
@FILE
@ENV
@JSON
def models(file: Path, env: str | None, as_json: bool) -> None:
    """The versions of models; which one is in use.

    The models of a pipeline file: every version, what it reached, and which is in use.

    \b
    Examples:
      dlflow models
      dlflow models --json
    """
    from flows.project import open_project  # noqa: PLC0415 - a command pays only for what it uses
    from flows.promotion import print_models  # noqa: PLC0415

    with failures():
        print_models(open_project(file, {}, env), as_json=as_json)


@click.command()
@click.argument("model")
@click.argument("version", type=int)
@FILE
@ENV
@click.option("--why", default="by hand", show_default=True, help="Is kept with the promotion.")
@JSON
def promote(model: str, version: int, file: Path, env: str | None, why: str, as_json: bool) -> None:
    """Put a version of a model into use.

    The one before it stays in the registry.

    \b
    Examples:
      dlflow promote returns 3
      dlflow promote returns 2 --why "3 is worse on Mondays"
    """
    from flows.project import open_project  # noqa: PLC0415
    from flows.promotion import promote as promote_version  # noqa: PLC0415
    from flows.tables import print_result  # noqa: PLC0415

    with failures():
        promote_version(open_project(file, {}, env), model, version, why)
        told = {"model": model, "version": version, "in_use": True}
        print_result(told, f"model {model}: version {version} is in use", as_json=as_json)
