"""Models on disk: what is saved is what is loaded, whole or not at all, and every damage is noticed."""

import json
import signal
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from dlflow import registry
from dlflow.errors import ModelError, ModelFileError
from dlflow.nn import Activation, Dense, Dropout, Flatten, Model

LAYERS = (Flatten(), Dense(4, "relu", l2=0.1), Dropout(0.2), Dense(3), Activation("softmax"))
METADATA = {"loss": {"loss": "mean_squared_error"}, "names": ["größe", None], "history": [{"loss": 0.125}]}


def new_model(seed=0):
    model = Model(LAYERS, (2, 3))
    model.init(seed)
    return model


def save(folder, seed=0, **options):
    options = {
        "weights": new_model(seed).w,
        "layers": LAYERS,
        "in_shape": (2, 3),
        "metadata": METADATA,
    } | options
    return registry.save(folder, **options)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    model = new_model()

    digest = save(tmp_path / "deep" / "m")
    loaded, metadata = registry.load(tmp_path / "deep" / "m")

    assert np.array_equal(loaded.w, model.w)
    assert (loaded.layers, loaded.in_shape) == (LAYERS, (2, 3))
    assert metadata == METADATA
    assert digest == registry.weights_digest(loaded.w)
    X = np.ones((4, 2, 3))
    assert np.array_equal(loaded.predict(X), model.predict(X))


def test_the_weights_can_be_read_without_dlflow(tmp_path):
    save(tmp_path / "m")

    tensors = safetensors.numpy.load_file(tmp_path / "m" / "model.safetensors")

    assert np.array_equal(tensors["w"], new_model().w)


def test_equal_weights_have_equal_digests_and_one_bit_makes_another():
    w = np.arange(5, dtype=np.float32)
    other = w.copy()
    other.view(np.uint32)[2] ^= 1

    assert registry.weights_digest(w) == registry.weights_digest(np.arange(10, dtype=np.float32)[::2] / 2)
    assert registry.weights_digest(w) != registry.weights_digest(other)
    assert (
        registry.weights_digest(np.zeros(1))
        == "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"
    )


def test_a_saved_model_is_never_overwritten(tmp_path):
    save(tmp_path / "m")

    with pytest.raises(ModelError, match="a model is there already"):
        save(tmp_path / "m", seed=1)

    assert np.array_equal(registry.load(tmp_path / "m")[0].w, new_model().w)
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_versions_count_up_and_the_newest_is_found(tmp_path):
    made = [
        registry.save_version(tmp_path, "churn", weights=new_model(seed).w, layers=LAYERS, in_shape=(2, 3))
        for seed in range(11)
    ]

    assert [number for number, _ in made] == list(range(1, 12)) == registry.versions(tmp_path, "churn")
    assert registry.latest(tmp_path, "churn") == made[-1][1] == tmp_path / "churn" / "11"
    assert np.array_equal(registry.load(made[3][1])[0].w, new_model(3).w)


def test_writers_at_the_same_time_get_different_numbers(tmp_path):
    together = threading.Barrier(3)

    def save_five(seed):
        together.wait(30)
        for _ in range(5):
            registry.save_version(tmp_path, "m", weights=new_model(seed).w, layers=LAYERS, in_shape=(2, 3))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save_five, range(3)))

    assert registry.versions(tmp_path, "m") == list(range(1, 16))
    found = {registry.weights_digest(registry.load(tmp_path / "m" / str(n))[0].w) for n in range(1, 16)}
    assert found == {registry.weights_digest(new_model(seed).w) for seed in range(3)}
    assert {each.name for each in (tmp_path / "m").iterdir()} == {str(number) for number in range(1, 16)}


