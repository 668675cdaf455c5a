"""A model in one file: what is saved is what is loaded, whole or not at all, and every damage is noticed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import (
    Adam,
    AdamW,
    Add,
    BatchNormalization,
    Dense,
    Dropout,
    EarlyStopping,
    Functional,
    Input,
    Sequential,
    Step,
    join,
)
from dlflow.nn.files import _digest, _locked, read_tensors, write_tensors, write_whole
from dlflow.nn.model_file import read_model

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = np.arange(40) % 3


def trained(epochs=2, **optimizer):
    model = Sequential([Dense(8, "relu", l2=1e-3), Dropout(0.2), Dense(3, "softmax")], seed=4)
    model.compile(
        optimizer=Adam(Step(0.05, every=3), **optimizer),
        loss="sparse_categorical_cross_entropy",
        metrics=["macro_f1"],
    )
    model.fit(X, Y, epochs=epochs, callbacks=[EarlyStopping(monitor="loss")])
    return model


@pytest.mark.parametrize("optimizer", [{}, {"average": 0.5, "clip_norm": 1.0}])
def test_a_loaded_model_is_the_saved_one_and_trains_on_as_it_would(tmp_path, optimizer):
    model = trained(**optimizer)
    model.save(tmp_path / "m.safetensors", metadata={"classes": ["größe", "b", "c"]})

    loaded = Sequential.load(tmp_path / "m.safetensors")

    assert np.array_equal(loaded.predict(X), model.predict(X))
    assert loaded.history == model.history
    assert loaded.evaluate(X, Y) == model.evaluate(X, Y)
    assert read_model(tmp_path / "m.safetensors")[1].metadata == {"classes": ["größe", "b", "c"]}
    for each in (model, loaded):
        each.fit(X, Y, epochs=2)
    assert np.array_equal(loaded.model.w, model.model.w)
    assert loaded.history == model.history


def test_a_model_that_was_not_compiled_is_saved_too(tmp_path):
    model = Sequential([Dense(2)], 3)
    model.save(tmp_path / "m.safetensors")

    loaded = Sequential.load(tmp_path / "m.safetensors")

    assert np.array_equal(loaded.predict(X), model.predict(X))
    with pytest.raises(ModelError, match=r"call compile\("):
        loaded.fit(X, Y)


def test_the_safetensors_library_opens_the_file(tmp_path):
    model = trained()
    model.save(tmp_path / "m.safetensors")

    tensors = safetensors.numpy.load_file(tmp_path / "m.safetensors")

    assert np.array_equal(tensors["w"], model.model.w)
    with safetensors.safe_open(tmp_path / "m.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["dlflow"])["format"] == "dlflow-model-file"


def test_scoring_needs_numpy_and_the_file(tmp_path):
    model = trained()
    model.save(tmp_path / "m.safetensors")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy; from dlflow.nn import Sequential;"
        f"P = Sequential.load({str(tmp_path / 'm.safetensors')!r}).predict(numpy.load({str(tmp_path / 'X.npy')!r}));"
        f"numpy.save({str(tmp_path / 'P.npy')!r}, P);"
        "print(*sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'numpy', 'dlflow'}))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    machine = {"sitecustomize", "usercustomize"}  # files by which a machine starts every Python
    assert not [name for name in found.stdout.split() if not name.startswith("_") and name not in machine]
    assert np.array_equal(np.load(tmp_path / "P.npy"), model.predict(X))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m.safetensors"
    trained(1).save(path)
    return path.read_bytes()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_changed_byte_anywhere_is_noticed(tmp_path, whole, data):
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    path = tmp_path / "m.safetensors"
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])

    try:
        tensors, facts = read_tensors(path)
    except ModelFileError:
        return
    path.write_bytes(whole)  # only what means nothing may change: spaces, a letter's other spelling
    before, known = read_tensors(path)
    assert facts == known
    assert all(np.array_equal(tensors[name], before[name]) for name in before)


@given(cut=st.integers(0, 400))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_that_is_cut_short_or_has_more_is_refused(tmp_path, whole, cut):
    path = tmp_path / "m.safetensors"
    for data in (whole[: cut * len(whole) // 401], whole + b"x" * (cut + 1)):
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=r"m.safetensors: "):
            read_tensors(path)


def hostile(header, body=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


META = {"dlflow": "{}", "sha256": "0" * 64}
F = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        hostile(b"[" * 100_000),
        hostile(b"[1]"),
        hostile(b'{"w": 1, "w": 2}'),
        hostile({"w": F}, b"1234"),
        hostile({"w": F, "__metadata__": {"dlflow": 7, "sha256": 7}}, b"1234"),
        hostile({"w": F, "__metadata__": META}, b"1234"),
        hostile({"w": "text", "__metadata__": META}),
        hostile(b"\xff\xfe{}"),
    ],
)
def test_hostile_files_are_refused(tmp_path, data):
    (tmp_path / "m").write_bytes(data)

    with pytest.raises(ModelFileError, match="m: "):
        read_tensors(tmp_path / "m")


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [2]},
        {"shape": [-1]},
        {"shape": [True]},
        {"shape": [1 << 62, 4]},
        {"data_offsets": [4, 8]},
        {"data_offsets": [0, 400]},
        {"data_offsets": [-4, 0]},
        {"dtype": "I64"},
        {"data_offsets": "ab"},
    ],
)
def test_tensors_that_lie_about_their_place_are_refused_even_with_a_right_digest(
    tmp_path, entry, monkeypatch
):
    body = b"\0" * 4
    meta = {"dlflow": "{}", "sha256": _digest({"w": F | entry}, "{}", body)}
    (tmp_path / "m").write_bytes(hostile({"w": F | entry, "__metadata__": meta}, body))

    with pytest.raises(ModelFileError, match="no model of dlflow"):
        read_tensors(tmp_path / "m")


def test_what_cannot_be_saved_is_told(tmp_path):
    model = trained(1)
    with pytest.raises(ModelError, match="no JSON"):
        model.save(tmp_path / "m", metadata={"x": object()})
    with pytest.raises(ModelError, match="tensor 'w' is float64"):
        write_tensors(tmp_path / "m", {"w": np.zeros(2)}, {})
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        model.save(tmp_path / "file" / "m")
    model.model.w[0] = np.nan
    with pytest.raises(ModelError, match="1 weights are not finite"):
        model.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["there", "new"])
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path, name):
    """The writer is killed after it has written aside, before the rename."""
    path = tmp_path / name
    if name == "there":
        path.write_bytes(b"old")
    code = (
        "import os, signal; from pathlib import Path; from dlflow.nn import files;"
        "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        f"files.write_whole({str(path)!r}, b'new')"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    assert path.exists() == (name == "there")

    write_whole(path, b"newer")

    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == b"newer"


def test_a_writer_that_lives_is_not_disturbed(tmp_path):
    aside, file = _locked(tmp_path / "m")
    try:
        write_whole(tmp_path / "m", b"other")
        assert aside.exists()
    finally:
        os.close(file)
    write_whole(tmp_path / "m", b"last")
    assert not aside.exists()


def test_a_model_with_branches_is_saved_and_trains_on(tmp_path):
    x = Input(3, "x")
    model = Functional(join((x, join(x, Dense(3, "relu"), BatchNormalization())), Add(), Dense(3)), seed=2)
    model.compile(optimizer=AdamW(0.01), loss="sparse_categorical_cross_entropy")
    model.fit({"x": X}, Y, epochs=2, accumulate=2, validation_split=0.2)
    model.save(tmp_path / "m")

    loaded = Sequential.load(tmp_path / "m")

    assert isinstance(loaded, Functional)
    for each in (model, loaded):
        each.fit({"x": X}, Y, epochs=1)
    assert np.array_equal(loaded.model.w, model.model.w)
