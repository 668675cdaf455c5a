"""A defect is planted for every kind of check: each check finds its own, to the row, and none finds anything else."""

import datetime as dt
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.project import open_project
from flows.session import plan_of
from pipelines import warehouse
from pipelines.errors import CheckFailed, SpecError
from pipelines.hashing import row_hash
from pipelines.keyed import keyed_checks
from pipelines.measures import torn
from pipelines.quality import KEYED, ROWS, WHOLE, Check
from tests import builds
from tests.strategies import bits, in_order, tables

ROWS_OF = 240
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0, tzinfo=None)
CHECKS = {  # kind: settings; "more" rows and "old" times break the two that are of no row
    "not_null": 'column = "name"',
    "range": 'column = "price", min = 0, max = 100',
    "values": 'column = "status", values = ["open", "closed"]',
    "pattern": 'column = "zip", pattern = "[0-9]{5}"',
    "foreign_key": 'column = "region", table = "regions", to = ["code"]',
    "unique": 'columns = ["id"]',
    "apart": 'columns = ["pair"]',
    "k_anonymity": 'columns = ["age"], k = 3',
    "row_count": f"max = {ROWS_OF}",
    "freshness": 'column = "at", max_hours = 24',
    "distribution": 'column = "level", table = "before", max_psi = 0.2',
}
DEFECTS = {  # kind: rows, and what is wrong in them
    "not_null": {10: {"name": ""}, 51: {"name": ""}},
    "range": {12: {"price": "-0.5"}, 13: {"price": "100.5"}},
    "values": {20: {"status": "lost"}},
    "pattern": {30: {"zip": "1234"}, 31: {"zip": "12345 "}, 32: {"zip": "1234x"}},
    "foreign_key": {40: {"region": "XX"}},
    "unique": {61: {"id": "7"}, 199: {"id": "7"}},
    "apart": {70: {"part": "b"}, 71: {"part": "a"}},  # rows of one pair
    "k_anonymity": {80: {"age": "99"}, 91: {"age": "99"}},
}
PIPELINE = """
[sources.rows]
kind = "csv"
path = "rows-*.csv"
null = [""]
columns = {{ id = "int64", pair = "int64", part = "string", name = "string", price = "float64", status = "string", zip = "string", region = "string", age = "int32", at = "timestamp", level = "float64" }}
[sources.before]
kind = "csv"
path = "before.csv"
columns = {{ level = "float64" }}
[sources.regions]
kind = "csv"
path = "regions.csv"
columns = {{ code = "string" }}
[tables.regions]
source = "regions"
[tables.before]
source = "before"
[tables.rows]
source = "rows"
steps = [{{ do = "split", by = ["pair"], test = "part == \\"b\\"" }}]
checks = [
{checks}
]
"""


