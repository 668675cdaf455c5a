"""How a table of PostgreSQL becomes one of Arrow: ADBC, psycopg, and SQLAlchemy over psycopg (pip install "psycopg[binary]")."""

import os
import statistics
import time
from contextlib import closing

import pyarrow as pa
import pytest

pytestmark = pytest.mark.bench
ROWS, REPEATS = 500_000, 5
QUERY = "SELECT * FROM orders"


def over_adbc(url):
    from adbc_driver_postgresql import dbapi

    with closing(dbapi.connect(url)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(QUERY)
        return cursor.fetch_arrow_table()


def over_psycopg(url):
    import psycopg

    with psycopg.connect(url) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute(QUERY)
        names = [column.name for column in cursor.description]
        return columns(names, cursor.fetchall())


def over_sqlalchemy(url):
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            answer = connection.execute(sqlalchemy.text(QUERY))
            return columns(list(answer.keys()), answer.fetchall())
    finally:
        engine.dispose()


def columns(names, rows):
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


def test_adbc_takes_less_processor_time_than_drivers_that_make_python_objects(postgres, database, capsys):
    pytest.importorskip("psycopg", reason='needs pip install "psycopg[binary]"')
    postgres.run(
        "CREATE TABLE orders AS SELECT n::int8 AS id, n % 1000 AS customer, n * 0.5::float8 AS price, 'note ' || n AS note, "
        "timestamptz '2026-01-01' + n * interval '1 second' AS at, n % 2 = 0 AS paid, date '2026-01-01' + n % 365 AS day "
        f"FROM generate_series(1, {ROWS}) n",
        database=database,
    )
    url, ways = postgres.url(database), (over_adbc, over_psycopg, over_sqlalchemy)
    spent = {way.__name__: [] for way in ways}
    counts = set()
    for _ in range(REPEATS):
        for way in ways:
            begun, clock = os.times(), time.perf_counter()
            counts.add(way(url).num_rows)
            now = os.times()
            spent[way.__name__].append(
                (now.user - begun.user + now.system - begun.system, time.perf_counter() - clock)
            )

    with capsys.disabled():
        print(f"\n{ROWS:,} rows of 7 columns: median processor time of this process, median time")
        for name, times in spent.items():
            processor, whole = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"  {name:<16} {processor:6.2f} s {whole:6.2f} s")
    assert counts == {ROWS}
