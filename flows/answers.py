"""The answers of a model to rows of a file or a table, for people and for programs; and the model as a file for others."""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from flows.predictor import ENCODED, OUTPUTS, Predictor
from flows.scoring import Scored, encoded_by, kept_columns
from flows.tables import print_answer
from pipelines import warehouse
from pipelines.errors import InputError
from pipelines.places import Place
from pipelines.recipes import conform, from_records
from pipelines.tensors import numbers_of

__all__ = ["answer_file", "answer_table", "export_model", "print_scored", "read_rows", "show", "write_inputs"]

KINDS = (".csv", ".jsonl", ".parquet")


def read_rows(path: Path, predictor: Predictor) -> pa.Table:
    """The rows of a file: .csv (an empty cell is a missing value), .jsonl (a row each line) or .parquet.

    Raises: InputError for a file that is none of these.
    """
    try:
        match path.suffix:
            case ".parquet":
                return pq.read_table(path, partitioning=None)
            case ".csv":
                return _csv(path)
            case ".jsonl":
                lines = path.read_text("utf-8").splitlines()
                rows = [json.loads(line, parse_constant=_refuse) for line in lines if line.strip()]
                return from_records(rows, predictor.recipe, where=str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; give the path of one") from error
    except (pa.ArrowInvalid, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())}); correct the file"
        ) from error
    raise InputError(f"{path}: ends in {path.suffix!r}, expected one of {', '.join(KINDS)}; convert it")


def answer_file(predictor: Predictor, path: Path) -> tuple[pa.Table, pa.Table]:
    """The rows as the model reads them; and all columns of the file with the answers beside them.

    Raises: SpecError, InputError where they do not fit.
    """
    found = read_rows(path, predictor)
    rows = conform(found, predictor.recipe, where=str(path))
    answers = predictor.predict(rows, where=str(path))
    plain = [f.name for f in found.schema if not pa.types.is_fixed_size_binary(f.type)]
    kept = [name for name in plain if name not in answers.column_names]
    return rows, _beside(found.select(kept), answers)


def answer_table(
    predictor: Predictor, root: Place, table: str, *, at: str | None, limit: int
) -> tuple[pa.Table, pa.Table, int]:
    """The first rows of a table as the model reads them, the same with the answers, and how many rows there are.

    Raises: SpecError for a table that the model cannot read.
    """
    snapshot = warehouse.open_at(str(root), table, at)
    encoded = encoded_by(predictor, snapshot, table)
    keep = kept_columns(predictor, snapshot.schema, ())
    names = tuple(dict.fromkeys([*keep, *((ENCODED,) if encoded else predictor.schema.names)]))
    wanted = pa.schema([snapshot.schema.field(name) for name in names])
    parts, there = [wanted.empty_table()], 0
    for file, groups in warehouse.units(snapshot):
        for group in groups:
            if there < limit:
                parts.append(warehouse.read_unit((file, (group,)), snapshot.schema, names))
                there += parts[-1].num_rows
    rows = pa.concat_tables(parts).slice(0, limit)
    if encoded:
        answers = predictor.predict_encoded(rows)
    else:
        answers = predictor.predict(rows, where=f"table {table!r}")
    return rows, _beside(rows.select(list(keep)), answers), snapshot.rows


def write_inputs(predictor: Predictor, rows: pa.Table, path: Path) -> None:
    """What the model reads of rows, for the files that `export_model` writes: .npy. Shapes: (n, *in_shape)."""
    if ENCODED in rows.column_names:
        values = predictor.encoded(rows)
    else:
        values = predictor.encode(conform(rows, predictor.recipe, where="rows"))
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


def export_model(predictor: Predictor, *, onnx: Path | None, scorer: Path | None) -> None:
    """The model as a file of ONNX, or as one that Python and NumPy run. Both read what `write_inputs` writes, and give scores.

    Raises: ModelError for a layer without a form in ONNX; ModelFileError if a file cannot be written.
    """
    if onnx is not None:
        from dlflow.export import save_onnx  # noqa: PLC0415 - onnx is an extra, 0.4 s

        save_onnx(onnx, predictor.single(), metadata=predictor.about())
    if scorer is not None:
        from dlflow.scorer import write_scorer  # noqa: PLC0415

        write_scorer(scorer, predictor.single(), metadata=predictor.about())


def show(answer: pa.Table, *, form: str, output: Path | None, limit: int) -> None:
    """Answers to the terminal, or to a file: .parquet, .csv or .json by `form`."""
    if output is None:
        print_answer(_texts(answer) if form == "csv" else answer, form=form, limit=limit)
        return
    match form:
        case "parquet":
            pq.write_table(answer, output, compression="zstd")
        case "json":
            output.write_text(json.dumps(answer.to_pylist(), default=str, ensure_ascii=False), "utf-8")
        case _:
            with output.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(answer.column_names)
                writer.writerows(list(row.values()) for row in _texts(answer).to_pylist())
    click.echo(f"{output}: {answer.num_rows:,} rows", err=True)


def print_scored(done: Scored, *, as_json: bool) -> None:
    """One line."""
    if as_json:
        sys.stdout.write(json.dumps(vars(done)) + "\n")
        return
    what = f"{done.table} version {done.table_version} by {done.model} version {done.model_version}"
    if done.already:
        click.echo(f"{done.into} version {done.into_version}: nothing to do, {done.rows:,} rows of {what}")
        return
    gone = f", {done.removed:,} taken out" if done.removed else ""
    click.echo(
        f"{done.into} version {done.into_version}: {done.scored:,} rows scored{gone}, {done.rows:,} in all, of {what}"
    )


def _csv(path: Path) -> pa.Table:
    head = pa_csv.open_csv(path, read_options=pa_csv.ReadOptions(block_size=1 << 20))
    names = head.schema.names
    head.close()
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a column is there twice in {names}; rename one")
    options = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pa_csv.read_csv(path, convert_options=options)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON; null is a missing value")


def _beside(kept: pa.Table, answers: pa.Table) -> pa.Table:
    """Both side by side; a tensor of scores becomes a list, which people and programs can read."""
    for field in answers.schema:
        column = answers[field.name]
        if field.name == OUTPUTS:
            values, there = numbers_of(answers, OUTPUTS)
            lists: Sequence[Any] = [
                row.tolist() if fine else None for row, fine in zip(values, there, strict=True)
            ]
            column = pa.array(lists)
        kept = kept.append_column(field.name, column)
    return kept


def _texts(answer: pa.Table) -> pa.Table:
    if OUTPUTS not in answer.column_names:
        return answer
    texts = [None if value is None else json.dumps(value) for value in answer[OUTPUTS].to_pylist()]
    return answer.set_column(answer.column_names.index(OUTPUTS), OUTPUTS, pa.array(texts, pa.string()))
