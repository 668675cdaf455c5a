"""Checks that look at a whole table, at another table, or at the clock: in whole runs on real files."""

import datetime as dt
import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from flows.commands.tables import checks
from flows.project import open_project
from flows.run import run_file
from flows.session import Options
from pipelines import warehouse
from pipelines.errors import CheckFailed, SpecError
from pipelines.measures import torn
from pipelines.quality import Check
from pipelines.verdicts import aged, verdicts
from tests import projects
from tests.strategies import with_origin

FILE = """[sources.o]
kind = "csv"
path = "o.csv"
columns = {{ id = "int64", who = "int64", price = "float64", at = "timestamp" }}
[sources.c]
kind = "csv"
path = "c.csv"
columns = {{ id = "int64", name = "string" }}
[tables.o]
source = "o"
steps = [{steps}]
checks = [{checks}]
[tables.c]
source = "c"
"""
ROWS = "\n".join(f"{row},{row % 7},{row % 10}.5,2026-01-0{row % 9 + 1}T00:00:00" for row in range(200))


def project(folder, checks, *, steps="", rows=ROWS):
    (folder / "o.csv").write_text(f"id,who,price,at\n{rows}\n", "utf-8")
    (folder / "c.csv").write_text("id,name\n" + "".join(f"{who},n\n" for who in range(6)), "utf-8")
    (folder / "pipeline.toml").write_text(FILE.format(checks=checks, steps=steps), "utf-8")
    return folder


def command(folder, *arguments):
    made = CliRunner().invoke(checks, [*arguments, "--warehouse", str(folder / "warehouse")])
    assert made.exit_code == 0
    return made.stdout


def checks_of(record):
    return next(one for one in record["tables"] if one["name"] == "o")["checks"]


def test_keys_that_the_other_table_does_not_have_are_counted_or_set_aside(tmp_path):
    check = 'check = "foreign_key", column = "who", table = "c", to = ["id"]'
    project(tmp_path, f'{{ {check}, severity = "warn" }}')

    (found,) = checks_of(projects.run(tmp_path))
    project(tmp_path, f'{{ {check}, severity = "quarantine", name = "customer" }}')
    record = projects.run(tmp_path)
    rejects = warehouse.read_quarantine(str(tmp_path / "warehouse" / "o")).to_pylist()

    assert (found["found"], found["expected"]) == (
        "28 of 200 rows have a key that is not there",
        "a key of c.id",
    )
    assert len(rejects) == 28
    assert {reject["message"] for reject in rejects} == {"column 'who': 6 found, a key of c.id expected"}
    assert next(one for one in record["tables"] if one["name"] == "o")["rows_out"] == 172


def test_a_key_of_several_columns_is_looked_up_as_one(tmp_path):
    project(tmp_path, '{ check = "foreign_key", columns = ["id", "who"], table = "c", to = ["id", "id"] }')

    with pytest.raises(CheckFailed, match=r"foreign_key id, who: found 194 of 200 rows"):
        projects.run(tmp_path)


def test_a_spread_that_moved_stops_the_commit_of_the_next_version(tmp_path):
    project(tmp_path, '{ check = "distribution", columns = ["price", "who"], max_psi = 0.2, max_ks = 0.1 }')

    first = checks_of(projects.run(tmp_path))
    project(
        tmp_path,
        '{ check = "distribution", columns = ["price", "who"], max_psi = 0.2, max_ks = 0.1 }',
        rows=ROWS.replace(".5,", "9.5,"),
    )
    with pytest.raises(CheckFailed) as caught:
        projects.run(tmp_path)

    assert [one["found"] for one in first] == ["there is no version before this one"] * 2
    assert "distribution price: found psi" in str(caught.value)
    assert "against version 0 of o, expected psi at most 0.2, ks at most 0.1" in str(caught.value)
    assert "distribution who" not in str(caught.value)


def test_another_table_may_be_the_reference(tmp_path):
    project(
        tmp_path, '{ check = "distribution", column = "id", max_ks = 0.5, table = "c", severity = "warn" }'
    )

    (found,) = checks_of(projects.run(tmp_path))

    assert (found["passed"], found["found"].endswith("ks 0.97 against version 0 of c")) == (False, True)


