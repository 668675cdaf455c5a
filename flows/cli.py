"""The `dlflow` command. Results go to stdout; what fails is one sentence and one fix, with the traceback in a log file.

Exit codes: 0 done (or nothing to do), 1 a bug of dlflow, 2 the pipeline file or the data, 3 the machine (workers, disk, cluster),
4 another run won, 130 Ctrl-C, 143 SIGTERM.
"""

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

# One BLAS thread, for this process and for the workers it starts: more change the bits and slow small products down.
# It has to be said before NumPy is imported for the first time.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import click  # noqa: E402 - see above

from flows.failures import explain, show_warning  # noqa: E402

__all__ = ["main"]

PIPELINE = "pipeline.toml"
FILE = click.argument("file", type=click.Path(path_type=Path), default=PIPELINE)
SET = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Override a value of [params]; may be repeated.",
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which people need them."""
        del ctx
        return list(self.commands)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="dlflow")
def cli() -> None:
    """From raw rows to a trained model: dirty files in, committed tables and a model out.

    \b
    First steps:
      dlflow demo                 see the whole thing on data made up on the spot
      dlflow new shop             a project of your own that runs at once
      cd shop && dlflow run
    """


def main() -> None:
    """Entry point: every known failure is one sentence."""
    _terminate_like_interrupt()
    warnings.showwarning = show_warning
    try:
        code = cli.main(prog_name="dlflow", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort, _Terminated) as stop:
        click.echo("stopped; what was committed stays, run again to continue", err=True)
        code = 143 if isinstance(stop, _Terminated) else 130
    except BrokenPipeError:  # `dlflow sql ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


class _Terminated(BaseException):
    """SIGTERM: the run ends as by Ctrl-C."""


def _terminate_like_interrupt() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)


@cli.command()
@click.option("--rows", default=100_000, show_default=True, help="Orders to make up.")
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
    """
    from flows.demo import demo as run_demo  # noqa: PLC0415 - a command pays only for what it uses

    with _failures():
        run_demo(
            folder, rows=rows, seed=seed, workers=workers, prefect=prefect, kill_worker=kill_worker, keep=keep
        )


@cli.command()
@FILE
@SET
@click.option(
    "--workers",
    type=click.IntRange(0),
    help="Worker processes of a local cluster (default: as many as the machine has cores); 0: this process.",
)
@click.option(
    "--scheduler", metavar="ADDRESS", help="A running Dask cluster: tcp://HOST:PORT or tls://HOST:PORT."
)
@click.option(
    "--tls",
    nargs=3,
    type=click.Path(exists=True),
    metavar="CA CERT KEY",
    help="Certificates for a tls:// address.",
)
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
def run(
    file: Path,
    settings: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    tls: tuple[str, str, str] | None,
    prefect: bool | None,
    prove: bool,
    report: Path | None,
) -> None:
    """Bring tables and models up to date.

    FILE is the pipeline file, pipeline.toml by default.

    \b
    Examples:
      dlflow run                                   on this machine
      dlflow run --workers 0                       in this process, no cluster
      dlflow run --scheduler tls://head:8786 --tls ca.pem cert.pem key.pem
      dlflow run --set data=/mnt/raw --prefect
    """
    from flows.run import run_file  # noqa: PLC0415
    from flows.session import Options  # noqa: PLC0415

    if scheduler and workers is not None:
        raise click.UsageError("--scheduler uses the workers that are there; leave --workers out")
    if tls and not scheduler:
        raise click.UsageError(
            "--tls is for a cluster that is reached by its address; add --scheduler tls://HOST:PORT"
        )
    with _failures():
        run_file(
            file,
            _settings(settings),
            Options(workers=workers, scheduler=scheduler, tls=tls, prove=prove, report=report),
            prefect=prefect,
        )


@cli.command()
@FILE
@SET
def check(file: Path, settings: tuple[str, ...]) -> None:
    """Check a pipeline file without running it.

    Everything that can be known is told, all problems at once, each with its line.
    """
    from flows.project import open_project  # noqa: PLC0415

    with _failures():
        project = open_project(file, _settings(settings))
        pipeline = project.pipeline
        click.echo(
            f"{file}: fine: {_plural(pipeline.sources, 'source')}, {_plural(pipeline.tables, 'table')}, {_plural(project.models, 'model')}"
        )


@cli.command()
@FILE
@SET
def plan(file: Path, settings: tuple[str, ...]) -> None:
    """What `dlflow run` would do, and why."""
    from flows.project import open_project  # noqa: PLC0415
    from flows.run import plan_text  # noqa: PLC0415

    with _failures():
        click.echo(plan_text(open_project(file, _settings(settings))))


@cli.command()
@click.argument("name")
@click.option("--rows", default=20_000, show_default=True, help="Rows of example data.")
def new(name: str, rows: int) -> None:
    """A new project that runs at once.

    The folder NAME gets a pipeline file to change, and example data.
    """
    from flows.demo import new_project  # noqa: PLC0415

    with _failures():
        folder = Path(name)
        new_project(folder, rows=rows, seed=1)
        click.echo(
            f"made {folder}/: {PIPELINE} and data/ with example files\nnext: cd {folder} && dlflow run"
        )


WAREHOUSE = click.option(
    "--warehouse",
    type=click.Path(path_type=Path),
    help="Folder of the tables (default: that of pipeline.toml here, or ./warehouse).",
)
JSON = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@cli.command()
@WAREHOUSE
@JSON
def tables(warehouse: Path | None, as_json: bool) -> None:
    """The tables of the warehouse."""
    from flows.tables import print_tables  # noqa: PLC0415

    with _failures():
        print_tables(_warehouse(warehouse), as_json=as_json)


@cli.command()
@click.argument("table")
@WAREHOUSE
@JSON
def history(table: str, warehouse: Path | None, as_json: bool) -> None:
    """The versions of a table: when, who, rows, why."""
    from flows.tables import print_history  # noqa: PLC0415

    with _failures():
        print_history(_warehouse(warehouse), table, as_json=as_json)


@cli.command()
@click.argument("query")
@WAREHOUSE
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.option("--limit", default=100, show_default=True, help="Rows shown as a table; csv and json give all.")
def sql(query: str, warehouse: Path | None, form: str, limit: int) -> None:
    """Ask the tables in SQL; reads only.

    \b
    Examples:
      dlflow sql "select month, count(*) from sales group by month order by month"
      dlflow sql "select rule, count(*) from orders__quarantine group by rule" --format json
    """
    from flows.tables import print_query  # noqa: PLC0415

    with _failures():
        print_query(_warehouse(warehouse), query, form=form, limit=limit)


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set {pair}: expected NAME=VALUE")
        settings[name] = value
    return settings


def _warehouse(given: Path | None) -> Path:
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
def _failures() -> Iterator[None]:
    """Known errors become one sentence and an exit code; unknown ones a sentence and a traceback in a file."""
    try:
        yield
    except (KeyboardInterrupt, _Terminated, BrokenPipeError, click.ClickException):
        raise
    except Exception as error:
        text, code = explain(error)
        click.echo(text, err=True)
        raise click.exceptions.Exit(code) from error


def _plural(things: Any, noun: str) -> str:
    count = len(things)
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


if __name__ == "__main__":
    main()
