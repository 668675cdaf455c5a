"""IDX: what the head says is what is there, before anything is allocated; images and labels are as many."""

import gzip
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import warehouse
from pipelines.errors import InputError, SpecError
from tests.sources_reading import declared, lines, read_all, read_once, rejects, values, write
from tests.test_loads import Shop

IMAGE = {"type": "tensor", "dtype": "uint8", "shape": [2, 3], "name": "image"}
XY = {"x": IMAGE, "y": {"type": "int32", "name": "label"}}
TABLE = """
[sources.orders]
kind = "idx"
path = "data/in.idx"
columns = {{ x = {{ type = "tensor", dtype = "uint8", shape = [2, 3], scale = 0.5, name = "image" }} }}
[tables.orders]
source = "orders"
"""
CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array):
    array = np.asarray(array)
    head = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = np.arange(30, dtype=np.uint8).reshape(5, 2, 3)
LABELS = np.array([7, 2, 1, 0, 4], np.uint8)


def read(tmp_path, images=IMAGES, labels=LABELS, columns=XY, pack=bytes, **settings):
    end = ".gz" if pack is gzip.compress else ""
    content = images if isinstance(images, bytes) else idx(images)
    path = write(tmp_path / f"t-images-idx3-ubyte{end}", pack(content))
    if labels is not None:
        settings["labels"] = str(
            write(
                tmp_path / f"t-labels-idx1-ubyte{end}",
                pack(labels if isinstance(labels, bytes) else idx(labels)),
            )
        )
    return read_all(columns, path, kind="idx", **settings)


def error(tmp_path, *args, **settings):
    with pytest.raises(InputError) as caught:
        read(tmp_path, *args, **settings)
    return str(caught.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_images_and_labels_become_rows(tmp_path, pack):
    rows = read(tmp_path, pack=pack)

    assert values(rows) == [
        (image.tobytes(), int(label)) for image, label in zip(IMAGES, LABELS, strict=True)
    ]
    assert lines(rows) == [1, 2, 3, 4, 5]


def test_a_tensor_is_fixed_size_binary_in_the_files_of_its_table_with_type_and_shape_in_the_metadata(
    tmp_path,
):
    shop = Shop(tmp_path / "shop", text=TABLE)
    write(shop.folder / "data" / "in.idx", idx(IMAGES))

    shop.run()

    snapshot = warehouse.Snapshot.open(shop.uri)
    [file] = snapshot.files()
    for schema in (snapshot.schema, pq.read_schema(f"{shop.uri}/{file.path}")):
        assert schema.field("x").type == pa.binary(6)
        said = {key: schema.field("x").metadata[key] for key in (b"dtype", b"shape", b"scale")}
        assert said == {b"dtype": b"uint8", b"shape": b"[2, 3]", b"scale": b"0.5"}
    assert [row["x"] for row in snapshot.read().to_pylist()] == [image.tobytes() for image in IMAGES]


def test_images_may_come_without_labels_and_labels_alone_be_read(tmp_path):
    assert len(values(read(tmp_path, labels=None, columns={"x": IMAGE}))) == 5
    assert values(read(tmp_path, columns={"y": {"type": "int8", "name": "label"}})) == [
        (7,),
        (2,),
        (1,),
        (0,),
        (4,),
    ]


@settings(max_examples=25)
@given(st.sampled_from(sorted(CODES)), st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 6))
def test_any_type_and_shape_is_read_to_the_bit(tmp_path_factory, code, shape, count):
    numbers = np.random.default_rng(count).integers(-100, 100, (count, *shape)).astype(code)
    dtype = {"u1": "uint8", "i1": "int8", "i2": "int16", "i4": "int32", "f4": "float32", "f8": "float64"}[
        code
    ]
    columns = {"x": {"type": "tensor", "dtype": dtype, "shape": shape, "name": "image"}}

    rows = read(tmp_path_factory.mktemp("in"), numbers, None, columns)

    assert values(rows) == [(one.astype(f"<{code}").tobytes(),) for one in numbers]


def test_numbers_that_do_not_fit_the_declared_type_set_their_row_aside(tmp_path):
    images = np.array([[1, 2], [3, 300]], np.int16)
    columns = {"x": {**IMAGE, "shape": [2]}, "y": {"type": "int8", "name": "label", "range": [0, 5]}}

    rows = read(tmp_path, images, np.array([9, 1], np.uint8), columns)

    assert values(rows) == []
    assert rejects(rows) == [
        (1, "range", "y", "column 'y': '9' is outside [0, 5]"),
        (2, "type", "x", "column 'x': a number that is no uint8 found, tensor uint8 [2] expected"),
    ]
    assert rows.rejected["raw"].to_pylist() == ["row 1", "row 2"]


