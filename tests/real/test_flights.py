"""The flights pipeline on the real files: the counts that the files hold, and a model that beats what is usual."""

import pytest

from flows.driver import driver
from flows.project import open_project
from flows.run import run_project
from flows.session import Options, plan_of
from flows.terminal import Terminal
from pipelines import warehouse
from tests import projects

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flights(tmp_path_factory, data_dir):
    """The pipeline of the gallery, run on two workers, with the proof on one."""
    if not (data_dir / "nycflights13").is_dir():
        pytest.skip(
            f"no real data at {data_dir / 'nycflights13'}; set DLFLOW_DATA to the folder of data sets"
        )
    folder = tmp_path_factory.mktemp("flights")
    text = (projects.REPOSITORY / "flows" / "gallery" / "flights" / "pipeline.toml").read_text("utf-8")
    (folder / "pipeline.toml").write_text(text, "utf-8")
    project = open_project(folder / "pipeline.toml", {"data": str(data_dir / "nycflights13")})
    with driver(False, folder) as chosen, (folder / "said.txt").open("w", encoding="utf-8") as stream:
        record = run_project(
            project, plan_of(project), Options(workers=2, prove=True), Terminal(stream), chosen
        )
    return project.pipeline.warehouse, record


def counts(record, name):
    return next(table for table in record["tables"] if table["name"] == name)


def notes(record, name):
    return {key: value for step in counts(record, name)["steps"] for key, value in step["notes"].items()}


def rows_where(root, query):
    return warehouse.sql(str(root), query).to_pylist()[0]["n"]


def test_every_row_of_the_files_comes_in(flights):
    _, record = flights

    read = {
        name: counts(record, name)["rows_in"]
        for name in ("flights", "weather", "planes", "airports", "airlines")
    }

    assert read == {"flights": 336_776, "weather": 26_115, "planes": 3_322, "airports": 1_458, "airlines": 16}


def test_impossible_values_and_double_hours_are_set_aside_and_nothing_else(flights):
    root, record = flights

    weather = counts(record, "weather")
    rejects = warehouse.read_quarantine(str(root / "weather")).to_pylist()

    assert (weather["quarantined"], weather["deduplicated"], weather["rows_out"]) == (1, 3, 26_111)
    assert [(reject["column"], reject["line"]) for reject in rejects] == [("wind_speed", 1011)]
    assert "1048.36058" in rejects[0]["raw"]
    assert "EWR,2013,2,12,3," in rejects[0]["raw"]
    for name, rows in (("flights", 336_776), ("planes", 3_322), ("airports", 1_458), ("airlines", 16)):
        table = counts(record, name)
        assert (table["quarantined"], table["deduplicated"], table["rows_out"]) == (0, 0, rows)


def test_missing_values_are_as_many_as_the_files_have(flights):
    root, _ = flights

    missing = {
        column: rows_where(root, f"select count(*) as n from flights where {column} is null")
        for column in (
            "dep_time",
            "dep_delay",
            "hour",
            "minute",
            "arr_time",
            "arr_delay",
            "air_time",
            "tailnum",
        )
    }

    assert missing == {
        "dep_time": 8_255,
        "dep_delay": 8_255,
        "hour": 8_255,
        "minute": 8_255,
        "arr_time": 8_713,
        "arr_delay": 9_430,
        "air_time": 9_430,
        "tailnum": 2_512,
    }
    assert (
        rows_where(root, "select count(*) as n from weather where wind_gust is null") == 20_778 - 4
    )  # the four rows that went had none either
    assert rows_where(root, "select count(*) as n from planes where built is null") == 70


def test_joins_keep_every_flight_and_count_what_has_no_partner(flights):
    root, record = flights

    departures = counts(record, "departures")
    unmatched = {
        step["name"]: step["notes"].get("unmatched", 0)
        for step in departures["steps"]
        if step["name"].startswith("join")
    }

    assert departures["rows_out"] == 336_776
    assert unmatched["join planes"] / 336_776 == pytest.approx(0.156, abs=0.001)
    assert unmatched["join airlines"] == 0
    assert unmatched["join airports"] == rows_where(
        root, "select count(*) as n from flights where dest in ('BQN', 'PSE', 'SJU', 'STT')"
    )
    assert 1 - unmatched["join weather"] / 336_776 == pytest.approx(0.971, abs=0.001)


def test_the_table_is_partitioned_by_month(flights):
    root, _ = flights

    snapshot = warehouse.Snapshot.open(str(root / "departures"))

    assert snapshot.partition_by == ("month",)
    assert {file.partition["month"] for file in snapshot.files()} == set(range(1, 13))


def test_the_split_is_by_time_and_leaves_out_flights_without_arrival(flights):
    _, record = flights

    features = counts(record, "features")
    rows = record["models"][0]["rows"]

    assert features["filtered"] == 9_430
    assert sum(rows.values()) == 327_346
    assert rows == {"train": 244_737, "validation": 28_618, "test": 53_991}


def test_the_model_beats_the_base_rate_and_logistic_regression(flights):
    _, record = flights

    model = record["models"][0]
    baselines = {baseline["name"]: baseline["metrics"] for baseline in model["baselines"]}
    test = model["metrics"]["test"]

    assert test["base_rate"] == pytest.approx(0.2499, abs=0.0001)
    assert baselines["prior"]["auc"] == 0.5
    assert test["auc"] > baselines["logistic"]["auc"] > 0.68
    assert test["auc"] > 0.684  # gradient boosting on the raw columns (README of the data set)
    assert test["log_loss"] < baselines["prior"]["log_loss"]


def test_one_worker_gives_the_same_weights(flights):
    _, record = flights

    assert record["models"][0]["workers"] == 2
    assert record["models"][0]["proof"] == {
        "workers": 1,
        "weights_sha256": record["models"][0]["weights_sha256"],
        "identical": True,
    }
