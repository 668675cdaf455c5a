"""What infer proposes for each real data set loads as it stands, without an edit, with the rows that its README counts."""

import os
from pathlib import Path

import pytest

from pipelines import sources, spec
from pipelines.infer import infer

DATA = Path(os.environ.get("DLFLOW_DATA", Path(__file__).parents[3] / "shared" / "data"))
SETS = {  # file: rows of each source, in the order of the proposal; and how many of them are set aside
    "nycflights13/flights.csv": ([336_776], 0),
    "nycflights13/weather.csv": ([26_115], 0),
    "nycflights13/planes.csv": ([3_322], 0),
    "nycflights13/airlines.csv": ([16], 0),
    "nycflights13/airports.csv": ([1_458], 0),
    "nycflights13/airports.dat": ([8_107], 0),
    "air_quality_uci/AirQualityUCI.csv": ([9_471], 0),
    "air_quality_uci/AirQualityUCI_semicolon.csv": ([9_357], 0),
    "bank_marketing/bank-full.csv": ([45_211], 0),
    "bank_marketing/bank.csv": ([4_521], 0),
    "bank_marketing/bank-additional.csv": ([4_119], 0),
    "bike_sharing/hour.csv": ([17_379], 0),
    "bike_sharing/day.csv": ([731], 0),
    "heart_disease/processed.cleveland.data": ([303], 0),
    "heart_disease/processed.cleveland.v2.data": ([303], 0),
    "heart_disease/processed.hungarian.data": ([294], 0),
    "heart_disease/processed.hungarian.v2.data": ([294], 0),
    "heart_disease/processed.switzerland.data": ([123], 0),
    "heart_disease/processed.switzerland.v2.data": ([123], 0),
    "heart_disease/processed.va.data": ([200], 0),
    "heart_disease/processed.va.v2.data": ([200], 0),
    "sms_spam/sms.tsv": ([5_574], 0),
    "sms_spam/spam.csv": ([5_572], 0),
    "sentiment_labelled/*_labelled.txt": ([3_000], 0),
    "small_tables/iris.csv": ([150], 0),
    "small_tables/wheat-seeds.csv": ([210], 0),
    "small_tables/pima-indians-diabetes.csv": ([768], 0),
    "small_tables/german.csv": ([1_000], 0),
    "chinook/Chinook_Sqlite.sqlite": ([347, 275, 59, 8, 25, 412, 2_240, 5, 18, 8_715, 3_503], 0),
    "mnist/t10k-images-idx3-ubyte.gz": ([10_000], 0),
    "mnist/mnist-pngs-test.zip": ([10_000], 0),
}


def counted(source):
    """Good rows, and rows set aside."""
    made = [
        sources.read(source, part)
        for number, file in enumerate(sources.files(source))
        for part in sources.cut(source, file, number)
    ]
    aside = sum(one.rejected.num_rows for one in made if one.rejected is not None)
    return sum(one.kept.num_rows for one in made), aside


FAST = ("airlines", "airports.csv", "day", "va", "sms", "sentiment", "iris", "german", "Chinook")


@pytest.mark.parametrize(
    "name",
    [
        name if any(one in name for one in FAST) else pytest.param(name, marks=pytest.mark.slow)
        for name in SETS
    ],
)
def test_the_proposal_loads_as_it_stands(tmp_path, name):
    place = DATA / name
    if not place.parent.exists():
        pytest.skip(f"{place.parent} is not there; set DLFLOW_DATA to the folder of the data sets")
    if name.endswith(".zip"):
        pytest.importorskip("PIL.Image", reason="images need Pillow")
    rows, aside = SETS[name]

    (tmp_path / "pipeline.toml").write_text(infer(str(place)), "utf-8")
    found = [counted(one) for one in spec.load(tmp_path / "pipeline.toml").sources.values()]

    assert [sum(one) for one in found] == rows
    assert sum(bad for _, bad in found) == aside