def row_of(number, *, old, shifted):
    """One good row."""
    age = dt.timedelta(hours=100 + number) if old else dt.timedelta(minutes=number)
    return {
        "id": str(number),
        "pair": str(number // 2),
        "part": "b" if number // 2 % 3 == 0 else "a",
        "name": f"n{number}",
        "price": str(number % 101),
        "status": ["open", "closed"][number % 2],
        "zip": f"{number:05}",
        "region": ["DE", "FR", "IT"][number % 3],
        "age": str(20 + number % 10),
        "at": (NOW - age).isoformat(sep=" "),
        "level": str(number % 20 + (15 if shifted else 0)),
    }


def plant(folder, severities, *, planted=tuple(CHECKS)):
    """The files, and of each kind the (file, line) of its defects."""
    rows = [
        row_of(number, old="freshness" in planted, shifted="distribution" in planted)
        for number in range(ROWS_OF + ("row_count" in planted))
    ]
    for kind in planted:
        for number, wrong in DEFECTS.get(kind, {}).items():
            rows[number] |= wrong
    for file, start in enumerate(range(0, len(rows), 100)):
        builds.csv(
            folder / f"rows-{file}.csv",
            tuple(rows[0]),
            [tuple(row.values()) for row in rows[start : start + 100]],
        )
    builds.csv(folder / "regions.csv", ("code",), [("DE",), ("FR",), ("IT",)])
    builds.csv(folder / "before.csv", ("level",), [(number % 20,) for number in range(ROWS_OF)])
    lines = [
        f'  {{ check = "{kind}", {CHECKS[kind]}, severity = "{severity}", name = "{kind}" }},'
        for kind, severity in severities.items()
    ]
    return PIPELINE.format(checks="\n".join(lines))


def verdicts_of(folder):
    return warehouse.history(str(folder / "warehouse" / "rows"))[0].record["checks"]


def test_every_kind_is_tried_here():
    assert set(CHECKS) == {*ROWS, *WHOLE}
    assert set(DEFECTS) == {*ROWS, *KEYED}


def test_every_check_warns_of_its_own_defects_alone(tmp_path):
    builds.make(tmp_path, plant(tmp_path, dict.fromkeys(CHECKS, "warn")))

    found = {one["name"]: one["found"] for one in verdicts_of(tmp_path) if not one["passed"]}
    assert set(found) == set(CHECKS)
    counted = {
        "not_null": 2,
        "range": 2,
        "values": 1,
        "pattern": 3,
        "foreign_key": 1,
        "unique": 2,
        "apart": 1,
    }
    assert {name: int(found[name].split()[0]) for name in counted} == counted
    assert found["k_anonymity"] == "2 of 241 rows are of rarer ones"
    assert found["row_count"] == "241 rows"
    assert len(builds.rows(tmp_path, "rows")) == ROWS_OF + 1


@pytest.mark.parametrize("first", [0, 1])
def test_checks_find_nothing_where_only_others_are_broken(tmp_path, first):
    kinds, others = list(CHECKS)[first::2], tuple(CHECKS)[1 - first :: 2]

    builds.make(tmp_path, plant(tmp_path, dict.fromkeys([*kinds, "apart"], "warn"), planted=others))

    found = {one["name"]: one["passed"] for one in verdicts_of(tmp_path)}
    assert found == dict.fromkeys(kinds, True) | {"apart": "apart" in kinds}


def test_every_check_of_rows_sets_aside_its_own_and_the_table_is_then_without_defect(tmp_path):
    severities = dict.fromkeys([*ROWS, *KEYED], "quarantine")

    builds.make(tmp_path, plant(tmp_path, severities, planted=tuple(DEFECTS)))

    rejects = warehouse.read_quarantine(str(tmp_path / "warehouse" / "rows")).to_pylist()
    found = {}
    for one in rejects:
        file = int(one["source"].rpartition("-")[2].removesuffix(".csv"))
        found.setdefault(one["rule"], set()).add(100 * file + one["line"] - 2)
    assert found == {kind: set(wrong) for kind, wrong in DEFECTS.items()} | {"apart": {70, 71}}
    said = {one["name"]: one["found"].split()[0] for one in verdicts_of(tmp_path)}
    assert said == {kind: str(len(wrong)) for kind, wrong in DEFECTS.items()}
    assert len(builds.rows(tmp_path, "rows")) == ROWS_OF - sum(map(len, DEFECTS.values()))


def test_every_check_that_blocks_is_told_and_nothing_is_committed(tmp_path):
    with pytest.raises(CheckFailed) as caught:
        builds.make(tmp_path, plant(tmp_path, dict.fromkeys(CHECKS, "block")))

    told = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert sorted(told) == sorted(CHECKS)
    assert not (tmp_path / "warehouse" / "rows" / "_delta_log").exists()


@pytest.mark.parametrize(
    "check",
    [Check(check="unique", columns=("city", "ok")), Check(check="k_anonymity", columns=("age", "ok"), k=3)],
    ids=lambda check: check.check,
)
@settings(max_examples=25)
@given(data=st.data(), table=tables(most=20))
def test_what_is_set_aside_is_what_is_counted_and_the_rest_has_none_of_it(check, data, table):
    (stage,) = keyed_checks([replace(check, severity="quarantine")])

    whole = stage.mapped()(in_order(table))

    ((name, _),) = check.measures
    assert whole.notes[name] == torn(table, check)
    assert torn(whole.kept, check) == 0
    buckets = row_hash(table, stage.by) % data.draw(st.integers(1, 4))
    parts = [stage.mapped()(table.filter(pa.array(buckets == number))) for number in set(buckets.tolist())]
    kept = [part.kept for part in parts] or [table]
    assert bits(in_order(pa.concat_tables(kept))) == bits(whole.kept)


def test_the_plan_shows_where_rows_of_a_key_meet(tmp_path):
    (tmp_path / "pipeline.toml").write_text(
        plant(tmp_path, {"unique": "quarantine", "range": "warn"}), "utf-8"
    )

    text = plan_of(open_project(tmp_path / "pipeline.toml")).text()

    assert "pass 1: read -> split -> checks [exchange for check unique]" in text
    assert "check unique: exchange, rows of equal id must meet to be set aside" in text
    assert "pass 2: check unique -> write" in text


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        (
            '{ check = "row_count", min = 1, severity = "quarantine" }',
            "it is of the whole table, there are no rows to set aside",
        ),
        (
            ", ".join(
                f'{{ check = "k_anonymity", column = "{name}", k = 2, severity = "quarantine" }}'
                for name in "ab"
            ),
            "would take rows away from each other's combinations",
        ),
        (
            '{ check = "unique", column = "a", severity = "quarantine" }',
            'cannot be in a table with load = "append"',
        ),
    ],
)
def test_what_cannot_be_set_aside_is_said_before(tmp_path, checks, message):
    (tmp_path / "pipeline.toml").write_text(
        '[sources.t]\nkind = "csv"\npath = "t.csv"\ncolumns = { a = "int64", b = "int64" }\n'
        f'[tables.t]\nsource = "t"\nload = "append"\nchecks = [{checks}]\n',
        "utf-8",
    )

    with pytest.raises(SpecError, match=message):
        open_project(tmp_path / "pipeline.toml")
