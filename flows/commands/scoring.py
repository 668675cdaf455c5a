"""The commands that use a trained model: `dlflow predict`, `score`, `score-server`, `export-model`, `explain`."""

from pathlib import Path

import click

from flows.options import JSON, WAREHOUSE, WORKERS, failures, warehouse_of
from pipelines.places import Place, state_folder

__all__ = ["explain", "export_model", "predict", "score", "score_server"]

VERSION = click.option(
    "--version", type=click.IntRange(1), help="Of the model (default: the one in use, else the newest)."
)
WHEN = click.option(
    "--at",
    metavar="WHEN",
    help="A version of the table (17), a time (2026-01-05) or a release (default: newest).",
)
ROWS = click.option(
    "--file", "rows", type=click.Path(path_type=Path), help="Rows of a file: .csv, .jsonl or .parquet."
)


@click.command()
@click.argument("model")
@click.option("--table", help="The first rows of a table.")
@ROWS
@WHEN
@VERSION
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    show_default=True,
    help="parquet needs --output.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the answers here.")
@click.option(
    "--inputs", type=click.Path(path_type=Path), help="Write what the model reads of the rows here (.npy)."
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Rows of --table.")
@WAREHOUSE
@JSON
def predict(
    model: str,
    table: str | None,
    rows: Path | None,
    at: str | None,
    version: int | None,
    form: str,
    output: Path | None,
    inputs: Path | None,
    limit: int,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """What a model says of rows.

    What a model says of the rows of a file, or of the first rows of a table.

    The rows have the columns that the features of the model were made from.

    \b
    Examples:
      dlflow predict returns --file new_orders.csv
      dlflow predict returns --table sales --limit 10 --format json
    """
    from flows.answers import answer_file, answer_table, show, write_inputs  # noqa: PLC0415
    from flows.predictor import open_predictor  # noqa: PLC0415

    form = "json" if as_json else form
    if (table is None) == (rows is None):
        raise click.UsageError("give the rows: either --file FILE or --table NAME")
    if at is not None and table is None:
        raise click.UsageError("--at is for --table")
    if form == "parquet" and output is None:
        raise click.UsageError("--format parquet needs --output FILE")
    with failures():
        root = warehouse_of(warehouse)
        predictor = open_predictor(state_folder(root, "_dlflow") / "models", model, version)
        if rows is not None:
            read, answer = answer_file(predictor, rows)
            limit = max(limit, 1)
        else:
            read, answer, there = answer_table(predictor, root, str(table), at=at, limit=limit)
            if there > limit:
                said = f"the first {limit:,} of {there:,} rows; --limit gives more, dlflow score answers all"
                click.echo(said, err=True)
        if inputs is not None:
            write_inputs(predictor, read, inputs)
        show(answer, form=form, output=output, limit=limit)


@click.command()
@click.argument("model")
@click.option("--table", required=True, help="The rows to answer.")
@click.option("--into", required=True, metavar="TABLE", help="The table of the answers.")
@WHEN
@VERSION
@click.option(
    "--keep",
    metavar="COLUMN[,COLUMN]",
    help="Columns beside the answers (default: the key of the features, else all that are no tensors).",
)
@WORKERS
@WAREHOUSE
@JSON
def score(
    model: str,
    table: str,
    into: str,
    at: str | None,
    version: int | None,
    keep: str | None,
    workers: int,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Answer every row of a table by a model, into a table.

    Each row once: a rerun adds nothing, and of a new version of the table only the new files are scored.

    \b
    Examples:
      dlflow score returns --table sales --into returns_expected
      dlflow score returns --table sales --into returns_expected --version 3 --keep order_id,month
    """
    from flows.answers import print_scored  # noqa: PLC0415
    from flows.scoring import score_table  # noqa: PLC0415
    from flows.session import Options, runner_of  # noqa: PLC0415

    with failures(), runner_of(Options(workers=workers)) as runner:
        done = score_table(
            warehouse_of(warehouse),
            model,
            table,
            into,
            version=version,
            at=at,
            keep=tuple(keep.split(",")) if keep else (),
            runner=runner,
        )
        print_scored(done, as_json=as_json)


@click.command("score-server")
@click.argument("model")
@VERSION
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="There is no password: keep it loopback."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--max-rows", type=click.IntRange(1), default=10_000, show_default=True, help="Of one request.")
@click.option(
    "--max-bytes", type=click.IntRange(1), default=16 << 20, show_default=True, help="Of one request."
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds after which a request is given up.",
)
@WAREHOUSE
def score_server(
    model: str,
    version: int | None,
    host: str,
    port: int,
    max_rows: int,
    max_bytes: int,
    deadline: float,
    warehouse: Place | None,
) -> None:
    """Answer requests over HTTP by a model, until Ctrl-C.

    \b
    Example:
      dlflow score-server returns --port 8080
      curl localhost:8080/predict -H 'content-type: application/json' -d '{"rows": [{"quantity": 1, ...}]}'
      curl localhost:8080/          the columns and types that it expects
    """
    from flows.predictor import open_predictor  # noqa: PLC0415
    from flows.scoring_server import Limits, serve  # noqa: PLC0415

    with failures():
        predictor = open_predictor(
            state_folder(warehouse_of(warehouse), "_dlflow") / "models", model, version
        )
        limits = Limits(rows=max_rows, bytes=max_bytes, deadline_s=deadline)
        serve(predictor, host=host, port=port, limits=limits, tell=click.echo)


@click.command("export-model")
@click.argument("model")
@click.option("--onnx", type=click.Path(path_type=Path), help="A file for onnxruntime and others.")
@click.option(
    "--scorer", type=click.Path(path_type=Path), help="A file that Python and NumPy alone run (.pyz)."
)
@VERSION
@WAREHOUSE
@JSON
def export_model(
    model: str,
    onnx: Path | None,
    scorer: Path | None,
    version: int | None,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Write a model as a file for other programs.

    The file gives scores (probabilities, or values) for what `dlflow predict --inputs` writes; what it says of itself holds
    the classes, and the recipe that makes such inputs of rows.

    \b
    Examples:
      dlflow export-model returns --onnx returns.onnx
      dlflow export-model returns --scorer returns.pyz
      dlflow predict returns --file rows.csv --inputs rows.npy && python returns.pyz rows.npy
    """
    from flows.answers import export_model as export  # noqa: PLC0415
    from flows.predictor import open_predictor  # noqa: PLC0415
    from flows.tables import print_result  # noqa: PLC0415

    if onnx is None and scorer is None:
        raise click.UsageError("say where to: --onnx FILE or --scorer FILE")
    with failures():
        predictor = open_predictor(
            state_folder(warehouse_of(warehouse), "_dlflow") / "models", model, version
        )
        export(predictor, onnx=onnx, scorer=scorer)
        files = {"onnx": onnx, "scorer": scorer}
        told = {
            "model": model,
            "version": predictor.version,
            **{name: str(path) for name, path in files.items() if path},
        }
        said = [f"{path}: model {model} version {predictor.version}" for path in files.values() if path]
        print_result(told, "\n".join(said), as_json=as_json)


@click.command()
@click.argument("model")
@ROWS
@click.option(
    "--rows",
    "most",
    type=click.IntRange(2),
    default=5000,
    show_default=True,
    help="Of the table of features, for the importance.",
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Of each permutation.")
@click.option("--seed", default=0, show_default=True, help="Of the permutations.")
@VERSION
@WAREHOUSE
@JSON
def explain(
    model: str,
    rows: Path | None,
    most: int,
    repeats: int,
    seed: int,
    version: int | None,
    warehouse: Place | None,
    as_json: bool,
) -> None:
    """Why a model says what it says.

    Of the model: by how much its loss on test rows rises when the values of one column are dealt out to other rows. With
    --file of each row: what part of its score (before the last activation) is due to which column.

    \b
    Examples:
      dlflow explain returns
      dlflow explain returns --file one_order.csv
    """
    from flows.explanation import importance, parts_of_rows  # noqa: PLC0415
    from flows.predictor import open_predictor  # noqa: PLC0415
    from flows.tables import print_json, print_rows  # noqa: PLC0415

    with failures():
        root = warehouse_of(warehouse)
        predictor = open_predictor(state_folder(root, "_dlflow") / "models", model, version)
        found = (
            importance(predictor, root, most=most, repeats=repeats, seed=seed)
            if rows is None
            else parts_of_rows(predictor, rows)
        )
        if as_json or not found:
            print_json(found)
        else:
            print_rows(list(found[0]), [list(one.values()) for one in found])
