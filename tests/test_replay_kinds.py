"""Rows come back from the quarantine of every kind of source: exactly those are read again, and the ledger closes to zero."""

import gzip
import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import sources, warehouse
from tests.test_loads import Shop
from tests.test_replay import again, ledger
from tests.test_sources_idx import idx

ROWS = 300
BAD = [number for number in range(ROWS) if number % 7 == 0]
NOTES = ["bad" if number in BAD else "x" * (number % 50) + "." for number in range(ROWS)]
TABLE = pa.table({"id": pa.array(range(ROWS), pa.int64()), "note": NOTES})
TEXT = "id,note\n" + "".join(f"{number},{note}\n" for number, note in enumerate(NOTES))
ID, NOTE = 'id = "int64"', 'note = {{ type = "string", pattern = "x*." }}'
SLOW = ("arrow", "gz", "zst", "utf-16", "gb18030", "zip", "documents")


def packed(codec):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, codec) as stream:
        stream.write(TEXT.encode())
    return out.getvalue().to_pybytes()


def made(folder, kind):
    """The source in a pipeline file, with a rule that every seventh row breaks; its files are in `data/`."""
    place, columns, settings = folder / "data" / f"in.{kind}", f"{ID}, {NOTE}", ""
    match kind:
        case "parquet":
            pq.write_table(TABLE, place, row_group_size=40)
        case "arrow":
            with pa.OSFile(str(place), "wb") as file, pa.ipc.new_file(file, TABLE.schema) as out:
                out.write_table(TABLE, 40)
        case "text":
            settings = 'label = "last"'
            columns = 'id = {{ type = "int64", name = "label" }}, note = {{ type = "string", name = "text", pattern = "x*." }}'
            place = place.with_suffix(".txt")
            place.write_text("".join(f"{note}\t{number}\n" for number, note in enumerate(NOTES)))
        case "idx":
            place, settings = folder / "data" / "in.idx.gz", f'labels = "{folder}/labels.idx"'
            images = np.repeat(np.arange(ROWS, dtype="u1"), 4).reshape(ROWS, 2, 2)
            labels = np.array([9 if number in BAD else number % 7 for number in range(ROWS)], "u1")
            place.write_bytes(gzip.compress(idx(images)))
            (folder / "labels.idx").write_bytes(idx(labels))
            columns = 'x = {{ type = "tensor", dtype = "uint8", shape = [2, 2], name = "image" }}, '
            columns += 'id = {{ type = "int32", name = "label", range = [0, 6] }}'
        case "zip" | "documents":
            kind, settings = "text", "documents = true"
            columns = 'note = {{ type = "string", name = "text" }}, label = {{ type = "string", values = ["good"] }}'
            files = {
                f"{'bad' if number in BAD else 'good'}/{number}.txt": f"text {number}"
                for number in range(ROWS)
            }
            if place.suffix == ".zip":
                out = io.BytesIO()
                with zipfile.ZipFile(out, "w") as archive:
                    for name, text in files.items():
                        archive.writestr(name, text)
                place.write_bytes(out.getvalue())
            else:
                place = folder / "data"
                for name, text in files.items():
                    (place / name).parent.mkdir(exist_ok=True)
                    (place / name).write_text(text)
        case "gz" | "zst":
            place = folder / "data" / f"in.csv.{kind}"
            place.write_bytes(packed({"gz": "gzip", "zst": "zstd"}[kind]))
            kind = "csv"
        case encoding:
            kind, settings, place = "csv", f'encoding = "{encoding}"', folder / "data" / "in.csv"
            place.write_bytes(TEXT.replace("bad", "不好").encode(encoding))
    return f'kind = "{kind}"\npath = "{place}"\n{settings}\npart_bytes = 700\ncolumns = {{{{ {columns} }}}}'


@pytest.mark.parametrize(
    "kind",
    ["parquet", "text", "idx", *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)],
)
def test_what_was_set_aside_of_every_kind_comes_back_and_the_ledger_closes(tmp_path, kind):
    shop = Shop(tmp_path / "shop", text="")
    shop.text = (
        f'[sources.orders]\n{made(shop.folder, kind)}\n[tables.orders]\nsource = "orders"\nload = "append"'
    )
    shop.declare()
    shop.run()
    assert len(shop.rejects) == len(BAD)
    mended = {'"x*."': '".*"', "[0, 6]": "[0, 9]", '["good"]': '["good", "bad"]'}
    shop.declare(**mended)

    done = again(shop)

    assert (done.read, done.moved, done.stay, shop.rejects) == (len(BAD), len(BAD), 0, [])
    found = warehouse.Snapshot.open(shop.uri).read()
    assert found.num_rows == ROWS
    if "id" in found.column_names and kind != "idx":
        assert sorted(found["id"].to_pylist()) == list(range(ROWS))
    assert ledger(shop) == {"read": ROWS, "quarantined": 0}
    assert shop.plan().nothing_to_do


def test_what_was_set_aside_of_a_server_comes_back(postgres, database, tmp_path):
    create = "CREATE TABLE orders AS SELECT n::int8 AS id, CASE n % 7 WHEN 0 THEN 'bad' ELSE 'x.' END AS note"
    postgres.run(f"{create} FROM generate_series(0, {ROWS - 1}) n", database=database)
    text = f'kind = "sql"\nurl = "{postgres.url(database)}"\ntable = "orders"\nkey = "id"\ncolumns = {{{{ {ID}, {NOTE} }}}}'
    shop = Shop(tmp_path / "shop", text="")
    shop.text = f'[sources.orders]\n{text}\n[tables.orders]\nsource = "orders"'
    shop.declare()
    with sources.one_moment():
        shop.run()
    assert len(shop.rejects) == len(BAD)
    shop.declare(**{'"x*."': '".*"'})

    done = again(shop)

    assert (done.read, done.moved, done.stay, shop.rejects) == (len(BAD), len(BAD), 0, [])
    assert shop.ids == list(range(ROWS))
    assert ledger(shop) == {"read": ROWS, "quarantined": 0}
