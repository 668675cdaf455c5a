"""What a model's answers are due to, by the columns that people know: one-hot places and flags are those of their column."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dlflow import nn, registry
from dlflow.errors import ModelError
from dlflow.explain import integrated_gradients, permutation_importance
from flows.answers import answer_file
from flows.predictor import ENCODED, Predictor
from pipelines import warehouse
from pipelines.errors import InputError
from pipelines.features import SPLIT, TEST, TRAIN, VALIDATION, encode
from pipelines.places import Place

__all__ = ["importance", "parts_of_rows", "places"]

Y = "y"


def importance(
    predictor: Predictor, root: Place, *, most: int, repeats: int, seed: int
) -> list[dict[str, Any]]:
    """By how much the loss rises without a column, on the test rows (else validation, else training) of the model's own table.

    Raises: ModelError for inputs that are no vectors; PipelineError if the table's version is gone.
    """
    lineage = predictor.metadata["lineage"]
    snapshot = warehouse.open_at(str(root), lineage["table"], lineage["version"])
    for part in (TEST, VALIDATION, TRAIN):
        files = snapshot.files({SPLIT: part})
        if files:
            break
    else:
        raise ModelError(f"table {lineage['table']!r} has no rows of a split; train again")
    parts: list[pa.Table] = []
    for file in files:
        for group in range(len(warehouse.row_groups(file))):
            if sum(each.num_rows for each in parts) < most:
                parts.append(warehouse.read_unit((file, (group,)), snapshot.schema, (ENCODED, Y)))
    rows = pa.concat_tables(parts).slice(0, most)
    model, metadata = registry.load(predictor.folder)
    found = permutation_importance(
        model,
        nn.loss_from(metadata["loss"]),
        predictor.encoded(rows),
        rows[Y].to_numpy(),
        groups=places(predictor),
        repeats=repeats,
        seed=seed,
    )
    return [
        {"column": one.name, "loss rises by": one.rise, "deviation": one.deviation, "rows": part}
        for one in found
    ]


def parts_of_rows(predictor: Predictor, path: Path) -> list[dict[str, Any]]:
    """What of each row's score, before the last activation, is due to which column; the largest first.

    Compared with a row whose inputs are all 0: for scaled numbers the mean, for a category none. Of several classes the one
    that is predicted is explained.

    Raises: ModelError for tokens, which have no gradient; as `answer_file`.
    """
    rows, answer = answer_file(predictor, path)
    model, _ = registry.load(predictor.folder)
    (parts,) = integrated_gradients(model, predictor.encode(rows))
    flat = parts.reshape(len(parts), -1)
    groups = places(predictor)
    said = {
        name: answer[name].to_pylist() for name in ("predicted", "probability") if name in answer.column_names
    }
    told = []
    for number in range(len(parts)):
        sums = {name: float(np.sum(flat[number, at])) for name, at in groups.items()}
        for name, part in sorted(sums.items(), key=lambda each: -abs(each[1])):
            value = rows[name][number].as_py()
            shown = None if isinstance(value, bytes) else value
            head = {"row": number} | {what: values[number] for what, values in said.items()}
            told.append({**head, "column": name, "value": shown, "part": part})
    return told


def places(predictor: Predictor) -> dict[str, list[int]]:
    """The places of each column in the vector that the model reads; a column may have several encoders, or no place at all."""
    schema, recipe = predictor.schema, predictor.recipe
    row = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
    made: dict[str, list[int]] = {}
    begin = 0
    for one in recipe["inputs"]:
        try:
            width = encode(row, {**recipe, "inputs": [one]}).x.size
        except InputError:  # no category was frequent enough
            width = 0
        made.setdefault(one["column"], []).extend(range(begin, begin + width))
        begin += width
    return {name: at for name, at in made.items() if at}
