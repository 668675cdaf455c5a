"""The commands that have Prefect run a pipeline, and show what ran: `dlflow deploy`, `serve`, `status`, `backfill`."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flows.options import ENV, FILE, JSON, SET, TLS, failures, settings_of

__all__ = ["backfill", "deploy", "serve", "status"]

FLOWS = ("nightly", "build", "train", "score", "maintain")
FLOW = click.option(
    "--flow",
    type=click.Choice(FLOWS),
    default="nightly",
    show_default=True,
    help="nightly: tables, models, gate, release.",
)
NAME = click.option("--name", help="Of the deployment (default: the pipeline's).")
CRON = click.option("--cron", metavar='"M H D M W"', help="When, in UTC.")
EVERY = click.option(
    "--every", type=click.FloatRange(min=1), metavar="SECONDS", help="So often, instead of --cron."
)
RELEASE = click.option(
    "--release", metavar="NAME", help="nightly: release the tables by this name; %Y_%m_%d in it is the date."
)
SCORE = click.option(
    "--score",
    nargs=3,
    metavar="MODEL TABLE INTO",
    help="score: answer the rows of TABLE by MODEL, into table INTO.",
)
WORKERS = click.option(
    "--workers", type=click.IntRange(0), help="Worker processes of each run; 0: in the run's own process."
)
SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="A running Dask cluster, for each run.")
STEP_TIMEOUT = click.option(
    "--step-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="After which a table or model that is not done is given up (default: a day).",
)


def _scheduled(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a schedule: what is run, how, and when."""
    for option in reversed(
        (FILE, SET, ENV, FLOW, NAME, CRON, EVERY, RELEASE, SCORE, WORKERS, SCHEDULER, TLS, STEP_TIMEOUT)
    ):
        command = option(command)
    return command


@click.command()
@_scheduled
@click.option("--work-pool", "pool", default="dlflow", show_default=True, help="Made, if it is not there.")
@JSON
def deploy(file: Path, pool: str, as_json: bool, **asked: Any) -> None:
    """Have Prefect run a pipeline file by a schedule.

    Needs a Prefect API (PREFECT_API_URL), and a worker that takes the runs: prefect worker start --pool dlflow

    \b
    Examples:
      dlflow deploy --cron "0 3 * * *"
      dlflow deploy --env prod --cron "0 3 * * *" --release "nightly_%Y_%m_%d"
      dlflow deploy --flow maintain --name upkeep --cron "0 5 * * 0"
      dlflow deploy --flow score --score returns sales returns_expected --name scores --cron "30 3 * * *"
    """
    from flows.deployment import deploy as deploy_file  # noqa: PLC0415 - a command pays only for what it uses
    from flows.tables import print_result  # noqa: PLC0415

    with failures():
        project, schedule = _schedule(file, asked)
        name = deploy_file(project, schedule, pool=pool)
        when = asked["cron"] or (f"every {asked['every']:g} s" if asked["every"] else "when it is asked for")
        told = {"deployment": name, "work_pool": pool, "cron": asked["cron"], "every_s": asked["every"]}
        print_result(told, f"{name}: {when}, in work pool {pool}", as_json=as_json)
        click.echo(
            f'next: prefect worker start --pool {pool}     or now: prefect deployment run "{name}"', err=True
        )


@click.command()
@_scheduled
def serve(file: Path, **asked: Any) -> None:
    """Run a file by a schedule, in this process.

    Run a pipeline file by a schedule in this process, until Ctrl-C.

    Without a configured Prefect API it starts a server of its own, with its pages.

    \b
    Examples:
      dlflow serve --cron "*/10 * * * *"
      dlflow serve --every 60                      looks for new files every minute
    """
    from flows.deployment import serve as serve_file  # noqa: PLC0415

    if not (asked["cron"] or asked["every"]):
        raise click.UsageError('give a schedule: --cron "0 3 * * *" or --every SECONDS')
    with failures():
        project, schedule = _schedule(file, asked)
        serve_file(project, schedule, project.state / "prefect")


@click.command()
@FILE
@SET
@ENV
@click.option("--runs", default=5, show_default=True, help="Runs to show.")
@JSON
def status(file: Path, settings: tuple[str, ...], env: str | None, runs: int, as_json: bool) -> None:
    """Last runs, ages of tables, what is scheduled.

    The last runs, the age of each table, the models in use, and what is scheduled.

    \b
    Examples:
      dlflow status
      dlflow status --env prod --runs 20
      dlflow status --json
    """
    from flows.project import open_project  # noqa: PLC0415
    from flows.status import print_status  # noqa: PLC0415

    with failures():
        print_status(open_project(file, settings_of(settings), env), runs=runs, as_json=as_json)


