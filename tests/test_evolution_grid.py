"""contract = "evolve" for every kind of file and every way of loading: as if the column had been declared from the beginning."""

import datetime as dt
import json
import sqlite3
from contextlib import closing

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import warehouse
from tests.test_loads import Shop

FILE = """
[sources.orders]
kind = "{policy}"
{where}
{contract}
columns = {{{{ id = "int64", price = "float64", at = {{{{ type = "timestamp", nullable = false }}}}{note} }}}}
[tables.orders]
source = "orders"
{load}
"""
UPSERT = 'load = "upsert"\nkey = ["id"]'
LOADS = {
    "append": 'load = "append"',
    "replace": 'load = "replace"',
    "upsert": UPSERT,
    "scd2": f'{UPSERT}\nhistory = "scd2"\nvalid_from = "at"',
}
KINDS = ("csv", "jsonl", "parquet", "arrow", "sqlite")
FAST = {("csv", "upsert"), ("csv", "scd2"), ("parquet", "scd2")}
DAYS = [  # the files of three days: the column comes with the second, and the third lacks it
    [{"id": 1, "price": 5.0}, {"id": 2, "price": 6.0}],
    [{"id": 1, "price": 7.0, "note": "x"}, {"id": 3, "price": 8.0, "note": None}],
    [{"id": 2, "price": 9.0}],
]


def write(folder, kind, day, rows):
    """One day's file; a database is brought to the state of that day."""
    rows = [{**row, "at": f"2026-01-0{day + 1}T00:00:00Z"} for row in rows]
    path = folder / f"{day}.{kind}"
    names = list(rows[0])
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in names})
    moment = dt.datetime(2026, 1, day + 1, tzinfo=dt.UTC)
    typed = table.set_column(
        names.index("at"), "at", pa.array([moment] * len(rows), pa.timestamp("us", "UTC"))
    )
    match kind:
        case "csv":
            lines = [",".join("" if row[name] is None else str(row[name]) for name in names) for row in rows]
            path.write_text("\n".join([",".join(names), *lines]) + "\n")
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "parquet":
            pq.write_table(typed, path)
        case "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, typed.schema) as out:
                out.write_table(typed)
        case "sqlite":
            with closing(sqlite3.connect(folder / "shop.sqlite")) as database:
                if day == 0:
                    database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price REAL, at TEXT)")
                else:
                    change = "ADD COLUMN note TEXT" if "note" in names else "DROP COLUMN note"
                    database.execute(f"ALTER TABLE orders {change}")
                holes = ", ".join(f":{name}" for name in names)
                database.executemany(f"REPLACE INTO orders ({', '.join(names)}) VALUES ({holes})", rows)
                database.commit()


def loaded(folder, kind, load, *, declared):
    """The rows and versions of the table after the three days."""
    where = 'path = "data"'
    if kind == "sqlite":
        where = 'path = "data/shop.sqlite"\ntable = "orders"'
        where += '\ncursor = "at"\nkey = "id"' if load == "append" else ""
    contract = 'contract = "evolve"'
    if declared:
        contract = "" if kind == "jsonl" else 'optional = ["note"]'
    note = ', note = "string"' if declared else ""
    text = FILE.format(policy="{policy}", where=where, contract=contract, note=note, load=LOADS[load])
    shop = Shop(folder, kind, text=text)
    for day, rows in enumerate(DAYS):
        write(folder / "data", kind, day, rows)
        shop.run()
        if load in {"upsert", "scd2"} and kind != "sqlite":
            (folder / "data" / f"{day}.{kind}").unlink()
    found = warehouse.Snapshot.open(shop.uri)
    names = sorted(found.schema.names)
    rows = sorted((tuple(row[name] for name in names) for row in found.read().to_pylist()), key=repr)
    return names, rows, found.version


@pytest.mark.parametrize(
    ("kind", "load"),
    [
        pytest.param(kind, load, marks=[] if (kind, load) in FAST else [pytest.mark.slow])
        for kind in KINDS
        for load in LOADS
    ],
)
def test_a_column_that_comes_gives_the_table_that_it_would_have_given_if_it_had_been_declared(
    tmp_path, kind, load
):
    names, rows, version = grown = loaded(tmp_path / "grown", kind, load, declared=False)

    assert version == 2
    if (kind, load) == ("sqlite", "replace"):
        assert names == ["at", "id", "price"]  # the table is what the database is, which has dropped it
        return
    assert grown == loaded(tmp_path / "known", kind, load, declared=True)
    notes = {(row[names.index("id")], row[names.index("note")]) for row in rows}
    assert (2, None) in notes
    assert ((1, "x") in notes) == (
        kind != "sqlite" or load == "append"
    )  # else its rows are read again without
