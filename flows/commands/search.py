"""The command that looks for better settings of a model: `dlflow search`."""

from pathlib import Path

import click

from flows.options import ENV, JSON, PIPELINE, SET, WORKERS, failures, settings_of

__all__ = ["search"]


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path), default=PIPELINE)
@click.option(
    "--try",
    "tries",
    multiple=True,
    required=True,
    metavar="NAME=VALUES",
    help="A place in [models.MODEL] and its values: 8,32 or 0.1..0.5 or 1e-4..1e-1:log; may be repeated.",
)
@click.option(
    "--count", type=click.IntRange(1), help="So many random candidates (default: all combinations)."
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-validate over training and validation rows, row by row (default: train, and compare on the validation rows).",
)
@click.option(
    "--monitor", default="loss", show_default=True, help="What is compared: loss, accuracy, auc, mae, ..."
)
@click.option("--seed", default=0, show_default=True, help="Of the candidates and the folds.")
@WORKERS
@click.option("--limit", default=20, show_default=True, help="Candidates shown; --json gives all.")
@SET
@ENV
@JSON
def search(
    model: str,
    file: Path,
    tries: tuple[str, ...],
    count: int | None,
    folds: int | None,
    monitor: str,
    seed: int,
    workers: int,
    limit: int,
    settings: tuple[str, ...],
    env: str | None,
    as_json: bool,
) -> None:
    """Compare other settings of a model.

    Trains candidates, and compares them on the same held-out rows, the best first.

    The table of features has to be there (dlflow run). Test rows are never looked at, nothing is registered.

    \b
    Examples:
      dlflow search returns --try layers.0.units=16,64 --try optimizer.learning_rate=1e-4..1e-1:log --count 20
      dlflow search returns --try epochs=2,5,10 --monitor auc --workers 4
    """
    from flows.project import open_project  # noqa: PLC0415 - a command pays only for what it uses
    from flows.session import Options, client_of  # noqa: PLC0415
    from flows.tables import print_json, print_rows  # noqa: PLC0415
    from flows.tuning import space_of, tune  # noqa: PLC0415

    with failures():
        space = space_of(tries)
        project = open_project(file, settings_of(settings), env)
        with client_of(Options(workers=workers)) as client:
            found = tune(
                project, model, space, count=count, folds=folds, monitor=monitor, seed=seed, client=client
            )
        if as_json:
            print_json(found)
            return
        if not any(one["error"] for one in found):
            found = [{key: value for key, value in one.items() if key != "error"} for one in found]
        if folds is None:
            found = [{key: value for key, value in one.items() if key != "deviation"} for one in found]
        print_rows(list(found[0]), [list(one.values()) for one in found[:limit]])
