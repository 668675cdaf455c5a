"""One file scores: a Python with NumPy and nothing else says what the model said."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import LSTM, BatchNormalization, Concatenate, Dense, Embedding, Graph, Input, Model, join
from dlflow.scorer import write_scorer

X = np.random.default_rng(0).standard_normal((5, 3), dtype=np.float32)


def run(folder, *arguments):
    """A Python without this project and without its packages, but for NumPy."""
    (folder / "site").mkdir(exist_ok=True)
    for name in ("numpy", "numpy.libs"):
        if not (folder / "site" / name).exists():
            (folder / "site" / name).symlink_to(f"{np.__path__[0]}{name.removeprefix('numpy')}")
    return subprocess.run(
        [sys.executable, "-S", "-P", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "site")},
        capture_output=True,
        text=True,
        check=False,
    )


LAYERS = (Dense(4, "relu"), BatchNormalization(), Dense(2, "softmax"))


def new_model(layers=LAYERS, in_shape=3):
    model = Model(layers, in_shape)
    model.init(3)
    return model


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_rows_of_a_file_are_scored(tmp_path, kind):
    model = new_model()
    write_scorer(tmp_path / "model.pyz", model)
    if kind == "npy":
        np.save(tmp_path / "rows.npy", X)
    else:
        np.savetxt(tmp_path / "rows.csv", X, delimiter=",")

    found = run(tmp_path, "model.pyz", f"rows.{kind}")

    assert found.stderr == ""
    scores = np.array([line.split(",") for line in found.stdout.splitlines()], np.float32)
    np.testing.assert_allclose(scores, model.predict(X), rtol=1e-6)


def test_several_inputs_come_by_their_names(tmp_path):
    words, row = Input(4, "words"), Input(3, "row")
    both = join((join(words, Embedding(9, 4), LSTM(3)), row), Concatenate(), Dense(1, "sigmoid"))
    model = new_model(Graph.of(both), ())
    tokens = np.arange(20).reshape(5, 4) % 9
    write_scorer(tmp_path / "model.pyz", model)
    np.savez(tmp_path / "rows.npz", words=tokens, row=X)

    found = run(tmp_path, "model.pyz", "rows.npz")

    expected = model.predict({"words": tokens, "row": X})[:, 0]
    np.testing.assert_allclose([float(line) for line in found.stdout.splitlines()], expected, rtol=1e-6)


def test_it_is_imported_too_and_knows_its_metadata(tmp_path):
    write_scorer(tmp_path / "model.pyz", new_model(), metadata={"classes": ["nein", "ja"]})
    code = (
        "import sys; sys.path.insert(0, 'model.pyz'); from scorer import metadata, predict;"
        "import numpy; print(metadata['classes'], predict(numpy.zeros((1, 3))).shape)"
    )

    found = run(tmp_path, "-c", code)

    assert found.stdout.strip() == "['nein', 'ja'] (1, 2)", found.stderr


def test_equal_models_give_equal_files(tmp_path):
    for name in ("a", "b"):
        write_scorer(tmp_path / name, new_model())

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_model_is_noticed(tmp_path):
    write_scorer(tmp_path / "model.pyz", new_model())
    with zipfile.ZipFile(tmp_path / "model.pyz") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    parts["model.safetensors"] = parts["model.safetensors"][:-4] + b"1234"
    with zipfile.ZipFile(tmp_path / "model.pyz", "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)

    found = run(tmp_path, "model.pyz", "rows.npy")

    assert "its bytes are not those that were written" in found.stderr


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        write_scorer(tmp_path / "file" / "m", new_model())
    with pytest.raises(ModelError, match="no JSON"):
        write_scorer(tmp_path / "m", new_model(), metadata={"x": object()})
