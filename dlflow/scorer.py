"""A model and all that is needed to score with it in one file: Python and NumPy run it, nothing else has to be installed.

    python model.pyz rows.npy > scores.csv       rows as .npy, as .csv of numbers, or as .npz with an array for each input

    sys.path.insert(0, "model.pyz")
    from scorer import model, metadata, predict

The file is an ordinary zip of Python sources and the model's safetensors.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dlflow
from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import Model
from dlflow.nn.files import write_whole
from dlflow.nn.model_file import Description, write_model

__all__ = ["write_scorer"]

PACKAGE = Path(dlflow.__file__).parent
MODEL = "model.safetensors"
SCORER = '''"""Scores rows with the model of this file; needs NumPy alone."""

import sys
import zipfile
from pathlib import Path

import numpy as np

from dlflow.nn.model_file import read_model

__all__ = ["metadata", "model", "predict"]

model, _found, _ = read_model(zipfile.Path(Path(__file__).parent, "model.safetensors"))
metadata = _found.metadata


def predict(X):
    """What the model says of rows, as it did where it was trained. Shapes: (n, ...) -> (n, outputs)."""
    return model.predict(X)


def main():
    """Read the rows of a file, print a line of scores for each."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} ROWS.npy|ROWS.npz|ROWS.csv")
    path = sys.argv[1]
    if path.endswith(".csv"):
        X = np.loadtxt(path, delimiter=",", ndmin=2)
    else:
        X = np.load(path, allow_pickle=False)
        X = X if isinstance(X, np.ndarray) else dict(X)
    scores = predict(X)
    np.savetxt(sys.stdout, scores.reshape(len(scores), -1), delimiter=",", fmt="%.9g")
'''


def write_scorer(path: str | Path, model: Model, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the file; equal models give equal bytes.

    Raises: ModelError for metadata that are no JSON, or a stateful model; ModelFileError if it cannot be written.
    """
    if model.stateful:
        raise ModelError(
            "the model is stateful, which a file that answers rows one by one cannot be; write it without stateful, the weights fit"
        )
    with TemporaryDirectory() as folder:
        write_model(Path(folder) / MODEL, model, Description(metadata=dict(metadata or {})))
        content = (Path(folder) / MODEL).read_bytes()
    sources = [PACKAGE / "__init__.py", PACKAGE / "errors.py", *sorted((PACKAGE / "nn").glob("*.py"))]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for source in sources:
            _put(file, f"dlflow/{source.relative_to(PACKAGE).as_posix()}", source.read_bytes())
        _put(file, "scorer.py", SCORER.encode())
        _put(file, "__main__.py", b"from scorer import main\n\nmain()\n")
        _put(file, MODEL, content)
    try:
        write_whole(path, made.getvalue())
    except OSError as error:
        raise ModelFileError(
            f"{path}: cannot be written ({error}); make room or choose another folder"
        ) from error


def _put(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # without the time of day
