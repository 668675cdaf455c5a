"""Columns that stand beside the inputs and the label in a table of features, in the order of its rows."""

import numpy as np
import pyarrow as pa

from dlflow.data import Dataset
from dlflow.errors import ModelError

__all__ = ["beside"]


def beside(dataset: Dataset, column: str) -> np.ndarray:
    """The values of one column, row by row as `Dataset.read` has them; a missing number is nan, a missing text None.

    Shapes: (rows,).
    Raises: ModelError if the column is not there.
    """
    chunks = []
    for file in dataset.files:
        with file.opened() as opened:
            if column not in opened.schema_arrow.names:
                known = [name for name in opened.schema_arrow.names if name not in {dataset.x, dataset.y}]
                raise ModelError(
                    f"{file.path}: no column {column!r}, there are {known!r} beside the inputs; "
                    f'keep it: {{ do = "features", keep = [{column!r}], ... }}'
                )
            chunks += [file.read(opened, group, [column])[column] for group in range(len(file.row_groups))]
    values: np.ndarray = pa.chunked_array(
        [chunk for one in chunks for chunk in one.chunks], chunks[0].type
    ).to_numpy()
    return values