@click.command()
@FILE
@SET
@ENV
@click.option(
    "--from",
    "first",
    required=True,
    metavar="DATE",
    help="First period: 2026-01-31, 2026-01 or 2026-01-31T05.",
)
@click.option("--to", "last", required=True, metavar="DATE", help="Last period, included.")
@click.option("--by", type=click.Choice(["hour", "day", "month"]), default="day", show_default=True)
@click.option("--param", default="day", show_default=True, help="The value of [params] that gets the period.")
@click.option(
    "--at-once", type=click.IntRange(1), default=1, show_default=True, help="Periods run at the same time."
)
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Worker processes of each run."
)
@click.option("--dry-run", is_flag=True, help="Say what would be run.")
@JSON
def backfill(
    file: Path,
    settings: tuple[str, ...],
    env: str | None,
    first: str,
    last: str,
    by: Any,
    param: str,
    at_once: int,
    workers: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Run a file once for each period of a range.

    Run a pipeline file once for each period of a range; what is done is remembered, so a second call does the rest.

    \b
    Examples, for a source with path = "data/{day}/*.csv" and a table with load = "append":
      dlflow backfill --from 2026-01-01 --to 2026-01-31 --by day --param day
      dlflow backfill --from 2026-01 --to 2026-12 --by month --param month --at-once 4
      dlflow backfill --from 2026-01-01 --to 2026-01-31 --dry-run --json
    """
    from flows.backfill import plan_backfill, run_backfill  # noqa: PLC0415
    from flows.project import open_project  # noqa: PLC0415
    from flows.tables import print_json  # noqa: PLC0415

    ended: dict[str, str] = {}

    def tell(period: str, problem: str) -> None:
        ended[period] = problem or "done"
        click.echo(f"{period}  {ended[period]}", err=as_json)

    with failures():
        project = open_project(file, settings_of(settings), env)
        plan = plan_backfill(project, first=first, last=last, by=by, param=param)
        click.echo(
            f"{len(plan.wanted)} periods, {len(plan.wanted) - len(plan.left)} done before, {len(plan.left)} to run",
            err=as_json,
        )
        if dry_run:
            if as_json:
                print_json({"periods": list(plan.wanted), "left": list(plan.left), "ended": {}})
            else:
                click.echo("\n".join(plan.left))
            return
        extra = ["--workers", str(workers), *(["--env", env] if env else [])]
        for pair in settings:
            extra += ["--set", pair]
        try:
            run_backfill(plan, at_once=at_once, arguments=extra, tell=tell)
        finally:
            if as_json:
                left = [each for each in plan.left if ended.get(each) != "done"]
                print_json({"periods": list(plan.wanted), "left": left, "ended": ended})


def _schedule(file: Path, asked: dict[str, Any]) -> tuple[Any, Any]:
    from flows.deployment import Schedule  # noqa: PLC0415
    from flows.parameters import Parameters  # noqa: PLC0415
    from flows.project import open_project  # noqa: PLC0415
    from pipelines.warehouse.names import check_table  # noqa: PLC0415

    if asked["cron"] and asked["every"]:
        raise click.UsageError("--cron and --every: give one of them")
    if asked["release"] and asked["flow"] != "nightly":
        raise click.UsageError("--release is for --flow nightly")
    if (asked["flow"] == "score") != bool(asked["score"]):
        raise click.UsageError("--flow score needs --score MODEL TABLE INTO, and no other flow takes it")
    if asked["release"]:
        check_table(dt.datetime.now(dt.UTC).strftime(asked["release"]))
    settings = settings_of(asked["settings"])
    project = open_project(file, settings, asked["env"])
    if asked["scheduler"] and asked["workers"] is not None:
        raise click.UsageError("--scheduler uses the workers that are there; leave --workers out")
    run = Parameters(
        file=str(project.pipeline.file),
        env=asked["env"],
        settings=settings,
        workers=asked["workers"],
        scheduler=asked["scheduler"],
        tls=asked["tls"],
        **({} if asked["step_timeout"] is None else {"step_timeout_s": asked["step_timeout"]}),
    )
    parameters: dict[str, Any] = {"run": run.model_dump(mode="json", exclude_defaults=True)}
    if asked["release"]:
        parameters["release"] = asked["release"]
    if asked["score"]:
        parameters |= dict(zip(("model", "table", "into"), asked["score"], strict=True))
    return project, Schedule(
        flow=asked["flow"],
        name=asked["name"],
        cron=asked["cron"],
        every_s=asked["every"],
        parameters=parameters,
    )
