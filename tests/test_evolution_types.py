"""contract = "evolve" and the types of columns: what becomes wider, what stops the run, what no column can be."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import warehouse
from pipelines.errors import InputError, SchemaMismatch
from tests.test_evolution import FILE, made, written
from tests.test_loads import Shop


def test_a_wider_type_of_a_file_loads_all_files_again_and_a_narrower_one_is_read_as_the_wider(tmp_path):
    shop = Shop(tmp_path / "shop", "parquet", 'load = "append"', text=FILE)
    small = pa.schema([("id", pa.int64()), ("price", pa.float64()), ("n", pa.int8()), ("f", pa.float32())])
    write = lambda name, schema, *rows: pq.write_table(  # noqa: E731
        pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema),
        shop.folder / "data" / f"{name}.parquet",
    )
    write("a", small, (1, 1.0, 100, 0.5))
    shop.run()
    wide = pa.schema([("id", pa.int64()), ("price", pa.float64()), ("n", pa.int32()), ("f", pa.float64())])
    write("b", wide, (2, 2.0, 100_000, 0.1))

    assert (
        shop.why[0]
        == "columns of a wider type, so all files are loaded again:\n  - n int8\n  + n int32\n  - f float32\n  + f float64"
    )
    shop.run()
    write("c", small, (3, 3.0, 7, 0.25))
    built = shop.run()

    found = warehouse.Snapshot.open(shop.uri).read()
    assert found.schema.field("n").type == pa.int32()
    assert sorted(zip(*(found[name].to_pylist() for name in ("id", "n", "f")), strict=True)) == [
        (1, 100, 0.5),
        (2, 100_000, 0.1),
        (3, 7, 0.25),
    ]
    assert built.version == 2


def test_a_wider_type_stops_a_table_that_is_changed_by_key(tmp_path):
    shop = Shop(tmp_path / "shop", "parquet", 'load = "upsert"\nkey = ["id"]', text=FILE)
    for day, kind in enumerate([pa.int8(), pa.int32()]):
        table = pa.table({"id": [day], "price": [1.0], "n": pa.array([100_000 * day], kind)})
        pq.write_table(table, shop.folder / "data" / "orders.parquet")
        if day == 0:
            shop.run()

    with pytest.raises(SchemaMismatch) as failure:
        shop.run()

    assert str(failure.value).split("\n  ")[1:] == [
        "- n int8",
        "+ n int32; cast them in a step to the type of the table, or name another table, which is then built from all of its files",
    ]


@pytest.mark.parametrize(
    ("kind", "other", "told"),
    [
        (pa.int64(), pa.string(), '\n  - n int64\n  + n string: declare "string", or correct the file'),
        (pa.int64(), pa.float64(), '\n  - n int64\n  + n float64: declare "float64", or correct the file'),
        (pa.string(), pa.int64(), '\n  - n string\n  + n int64: declare "int64", or correct the file'),
    ],
)
def test_a_type_that_is_neither_wider_nor_narrower_stops_the_run(tmp_path, kind, other, told):
    shop = Shop(tmp_path / "shop", "parquet", 'load = "append"', text=FILE)
    for name, one in (("a", kind), ("b", other)):
        table = pa.table({"id": [1], "price": [1.0], "n": pa.array([None], one)})
        pq.write_table(table, shop.folder / "data" / f"{name}.parquet")
        if name == "a":
            shop.run()

    with pytest.raises(
        InputError, match=r"b\.parquet: the columns are not those declared \(- declared, \+ in the file\):"
    ) as failure:
        shop.run()

    assert told in str(failure.value)


def test_what_no_column_can_be_is_told_by_name(tmp_path):
    shop = Shop(tmp_path / "shop", "parquet", text=FILE)
    pq.write_table(pa.table({"id": [1], "price": [1.0], "tags": [["a"]]}), shop.folder / "data" / "a.parquet")
    with pytest.raises(
        InputError, match=r"the new column 'tags' is list<element: string>, which no column of a table can be"
    ):
        shop.run()
    csv = made(tmp_path / "csv")
    written(csv, "csv", "b", [{"id": 1, "price": 1.0, "a b": "x"}])
    with pytest.raises(InputError, match="the new column 'a b' cannot be added to a table under this name"):
        csv.run()
