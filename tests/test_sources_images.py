"""Images in folders or a zip: the folder is the label, size and colours are the declared ones, a damaged one costs itself."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import sources
from pipelines.errors import InputError, SourceChanged, SpecError
from tests.sources_reading import declared, lines, read_all, rejects, values, write

Image = pytest.importorskip("PIL.Image", reason="images need Pillow: make .venv")

GREY = {"type": "tensor", "dtype": "uint8", "shape": [2, 3], "name": "image"}
COLUMNS = {"x": GREY, "y": {"type": "string", "name": "label"}, "file": "string"}
PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def png(pixels, mode=None, form="PNG"):
    out = io.BytesIO()
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(out, form)
    return out.getvalue()


def tree(where, files, *, packed):
    """The files below a folder, or in a zip."""
    if not packed:
        for name, content in files.items():
            (where / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            write(where / "in" / name, content)
        return where / "in"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return write(where / "in.zip", out.getvalue())


@pytest.fixture(params=[False, True], ids=["folder", "zip"])
def read(request, tmp_path):
    def read(files, columns=COLUMNS, **settings):
        return read_all(columns, tree(tmp_path, files, packed=request.param), kind="images", **settings)

    return read


def test_the_folder_is_the_label_and_the_order_that_of_the_names(read):
    rows = read(
        {
            "set/b/2.png": png(PIXELS),
            "set/a/10.PNG": png(PIXELS + 1),
            "set/a/9.png": png(PIXELS + 2),
            "top.png": png(PIXELS),
        }
    )

    assert values(rows) == [
        ((PIXELS + 1).tobytes(), "a", "set/a/10.PNG"),
        ((PIXELS + 2).tobytes(), "a", "set/a/9.png"),
        (PIXELS.tobytes(), "b", "set/b/2.png"),
        (PIXELS.tobytes(), None, "top.png"),
    ]
    assert lines(rows) == [1, 2, 3, 4]


def test_what_is_no_image_by_its_name_or_hidden_is_not_read(read):
    rows = read(
        {
            "a/1.png": png(PIXELS),
            "a/notes.txt": b"x",
            "README.md": b"x",
            "__MACOSX/a/1.png": b"x",
            "a/.1.png": b"x",
        }
    )

    assert [row[2] for row in values(rows)] == ["a/1.png"]


def test_images_of_another_form_or_damaged_are_set_aside(read):
    colours = np.zeros((2, 3, 3), np.uint8)
    rows = read(
        {
            "a/1.png": png(PIXELS),
            "a/2.png": png(PIXELS.T),
            "a/3.png": png(colours),
            "a/4.png": b"no image",
            "a/5.png": png(PIXELS)[:-20],
            "a/6.png": b"",
            "a/7.png": b"\x89PNG" + b"x" * 3000,
        },
        max_field_bytes=2000,
    )

    assert [row[2] for row in values(rows)] == ["a/1.png"]
    found = rejects(rows)
    assert found[:2] == [
        (2, "image", None, '3 x 2 pixels, L; 2 x 3, L expected; fit = "resize" converts'),
        (3, "image", None, '2 x 3 pixels, RGB; 2 x 3, L expected; fit = "resize" converts'),
    ]
    assert [row[1] for row in found] == ["image"] * 5 + ["field"]
    assert found[2][3] == "no image that can be decoded: cannot identify image file"
    assert found[5][3] == "more than max_field_bytes = 2000"
    assert rows.rejected["raw"].to_pylist() == [f"a/{at}.png" for at in range(2, 8)]


def test_images_are_scaled_and_converted_where_that_is_declared(read):
    colours = np.full((4, 6, 3), 200, np.uint8)

    rows = read({"a/1.png": png(colours), "a/2.jpg": png(PIXELS, form="JPEG")}, fit="resize")

    assert values(rows)[0][0] == bytes([200] * 6)
    assert rows.kept.num_rows == 2


def test_colours_are_red_green_and_blue_and_floats_hold_pixels(read):
    colours = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    image = {"type": "tensor", "dtype": "float32", "shape": [2, 3, 3], "name": "image"}

    rows = read({"a/1.png": png(colours), "a/2.png": png(PIXELS), "a/3.png": png(colours, "P")}, {"x": image})

    assert values(rows)[0] == (colours.astype("<f4").tobytes(),)
    assert values(rows)[1] == (np.repeat(PIXELS[:, :, None], 3, axis=2).astype("<f4").tobytes(),)
    assert rows.kept.num_rows == 3


def test_no_image_at_all_is_an_error(read):
    with pytest.raises(
        InputError, match=r"no file that ends in \.png, \.jpg, .* among 1 \(\.txt\); check path"
    ):
        read({"a/notes.txt": b"x"})


def test_a_form_that_no_image_has_is_refused(read):
    with pytest.raises(
        SpecError, match=r"tensor int16 \[2, 3\]: an image is uint8, float32 or float64 of shape"
    ):
        read({"a/1.png": png(PIXELS)}, {"x": {**GREY, "dtype": "int16"}})


def test_what_is_no_zip_is_an_error(tmp_path):
    with pytest.raises(
        InputError, match=r"in\.zip: no folder and no zip file .*; expected a folder of folders"
    ):
        read_all(COLUMNS, write(tmp_path / "in.zip", b"PK\x03\x04 no zip"), kind="images")


def test_a_damaged_member_of_a_zip_is_set_aside(tmp_path):
    path = tree(tmp_path, {"a/1.png": png(PIXELS), "a/2.png": png(PIXELS)}, packed=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"a/1.png") + 12] ^= 0xFF
    write(path, bytes(content))

    rows = read_all(COLUMNS, path, kind="images")

    assert [row[2] for row in values(rows)] == ["a/2.png"]
    [(line, rule, _, message)] = rejects(rows)
    assert (line, rule) == (1, "file")
    assert message.startswith("cannot be unpacked: ")


def test_a_file_that_changes_after_the_plan_is_noticed(tmp_path):
    path = tree(tmp_path, {"a/1.png": png(PIXELS), "b/2.png": png(PIXELS)}, packed=False)
    source = declared(COLUMNS, path=str(path), kind="images", part_bytes=1)
    [file] = sources.files(source)
    first, second = sources.cut(source, file, 0)
    write(path / "b" / "2.png", png(PIXELS + 1) + b"more")

    assert sources.read(source, first).kept.num_rows == 1
    with pytest.raises(SourceChanged, match="changed since the run was planned"):
        sources.read(source, second)
    with pytest.raises(SourceChanged):
        sources.cut(source, file, 0)
    assert sources.files(source)[0].sha256 != file.sha256


@settings(max_examples=25)
@given(st.binary(max_size=200), st.integers(0, 80), st.booleans())
def test_any_bytes_end_in_a_row_or_are_set_aside(tmp_path_factory, noise, at, keep):
    good = png(PIXELS)
    content = good[:at] + noise + (good[at + len(noise) :] if keep else b"")
    path = tree(tmp_path_factory.mktemp("in"), {"a/1.png": content, "a/2.png": good}, packed=False)

    rows = read_all(COLUMNS, path, cuts=(1, 1 << 20), kind="images")

    assert rows.kept.num_rows + rows.rejected.num_rows == 2
    assert values(rows)[-1][2] == "a/2.png"
