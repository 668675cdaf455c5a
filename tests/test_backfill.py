"""Backfill: every period once, resumable, and what failed is named."""

import json
import textwrap

import pytest

from flows.backfill import periods, plan_backfill, run_backfill
from flows.project import open_project
from pipelines import warehouse
from pipelines.errors import PartFailed, SpecError
from tests.projects import command

FILE = """
    name = "shop"
    [params]
    day = "2026-01-01"
    [sources.orders]
    kind = "csv"
    path = "data/{day}/*.csv"
    columns = { id = "int64" }
    on_change = "ignore"
    [tables.orders]
    source = "orders"
    load = "append"
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "pipeline.toml").write_text(textwrap.dedent(FILE))
    for day in (1, 2, 3):
        (tmp_path / "data" / f"2026-01-0{day}").mkdir(parents=True)
        (tmp_path / "data" / f"2026-01-0{day}" / "orders.csv").write_text(f"id\n{day}0\n{day}1\n")
    return tmp_path


def ids(folder):
    return sorted(warehouse.Snapshot.open(str(folder / "warehouse" / "orders")).read()["id"].to_pylist())


@pytest.mark.parametrize(
    ("first", "last", "by", "expected"),
    [
        ("2024-02-28", "2024-03-01", "day", ["2024-02-28", "2024-02-29", "2024-03-01"]),
        ("2025-11", "2026-02", "month", ["2025-11", "2025-12", "2026-01", "2026-02"]),
        ("2025-11-30", "2026-01-01", "month", ["2025-11", "2025-12", "2026-01"]),
        ("2026-01-01T22", "2026-01-02T00", "hour", ["2026-01-01T22", "2026-01-01T23", "2026-01-02T00"]),
        ("2026-01-01", "2026-01-01", "day", ["2026-01-01"]),
        ("2026-01-02", "2026-01-01", "day", []),
    ],
)
def test_periods_from_first_to_last(first, last, by, expected):
    assert periods(first, last, by) == expected


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        ("yesterday", "2026-01-01", "--from yesterday: expected 2026-01-31"),
        ("1900-01-01", "2026-01-01", "more than 10,000"),
    ],
)
def test_what_is_no_range_is_refused(first, last, message):
    with pytest.raises(SpecError, match=message):
        periods(first, last, "day")


def test_a_param_that_is_not_in_the_file_is_refused(shop):
    project = open_project(shop / "pipeline.toml")

    with pytest.raises(
        SpecError, match=r"--param dya: the file has no such param; did you mean 'day'.*path = "
    ):
        plan_backfill(project, first="2026-01-01", last="2026-01-02", by="day", param="dya")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'load = "append"',
            "",
            r"table 'orders' reads source 'orders', which {day} changes, and is made anew by each run.*load = .append",
        ),
        ('on_change = "ignore"', "", r"source 'orders' depends on {day}.*set on_change = .ignore"),
    ],
)
def test_tables_that_would_forget_the_periods_before_are_refused(shop, old, new, message):
    file = shop / "pipeline.toml"
    text = file.read_text().replace(old, new)
    file.write_text(text if "append" in text else text.replace('on_change = "ignore"', ""))

    with pytest.raises(SpecError, match=message):
        plan_backfill(open_project(file), first="2026-01-01", last="2026-01-02", by="day", param="day")


def test_each_period_is_run_once_and_a_second_call_does_what_is_left(shop):
    first = command(shop, "backfill", "--from", "2026-01-01", "--to", "2026-01-02")
    rows = ids(shop)
    second = command(shop, "backfill", "--from", "2026-01-01", "--to", "2026-01-03")

    assert first.stdout.splitlines() == [
        "2 periods, 0 done before, 2 to run",
        "2026-01-01  done",
        "2026-01-02  done",
    ]
    assert rows == [10, 11, 20, 21]
    assert second.stdout.splitlines() == ["3 periods, 2 done before, 1 to run", "2026-01-03  done"]
    assert ids(shop) == [10, 11, 20, 21, 30, 31]


def test_a_period_that_fails_is_named_and_tried_again_and_the_others_are_done(shop):
    (shop / "data" / "2026-01-02" / "orders.csv").write_text("another\n1\n")
    project, told = open_project(shop / "pipeline.toml"), []

    def fill():
        plan = plan_backfill(project, first="2026-01-01", last="2026-01-03", by="day", param="day")
        run_backfill(
            plan,
            at_once=2,
            arguments=["--workers", "0"],
            tell=lambda period, problem: told.append((period, bool(problem))),
        )

    with pytest.raises(PartFailed, match=r"1 of 3 periods failed \(2026-01-02: .*run the backfill again"):
        fill()
    (shop / "data" / "2026-01-02" / "orders.csv").write_text("id\n7\n")
    fill()

    assert sorted(told) == [
        ("2026-01-01", False),
        ("2026-01-02", False),
        ("2026-01-02", True),
        ("2026-01-03", False),
    ]
    assert ids(shop) == [7, 10, 11, 30, 31]
    (state,) = (shop / "warehouse" / "_dlflow" / "backfills").iterdir()
    assert json.loads(state.read_text())["done"] == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_dry_run_runs_nothing(shop):
    said = command(shop, "backfill", "--from", "2026-01-01", "--to", "2026-01-02", "--dry-run")

    assert said.stdout.splitlines()[1:] == ["2026-01-01", "2026-01-02"]
    assert not (shop / "warehouse" / "orders").exists()