def test_what_becomes_old_is_told_by_every_run_also_by_one_with_nothing_to_do(tmp_path):
    now = dt.datetime.now(dt.UTC)
    hours_ago = f"1,1,1,{now - dt.timedelta(hours=2):%Y-%m-%dT%H:%M:%S}"
    project(tmp_path, '{ check = "freshness", column = "at", max_hours = 100000, severity = "warn" }')

    (found,) = checks_of(projects.run(tmp_path))
    project(tmp_path, '{ check = "freshness", column = "at", max_hours = 1 }', rows=hours_ago)
    with pytest.raises(CheckFailed, match="freshness at: found the newest is of"):
        projects.run(tmp_path)
    later = aged([found], now + dt.timedelta(days=10_000))
    shown = command(tmp_path, "--json")

    assert found["passed"]
    assert found["found"].startswith("the newest is of 2026-01-09 00:00 UTC, ")
    assert not later[0]["passed"]
    assert [one["name"] for one in json.loads(shown)] == ["freshness at"]


def test_the_age_is_that_of_the_moment_and_not_of_the_build(tmp_path):
    project(tmp_path, '{ check = "freshness", column = "at", max_hours = 100000 }')
    projects.run(tmp_path)
    quiet = run_file(tmp_path / "pipeline.toml", {}, Options(workers=0), prefect=False)
    event = warehouse.history(str(tmp_path / "warehouse" / "o"))[0]
    now = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)

    (old,) = aged(event.record["checks"], now)

    assert quiet is None, "there was nothing to do"
    assert old["found"] == "the newest is of 2026-01-09 00:00 UTC, 122,520.0 hours old"
    assert not old["passed"]


def test_the_history_of_checks_is_a_table_and_a_command(tmp_path):
    check = '{{ check = "row_count", min = {} }}'
    project(tmp_path, check.format(1))
    projects.run(tmp_path)
    project(tmp_path, check.format(2))
    projects.run(tmp_path)

    newest = command(tmp_path, "o").splitlines()
    every = json.loads(command(tmp_path, "o", "--all", "--json"))
    book = warehouse.Snapshot.open(str(tmp_path / "warehouse" / "_dlflow" / "quality")).read()

    assert newest[0].split() == [
        "table",
        "version",
        "time",
        "passed",
        "severity",
        "name",
        "found",
        "expected",
    ]
    assert len(newest) == 2
    assert [one["expected"] for one in every] == ["at least 2 rows", "at least 1 rows"]
    assert sorted(book["expected"].to_pylist()) == ["at least 1 rows", "at least 2 rows"]


def test_a_key_in_two_parts_of_the_split_is_found():
    table = with_origin(
        pa.table(
            {
                "who": [1, 1, 2, 2, 3, None, None],
                "split": ["train", "test", "train", "train", "test", "train", "test"],
            }
        )
    )
    check = Check(check="apart", column="who")

    assert torn(table, check) == 1
    (found,) = verdicts([check], {}, rows=7, measured={"apart who": 1})
    assert (found["passed"], found["found"]) == (False, "1 keys are in more than one part")
    with pytest.raises(SpecError, match="no column 'split'"):
        check.build(table.drop_columns(["split"]).schema)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ('{ check = "foreign_key", column = "who" }', "table is missing"),
        (
            '{ check = "foreign_key", column = "who", table = "cc" }',
            "there is no table 'cc'; did you mean 'c'?",
        ),
        ('{ check = "foreign_key", column = "who", table = "c" }', "table 'c' has no column 'who'"),
        ('{ check = "foreign_key", column = "who", table = "c", to = ["nam"] }', "did you mean 'name'?"),
        (
            '{ check = "foreign_key", column = "who", table = "c", to = ["name"] }',
            "'who' is int64, c.name is string",
        ),
        (
            '{ check = "foreign_key", column = "who", table = "c", to = ["id", "name"] }',
            "1 columns here, 2 in to",
        ),
        ('{ check = "foreign_key", column = "who", table = "o", to = ["id"] }', "depends on itself"),
        ('{ check = "freshness", column = "at" }', "max_hours is missing"),
        (
            '{ check = "freshness", column = "price", max_hours = 1 }',
            "column 'price' is double, expected date",
        ),
        ('{ check = "freshness", column = "at", max_hours = 0 }', "expected a number above 0"),
        (
            '{ check = "freshness", column = "at", max_hours = 1, severity = "quarantine" }',
            "no rows to set aside",
        ),
        ('{ check = "distribution", column = "price" }', "max_psi or max_ks is missing"),
        (
            '{ check = "distribution", column = "price", max_psi = 1, table = "c" }',
            "table 'c' has no column 'price'",
        ),
        ('{ check = "apart", column = "who" }', "no column 'split'"),
    ],
)
def test_a_check_that_cannot_be_is_told_with_its_line(tmp_path, check, message):
    project(tmp_path, check)

    with pytest.raises(SpecError) as caught:
        open_project(tmp_path / "pipeline.toml")

    assert message in str(caught.value)