@pytest.mark.parametrize("step", ["_write", "_sync_folder"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, step, full)
    with pytest.raises(OSError, match="No space left"):
        registry.save_version(tmp_path, "m", weights=new_model().w, layers=LAYERS, in_shape=(2, 3))

    assert registry.versions(tmp_path, "m") == []
    assert list((tmp_path / "m").iterdir()) == []


def test_a_rename_that_fails_is_reported_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(_self, _to):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        save(tmp_path / "m")

    assert list(tmp_path.iterdir()) == []


def test_no_version_is_an_error_that_lists_the_models(tmp_path):
    registry.save_version(tmp_path, "churn", weights=new_model().w, layers=LAYERS, in_shape=(2, 3))
    (tmp_path / "junk").mkdir()

    with pytest.raises(ModelFileError, match=r"no model 'chrun' in .* expected one of \['churn'\]"):
        registry.latest(tmp_path, "chrun")
    with pytest.raises(ModelFileError, match="expected one of"):
        registry.latest(tmp_path / "nowhere", "churn")


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a\nb"])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ModelError, match="it names a folder"):
        registry.save_version(tmp_path, name, weights=new_model().w, layers=LAYERS, in_shape=(2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": np.zeros(3, np.float32)}, r"the layers need float32 \(43,\)"),
        ({"weights": np.zeros(43)}, "weights are float64"),
        ({"weights": np.full(43, np.nan, np.float32)}, "43 weights are not finite"),
        ({"metadata": {"auc": float("nan")}}, "the metadata are not JSON"),
        ({"metadata": {"model": object()}}, "the metadata are not JSON"),
        ({"metadata": {"rows": "x" * (17 << 20)}}, "expected at most 16,777,216"),
    ],
)
def test_what_cannot_be_loaded_again_is_not_saved(tmp_path, options, message):
    with pytest.raises(ModelError, match=message):
        save(tmp_path / "m", **options)

    assert not (tmp_path / "m").exists()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_weights_file_is_noticed(tmp_path_factory, place, bit):
    folder = tmp_path_factory.mktemp("m")
    save(folder / "m")
    path = folder / "m" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)

    try:
        loaded, _ = registry.load(folder / "m")
    except ModelFileError:
        return
    # only a bit in the padding or metadata of the header can be without effect
    assert np.array_equal(loaded.w, new_model().w)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_noticed(tmp_path, name, share):
    save(tmp_path / "m")
    path = tmp_path / "m" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])

    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        registry.load(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    save(tmp_path / "m")
    (tmp_path / "m" / name).unlink()

    with pytest.raises(ModelFileError, match=rf"{name}: there is no such file"):
        registry.load(tmp_path / "m")


def changed(folder, **fields):
    save(folder)
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "other"}, "no model of dlflow"),
        ({"format_version": 2}, "format version 2, expected 1; install a newer dlflow"),
        ({"layers": "none"}, "layers missing or of a wrong type"),
        ({"metadata": None}, "metadata missing or of a wrong type"),
        ({"layers": [{"layer": "magic"}]}, "cannot build the model: unknown layer 'magic'"),
        ({"layers": [{"layer": "dense", "units": 10**15}]}, "cannot build the model|the layers need"),
        ({"in_shape": [2, "x"]}, "cannot build the model"),
        ({"in_shape": [2, 4]}, r"the layers need float32 \(51,\)"),
        ({"weights_sha256": "0" * 64}, "the file is damaged, take another copy"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(tmp_path, fields, message):
    changed(tmp_path / "m", **fields)

    with pytest.raises(ModelFileError, match=message):
        registry.load(tmp_path / "m")


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_foreign_description_is_refused(tmp_path, content):
    save(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_bytes(content)

    with pytest.raises(ModelFileError, match=r"model\.json"):
        registry.load(tmp_path / "m")


def test_a_description_that_is_too_large_is_not_read(tmp_path):
    save(tmp_path / "m")
    with (tmp_path / "m" / "model.json").open("wb") as file:
        file.truncate((16 << 20) + 1)

    with pytest.raises(ModelFileError, match="expected at most 16,777,216"):
        registry.load(tmp_path / "m")


def test_a_header_that_is_too_large_is_not_read(tmp_path):
    save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}")

    with pytest.raises(ModelFileError, match="header of 1,099,511,627,776 bytes"):
        registry.load(tmp_path / "m")


def test_other_tensors_are_refused(tmp_path):
    save(tmp_path / "m")
    safetensors.numpy.save_file({"v": np.zeros(3)}, tmp_path / "m" / "model.safetensors")

    with pytest.raises(ModelFileError, match="expected the one vector 'w'"):
        registry.load(tmp_path / "m")


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    """The writer is killed after it has written aside, before the rename; one that lives keeps its folder."""
    code = (
        "import os, signal; from pathlib import Path; from dlflow import registry; from dlflow.nn import Dense, Model;"
        "Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        f"registry.save({str(tmp_path / 'a')!r}, weights=Model([Dense(1)], 1).w, layers=[Dense(1)], in_shape=(1,))"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()

    with registry._Aside(tmp_path, {"x": b""}) as living:
        assert not left.exists()
        save(tmp_path / "b")
        assert living.exists()

    assert [path.name for path in tmp_path.iterdir()] == ["b"]
