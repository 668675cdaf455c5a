"""The commands that make tables and models: `dlflow demo`, `new`, `check`, `plan`, `run`."""

import sys
from pathlib import Path
from typing import Any

import click

from flows.options import ENV, FILE, JSON, PIPELINE, SET, TLS, failures, settings_of

__all__ = ["check", "demo", "new", "plan", "run"]


@click.command()
@click.option(
    "--rows", type=click.IntRange(500), default=100_000, show_default=True, help="Orders to make up."
)
@click.option("--seed", default=1, show_default=True, help="Another seed makes other data.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("dlflow-demo"),
    show_default=True,
    help="Where everything goes.",
)
@click.option("--workers", default=2, show_default=True, help="Worker processes; 0: this process.")
@click.option(
    "--prefect/--no-prefect",
    default=True,
    help="As a Prefect flow (starts a server if none is configured), or directly.",
)
@click.option(
    "--kill-worker", is_flag=True, help="kill -9 a worker during training: the weights stay the same."
)
@click.option("--keep", is_flag=True, help="Keep what the folder holds: only what is out of date runs.")
def demo(
    rows: int, seed: int, folder: Path, workers: int, prefect: bool, kill_worker: bool, keep: bool
) -> None:
    """The whole mission on made-up dirty data.

    Ingest, clean, integrate, warehouse, train, report; two workers, and the proof that one gives the same weights.

    \b
    Examples:
      dlflow demo
      dlflow demo --kill-worker
      dlflow demo --rows 1000000 --workers 4 --no-prefect
    """
    from flows.demo import demo as run_demo  # noqa: PLC0415 - a command pays only for what it uses

    with failures():
        run_demo(
            folder, rows=rows, seed=seed, workers=workers, prefect=prefect, kill_worker=kill_worker, keep=keep
        )


@click.command()
@FILE
@SET
@ENV
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Worker processes of a local cluster (default: as many as the machine has cores); 0: this process.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="A running Dask cluster: tcp://HOST:PORT or tls://HOST:PORT."
)
@TLS
@click.option(
    "--prefect/--no-prefect",
    default=None,
    help="Run as a Prefect flow, or directly (default: Prefect if an API is configured).",
)
@click.option(
    "--prove", is_flag=True, help="Train a second time on one worker and compare the weights, bit for bit."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Where the HTML report goes (default: report.html beside the pipeline file).",
)
@JSON
def run(
    file: Path,
    settings: tuple[str, ...],
    env: str | None,
    workers: int | None,
    scheduler: str | None,
    tls: tuple[str, str, str] | None,
    prefect: bool | None,
    prove: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Bring tables and models up to date.

    FILE is the pipeline file, pipeline.toml by default.

    \b
    Examples:
      dlflow run                                   on this machine
      dlflow run --workers 0                       in this process, no cluster
      dlflow run --scheduler tls://head:8786 --tls ca.pem cert.pem key.pem
      dlflow run --set data=/mnt/raw --prefect
      dlflow run --env prod                        with [env.prod] of the file
      dlflow run --json | jq .ledger               progress on stderr, the result on stdout
    """
    from flows.run import run_facts, run_file  # noqa: PLC0415
    from flows.session import Options  # noqa: PLC0415
    from flows.tables import print_json  # noqa: PLC0415
    from flows.terminal import Terminal  # noqa: PLC0415

    if scheduler and workers is not None:
        raise click.UsageError("--scheduler uses the workers that are there; leave --workers out")
    if tls and not scheduler:
        raise click.UsageError(
            "--tls is for a cluster that is reached by its address; add --scheduler tls://HOST:PORT"
        )
    with failures():
        record = run_file(
            file,
            settings_of(settings),
            Options(workers=workers, scheduler=scheduler, tls=tls, prove=prove, report=report),
            prefect=prefect,
            env=env,
            terminal=Terminal(sys.stderr) if as_json else None,
        )
        if as_json:
            print_json(run_facts(record))


@click.command()
@FILE
@SET
@ENV
@JSON
def check(file: Path, settings: tuple[str, ...], env: str | None, as_json: bool) -> None:
    """Check a pipeline file without running it.

    Everything that can be known is told, all problems at once, each with its line.

    \b
    Examples:
      dlflow check
      dlflow check shop/pipeline.toml --env prod
      dlflow check --json                          the problems as a list; exit code 2 if there are any
    """
    from flows.project import open_project  # noqa: PLC0415
    from flows.tables import print_json, print_result  # noqa: PLC0415
    from pipelines.errors import SpecError  # noqa: PLC0415

    with failures():
        try:
            project = open_project(file, settings_of(settings), env)
        except SpecError as error:
            if as_json:
                print_json({"file": str(file), "problems": list(error.problems)})
            raise
        parts = {
            "source": project.pipeline.sources,
            "table": project.pipeline.tables,
            "model": project.models,
        }
        facts = {"file": str(file), "problems": []} | {
            f"{noun}s": list(found) for noun, found in parts.items()
        }
        counted = ", ".join(_plural(found, noun) for noun, found in parts.items())
        print_result(facts, f"{file}: fine: {counted}", as_json=as_json)


@click.command()
@FILE
@SET
@ENV
@JSON
def plan(file: Path, settings: tuple[str, ...], env: str | None, as_json: bool) -> None:
    """What `dlflow run` would do, and why.

    \b
    Examples:
      dlflow plan
      dlflow plan --set data=/mnt/raw
      dlflow plan --json | jq '.tables[] | select(.action != "keep").table'
    """
    from flows.project import open_project  # noqa: PLC0415
    from flows.run import plan_facts, plan_text  # noqa: PLC0415
    from flows.tables import print_json  # noqa: PLC0415

    with failures():
        project = open_project(file, settings_of(settings), env)
        if as_json:
            print_json(plan_facts(project))
        else:
            click.echo(plan_text(project))


@click.command()
@click.argument("name")
@click.option("--rows", type=click.IntRange(500), default=20_000, show_default=True, help="Of example data.")
@JSON
def new(name: str, rows: int, as_json: bool) -> None:
    """A new project that runs at once.

    The folder NAME gets a pipeline file to change, and example data.

    \b
    Examples:
      dlflow new shop && cd shop && dlflow run
      dlflow new shop --rows 1000000
    """
    from flows.demo import new_project  # noqa: PLC0415
    from flows.tables import print_result  # noqa: PLC0415

    with failures():
        folder = Path(name)
        new_project(folder, rows=rows, seed=1)
        said = f"made {folder}/: {PIPELINE} and data/ with example files\nnext: cd {folder} && dlflow run"
        print_result({"folder": str(folder), "file": str(folder / PIPELINE)}, said, as_json=as_json)


def _plural(things: Any, noun: str) -> str:
    count = len(things)
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