def test_b33_head_and_size_must_agree(tmp_path):
    good = idx(IMAGES)
    name = "t-images-idx3-ubyte"
    assert error(tmp_path, b"\x01\x00\x08\x03" + good[4:]) == (
        f"{name}: no IDX file: it begins with 01 00 08 03, expected 00 00, a type of 08 to 0e and 1 to 8 dimensions"
    )
    assert error(tmp_path, b"\0\0\x0a\x03" + good[4:]).startswith(
        f"{name}: no IDX file: it begins with 00 00 0a 03"
    )
    assert error(tmp_path, b"\0\0\x08\xff" + good[4:]).startswith(
        f"{name}: no IDX file: it begins with 00 00 08 ff"
    )
    assert error(tmp_path, b"").startswith(f"{name}: no IDX file: it begins with , expected")
    assert error(tmp_path, good[:9]) == f"{name}: cut: 9 bytes, a head of 16 expected; restore it from a copy"
    assert error(tmp_path, good[:-1]) == (
        f"{name}: 45 bytes, 46 bytes expected for 5 samples of shape [2, 3]; restore it from a copy"
    )
    assert error(tmp_path, good + b"x") == (
        f"{name}: more, 46 bytes expected for 5 samples of shape [2, 3]; restore it from a copy"
    )
    assert error(tmp_path, good[:-1], pack=gzip.compress).startswith(
        f"{name}.gz: 45 bytes, 46 bytes expected"
    )


def test_b33_nothing_is_allocated_by_what_a_head_claims(tmp_path):
    claims = b"\0\0\x08\x03" + np.array([1 << 31, 28, 28], ">u4").tobytes() + b"x" * 100
    wide = b"\0\0\x08\x03" + np.array([1, 1 << 31, 1 << 31], ">u4").tobytes() + b"x" * 100
    tracemalloc.start()
    try:
        for content in (claims, wide):
            for pack in (bytes, gzip.compress):
                error(tmp_path, content, columns={"x": {**IMAGE, "shape": [28, 28]}, "y": XY["y"]}, pack=pack)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_labels_must_be_one_number_for_each_image(tmp_path):
    assert error(tmp_path, labels=LABELS[:4]) == (
        "t-labels-idx1-ubyte: 4 labels for 5 images of t-images-idx3-ubyte; expected one number for each"
    )
    assert "5 labels of shape [2, 3] for 5 images" in error(tmp_path, labels=IMAGES)
    assert error(tmp_path, labels=LABELS.astype("f4")) == (
        "t-labels-idx1-ubyte: labels are float, 'y' is declared int32; correct columns"
    )


def test_the_shape_must_be_the_declared_one(tmp_path):
    assert error(tmp_path, columns={**XY, "x": {**IMAGE, "shape": [3, 2]}}) == (
        "t-images-idx3-ubyte: samples have shape [2, 3], tensor uint8 [3, 2] is declared; correct shape"
    )


def test_as_many_files_of_labels_are_needed_and_their_change_is_noticed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}-images-idx3-ubyte", idx(IMAGES))
    write(tmp_path / "a-labels-idx1-ubyte", idx(LABELS))
    glob = {"path": str(tmp_path / "*-images-*"), "labels": str(tmp_path / "*-labels-*"), "kind": "idx"}
    from pipelines import sources

    with pytest.raises(InputError, match="1 files of labels for 2 files of images; expected one for each"):
        sources.files(declared(XY, **glob))

    write(tmp_path / "b-labels-idx1-ubyte", idx(LABELS[::-1]))
    before = [one.sha256 for one in sources.files(declared(XY, **glob))]
    write(tmp_path / "b-labels-idx1-ubyte", idx(LABELS))
    after = [one.sha256 for one in sources.files(declared(XY, **glob))]
    assert before[0] == after[0] == after[1] != before[1]


def test_settings_are_checked():
    def problems(**settings):
        with pytest.raises(SpecError) as caught:
            declared(**{"columns": XY, "kind": "idx", "path": "a", "labels": "b"} | settings)
        return list(caught.value.problems)

    assert problems(columns={"x": IMAGE, "z": "int8"}) == [
        "column 'z' reads 'z'; here a source of kind idx has 'image', 'label'"
    ]
    assert problems(columns={"image": "int8"}) == [
        "column 'image': 'image' is a tensor, the declared type is int8"
    ]
    assert problems(labels=None) == ["column 'y' reads 'label'; here a source of kind idx has 'image'"]
    assert problems(encoding="latin-1") == ["encoding has no effect on a idx source; leave it out"]
    for wrong in ({"dtype": "uint8"}, {"shape": [2]}, {"dtype": "float16", "shape": [2]}):
        with pytest.raises(SpecError, match="a tensor needs dtype and shape"):
            declared({"image": {"type": "tensor", **wrong}}, kind="idx", path="a")
    with pytest.raises(SpecError, match="dtype is for a tensor, and the type is int8"):
        declared({"image": {"type": "int8", "dtype": "int8"}}, kind="idx", path="a")
    with pytest.raises(SpecError, match="a csv source holds no tensors"):
        declared({"image": IMAGE}, kind="csv", path="a")


def test_a_file_alone_is_cut_by_bytes(tmp_path):
    path = write(tmp_path / "in.idx", idx(np.zeros((1000, 10, 10), np.uint8)))

    rows = read_once(
        {"image": {"type": "tensor", "dtype": "uint8", "shape": [10, 10]}},
        path,
        kind="idx",
        part_bytes=30_000,
    )

    assert rows.kept.num_rows == 1000
