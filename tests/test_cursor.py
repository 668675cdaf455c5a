"""Rows of a database that are new by a cursor column come in once, late ones too."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import warehouse
from pipelines.errors import SpecError
from tests.test_loads import Shop

FILE = """
[sources.orders]
kind = "sqlite"
path = "shop.db"
table = "orders"
key = "id"
part_bytes = 200
cursor = "updated_at"
lag = "1h"
columns = {{ id = "int64", price = {{ type = "float64", range = [0, 100] }}, updated_at = {{ type = "timestamp", nullable = false }} }}

[tables.orders]
source = "orders"
load = "append"
{more}
"""
START = datetime(2024, 5, 1, tzinfo=UTC)


class Database(Shop):
    """A shop whose orders are in SQLite."""

    def __init__(self, folder, text=FILE):
        super().__init__(folder, text=text)
        self.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, price REAL, updated_at)")

    def execute(self, statement, *values):
        with closing(sqlite3.connect(self.folder / "shop.db")) as database:
            database.execute(statement, values)
            database.commit()

    def order(self, number, minutes, price=5.0):
        at = None if minutes is None else (START + timedelta(minutes=minutes)).isoformat()
        self.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?)", number, price, at)

    @property
    def rows(self):
        table = warehouse.Snapshot.open(self.uri).read(["id", "updated_at"]).to_pylist()
        return sorted((row["id"], (row["updated_at"] - START) // timedelta(minutes=1)) for row in table)


@pytest.fixture
def shop(tmp_path):
    made = Database(tmp_path / "shop")
    for number in range(20):
        made.order(number, 10 * number)
    made.run()
    return made


def test_new_and_late_rows_come_in_once(shop):
    shop.order(100, 200)
    shop.order(101, 135)  # an hour before the newest of the last load is 130

    built = shop.run()

    assert shop.rows == [*((n, 10 * n) for n in range(20)), (100, 200), (101, 135)]
    assert built.steps[0]["rows_in"] == 2
    assert shop.plan().nothing_to_do


def test_a_row_that_is_later_than_the_lag_is_not_looked_for(shop):
    shop.order(100, 125)

    shop.run()

    assert 100 not in shop.ids


def test_a_row_that_changed_comes_in_with_its_new_time(shop):
    shop.order(3, 210)

    shop.run()

    assert [row for row in shop.rows if row[0] == 3] == [(3, 30), (3, 210)]


def test_a_row_that_is_set_aside_is_set_aside_once(shop):
    shop.order(100, 200, price=500.0)
    shop.order(101, None)
    shop.run()
    shop.order(102, 205)
    shop.run()

    assert [row[1] for row in shop.rejects] == [100, 101]
    assert 102 in shop.ids


def test_nothing_new_is_a_load_of_no_row(shop):
    shop.execute("CREATE TABLE others (id)")

    assert shop.why == ("source orders: changed since the last load; rows that are new by updated_at",)
    shop.run()

    assert len(shop.ids) == 20
    assert shop.plan().nothing_to_do


def test_a_longer_lag_does_not_load_twice_what_is_known(shop):
    text = (shop.folder / "pipeline.toml").read_text()
    shop.order(100, 200)
    (shop.folder / "pipeline.toml").write_text(text.replace('"1h"', '"7d"'))

    shop.run()

    assert sorted(shop.ids) == [*range(20), 100]


def test_changed_steps_load_all_rows_again(shop):
    shop.declare(more='steps = [{ do = "keep", where = "id > 10" }]')

    shop.run()

    assert shop.ids == list(range(11, 20))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (", nullable = false", "", "needs nullable = false"),
        ('key = "id"', "", "a cursor needs key"),
        ('"1h"', '"1 hour"', 'expected a time such as "90s"'),
        ('cursor = "updated_at"', 'cursor = "updated"', "is no declared column"),
        ('cursor = "updated_at"', 'cursor = "price"', "expected an integer, date or timestamp"),
        ('cursor = "updated_at"', "", "lag has no effect without a cursor"),
        ('load = "append"', "", "sources.orders.cursor has no effect"),
    ],
)
def test_settings_that_cannot_work_are_refused(shop, old, new, problem):
    shop.declare(**{old: new})

    with pytest.raises(SpecError, match=problem):
        shop.plan()


@pytest.mark.parametrize(
    ("kind", "lag", "least"), [("int64", "3", 3), ("date", "2d", 2), ("timestamp", "2d", 2 * 24 * 60)]
)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(loads=st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=3))
def test_every_row_within_the_lag_is_there_once_however_loads_fall(tmp_path_factory, kind, lag, least, loads):
    """A dictionary is the model: key -> cursor value, in steps of the lag's unit."""
    text = FILE.replace('"1h"', f'"{lag}"').replace('type = "timestamp"', f'type = "{kind}"')
    shop = Database(tmp_path_factory.mktemp("shop") / "one", text)
    unit = {"int64": 1, "date": 1, "timestamp": 24 * 60}[kind]
    expected, high, number = [], None, 0
    for values in loads:
        for value in values:
            number += 1
            stored = value if kind == "int64" else (START + timedelta(days=value))
            written = (
                stored if kind == "int64" else stored.date().isoformat() if kind == "date" else str(stored)
            )
            shop.execute("INSERT INTO orders VALUES (?, 1.0, ?)", number, written)
            if high is None or value * unit >= high - least:
                expected.append(number)
        high = max([value * unit for value in values] + ([] if high is None else [high]), default=None)
        shop.run()

    assert shop.ids == expected


@pytest.mark.parametrize(
    ("kind", "since"), [("timestamptz", "2024-05-01T00:00:00Z"), ("timestamp", "2024-05-01")]
)
def test_a_table_of_postgresql_is_asked_for_what_may_be_new_alone(postgres, database, tmp_path, kind, since):
    text = FILE.replace('"sqlite"\npath = "shop.db"', f'"sql"\nurl = "{postgres.url(database)}"')
    rows = f"SELECT n, 1.0, '{since}'::{kind} + n * interval '1 hour' FROM generate_series({{}}, {{}}) n"
    create = f"CREATE TABLE orders (id int PRIMARY KEY, price float8, updated_at {kind} NOT NULL)"
    postgres.run(create, "INSERT INTO orders " + rows.format(1, 100), database=database)
    shop = Shop(tmp_path / "shop", text=text)
    shop.run()
    late = f"INSERT INTO orders VALUES (200, 1.0, '{since}'::{kind} + interval '99 hours')"
    postgres.run("INSERT INTO orders " + rows.format(101, 105), late, database=database)

    built = shop.run()

    assert shop.ids == [*range(1, 106), 200]
    assert built.steps[0]["rows_in"] == 6
    assert shop.plan().nothing_to_do
