"""Tables that a run changes by key: upsert and history in the pipeline file, from files to what readers see."""

import pytest

from pipelines import warehouse
from pipelines.engine import InProcess
from pipelines.errors import SchemaMismatch, SpecError
from tests.test_loads import Shop

SOURCE = """
[sources.orders]
kind = "csv"
path = "data/*.csv"
[sources.orders.columns]
id = "int64"
price = {{ type = "float64", range = [0, 100] }}
at = {{ type = "timestamp", format = "%Y-%m-%d" }}
gone = "bool"

[tables.orders]
source = "orders"
{policy}
{more}
"""
UPSERT = 'load = "upsert"\nkey = ["id"]'
SCD2 = UPSERT + '\nhistory = "scd2"\nvalid_from = "at"'


class Keyed(Shop):
    def __init__(self, folder, more):
        super().__init__(folder, policy="", more=more, text=SOURCE)

    def file(self, name, *rows):
        text = "id,price,at,gone\n" + "".join(f"{row}\n" for row in rows)
        (self.folder / "data" / name).write_text(text)

    def day(self, *rows):
        """The file as it is on the next day, and a run."""
        self.file("orders.csv", *rows)
        return self.run()

    def rows(self, *columns):
        return sorted(
            tuple(row.values()) for row in warehouse.Snapshot.open(self.uri).read(list(columns)).to_pylist()
        )


def test_rows_of_earlier_runs_stay_and_the_same_key_is_replaced(tmp_path):
    shop = Keyed(tmp_path, UPSERT + '\npartition_by = ["gone"]')
    shop.day("1,5,2026-01-01,false", "2,6,2026-01-01,false", "x,1,2026-01-01,false")
    assert shop.plan().nothing_to_do

    shop.day("2,7,2026-01-02,true", "3,8,2026-01-02,false", "4,500,2026-01-02,false")

    assert shop.rows("id", "price", "gone") == [(1, 5.0, False), (2, 7.0, True), (3, 8.0, False)]
    assert shop.plan().nothing_to_do
    newest = warehouse.history(shop.uri)[0]
    assert (newest.operation, newest.changed) == ("upsert", {"inserted": 1, "updated": 1})
    assert [row["rows_out"] for row in newest.record["ledger"]] == [2]
    assert [raw for _, _, raw in shop.rejects] == ["4,500,2026-01-02,false"]  # of the last run alone


def test_the_content_of_an_earlier_day_can_come_again(tmp_path):
    shop = Keyed(tmp_path, UPSERT)
    first, second = ["1,5,2026-01-01,false"], ["1,6,2026-01-02,false"]

    for rows in (first, second, first):
        shop.day(*rows)

    assert shop.rows("id", "price") == [(1, 5.0)]
    assert warehouse.Snapshot.open(shop.uri).version == 2


def test_the_history_of_a_key_is_kept(tmp_path):
    shop = Keyed(tmp_path, SCD2 + '\ndeleted = "gone"\npartition_by = ["is_current"]')
    shop.day("1,5,2026-01-01,false", "2,6,2026-01-01,false")
    shop.day("1,7,2026-01-05,false", "2,6,2026-01-05,true")
    shop.day("1,6,2026-01-03,false")

    found = [
        (key, price, start.day, end and end.day, current)
        for key, price, start, end, current in shop.rows(
            "id", "price", "valid_from", "valid_to", "is_current"
        )
    ]
    assert found == [
        (1, 5.0, 1, 3, False),
        (1, 6.0, 3, 5, False),
        (1, 7.0, 5, None, True),
        (2, 6.0, 1, 5, False),
    ]
    assert shop.plan().nothing_to_do


def test_a_table_that_reads_a_history_sees_its_columns(tmp_path):
    shop = Keyed(
        tmp_path,
        SCD2 + '\n[tables.now]\ntable = "orders"\nsteps = [{ do = "keep", where = "is_current" }]',
    )
    shop.day("1,5,2026-01-01,false")
    shop.day("1,6,2026-01-02,false")

    shop.run(name="now")

    now = warehouse.Snapshot.open(f"{shop.folder}/warehouse/now")
    assert now.read(["id", "price", "valid_to"]).to_pylist() == [{"id": 1, "price": 6.0, "valid_to": None}]


def test_a_key_that_is_there_twice_commits_nothing(tmp_path):
    shop = Keyed(tmp_path, UPSERT)

    with pytest.raises(SchemaMismatch, match=r"key \{'id': 1\} is there twice"):
        shop.day("1,5,2026-01-01,false", "1,6,2026-01-01,false")

    assert not warehouse.log.exists(shop.uri)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('load = "upsert"', 'tables.orders: load = "upsert" needs key'),
        ('key = ["id"]', 'tables.orders: key is for load = "upsert"'),
        (UPSERT + '\nhistory = "scd2"', 'history = "scd2" needs valid_from'),
        (UPSERT + '\nvalid_from = "at"', 'valid_from is for history = "scd2"'),
        (
            'load = "upsert"\nkey = ["idd"]',
            "tables.orders.key: key: key column 'idd' is not in the table; did you mean 'id'",
        ),
        ('load = "upsert"\nkey = ["price"]', "key column 'price' is double"),
        (UPSERT + '\nhistory = "scd2"\nvalid_from = "id"', "column 'id' is int64, expected timestamp"),
        (UPSERT + '\nhistory = "scd3"\nvalid_from = "at"', "scd2"),
    ],
)
def test_settings_that_do_not_go_together_are_told_with_their_line(tmp_path, more, said):
    shop = Keyed(tmp_path, more)
    shop.file("orders.csv", "1,5,2026-01-01,false")

    with pytest.raises(SpecError) as told:
        shop.plan()

    assert said in str(told.value)
    assert "pipeline.toml" in str(told.value) or "line" in str(told.value)


def test_files_that_were_loaded_one_by_one_can_be_packed_and_still_be_taken_out_one_by_one(tmp_path):
    """A rewrite moves rows to other files; the manifest of what was loaded from where moves with them."""
    shop = Shop(tmp_path, policy="reload", more='partition_by = ["id"]')
    shop.file("a.csv", "1,5", "2,6", "3,7")
    shop.file("b.csv", "1,1", "2,2")
    shop.run()
    shop.file("c.csv", "1,9")
    shop.run()
    here = {"lineage": warehouse.Lineage(run="t"), "runner": InProcess()}
    warehouse.delete(shop.uri, "price == 6", key="d", **here)
    warehouse.compact(shop.uri, **here)
    warehouse.compact(shop.uri, by=["price"], **here)
    assert shop.ids == [1, 1, 1, 2, 3]
    assert shop.plan().nothing_to_do

    shop.file("a.csv", "8,8")
    shop.run()

    assert shop.ids == [1, 1, 2, 8]
    assert {file.kept for file in warehouse.loaded(shop.uri)[1].files} == {1, 2}
    warehouse.restore(shop.uri, 0, key="r", **here)
    assert shop.ids == [1, 1, 2, 2, 3]
    shop.run()
    assert shop.ids == [1, 1, 2, 8]
