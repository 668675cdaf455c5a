import json
from dataclasses import asdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipelines.errors import CheckFailed, PipelineError, SpecError
from pipelines.measures import key_columns, torn
from pipelines.quality import Check, row_checks
from pipelines.stage import Rows
from pipelines.verdicts import refuse_failed, verdicts
from tests.strategies import SCHEMA, cuts, data, same, tables, with_origin

FULL = with_origin(SCHEMA.empty_table()).schema
TABLE = with_origin(
    pa.table({"id": [1, 2, 2, None], "age": [30, -1, 200, None], "city": ["Oslo", "Rome", "oslo", None]})
)


def checked(checks, parts):
    """The rows that are left, and what was found."""
    stage = row_checks(checks)
    made = [stage(part) for part in parts]
    notes = {}
    for rows in made:
        for name, count in rows.notes.items():
            notes[name] = notes.get(name, 0) + count
    kept = pa.concat_tables([rows.kept for rows in made])
    keys = {name: torn(kept, check) for check in checks if key_columns(check) for name, _ in check.measures}
    return made, verdicts(
        checks, {name: count for name, count in notes.items() if count}, rows=kept.num_rows, measured=keys
    )


def found(check, table=TABLE):
    check.build(table.schema)
    (verdict,) = checked([check], [table])[1]
    return verdict["passed"], verdict["found"], verdict["expected"]


@pytest.mark.parametrize(
    ("check", "passed", "text", "expected"),
    [
        (Check(check="not_null", column="id"), False, "1 of 4 rows have no value", "a value in every row"),
        (Check(check="range", column="age", min=0, max=120), False, "2 of 4 rows are outside", "0 to 120"),
        (Check(check="range", column="age", min=-1), True, "0 of 4 rows are outside", "at least -1"),
        (Check(check="range", column="age", max=199.5), False, "1 of 4 rows are outside", "at most 199.5"),
        (
            Check(check="values", column="city", values=("Oslo", "Rome")),
            False,
            "1 of 4 rows have another value",
            "one of 'Oslo', 'Rome'",
        ),
        (
            Check(check="pattern", column="city", pattern="[A-Z].*"),
            False,
            "1 of 4 rows do not match",
            "the whole text matches '[A-Z].*'",
        ),
        (
            Check(check="pattern", column="city", pattern="slo"),
            False,
            "3 of 4 rows do not match",
            "the whole text matches 'slo'",
        ),
        (
            Check(check="unique", column="id"),
            False,
            "1 of 4 rows repeat the key of another",
            "every key once",
        ),
        (
            Check(check="unique", columns=("id", "city")),
            True,
            "0 of 4 rows repeat the key of another",
            "every key once",
        ),
        (Check(check="row_count", min=5), False, "4 rows", "at least 5 rows"),
        (Check(check="row_count", min=1, max=4000), True, "4 rows", "1 to 4,000 rows"),
    ],
    ids=lambda value: value.check if isinstance(value, Check) else None,
)
def test_a_check_says_what_it_found_and_what_it_expected(check, passed, text, expected):
    assert found(check) == (passed, text, expected)


def test_dates_and_times_have_ranges_too():
    table = with_origin(pa.table({"day": pa.array([0, 20_000], pa.date32())}))

    assert found(Check(check="range", column="day", min="2000-01-01"), table)[0] is False
    assert found(Check(check="range", column="day", min="1970-01-01", max="2024-10-04"), table)[0] is True


def test_several_columns_are_checked_one_by_one():
    check = Check(check="not_null", columns=("id", "age"), name="keys")

    names = [(one["name"], one["column"]) for one in checked([check], [TABLE])[1]]

    assert names == [("keys id", "id"), ("keys age", "age")]


def test_rows_are_set_aside_where_the_severity_says_so_and_counted_once():
    checks = [
        Check(check="range", column="age", min=0, max=120, severity="warn"),
        Check(check="range", column="age", min=-100, max=100, severity="quarantine", name="plausible age"),
        Check(check="not_null", column="id", severity="quarantine"),
    ]

    (rows,), verdicts_ = checked(checks, [TABLE])

    assert data(rows.kept)["age"] == [30, -1]
    assert sorted(rows.rejected["rule"].to_pylist()) == ["not_null id", "plausible age"]
    assert "column 'age': 200 found, -100 to 100 expected" in rows.rejected["message"].to_pylist()
    assert [one["passed"] for one in verdicts_] == [False, False, False]
    assert [one["found"] for one in verdicts_] == [
        "1 of 4 rows are outside",
        "1 of 4 rows are outside",
        "1 of 4 rows have no value",
    ]
    json.dumps(verdicts_)


CHECKS = [
    Check(check="not_null", columns=("id", "age"), severity="quarantine"),
    Check(check="range", column="price", min=0.1, max=2, severity="quarantine"),
    Check(check="values", column="city", values=("a", "b", ""), severity="warn"),
    Check(check="pattern", column="note", pattern="[aB].?", severity="quarantine"),
    Check(check="unique", columns=("id", "ok")),
    Check(check="row_count", min=3),
]


@settings(max_examples=40, deadline=None)
@given(data_=st.data())
def test_the_cut_changes_no_verdict_and_no_row_is_lost(data_):
    table = data_.draw(tables())
    parts = data_.draw(cuts(table))

    of_whole, whole = checked(CHECKS, [table])
    of_parts, cut = checked(CHECKS, parts)

    assert whole == cut
    for part, rows in zip(parts, of_parts, strict=True):
        assert part.num_rows == rows.kept.num_rows + (rows.rejected.num_rows if rows.rejected else 0)
    left = [
        pa.concat_tables([rows.kept for rows in made]).sort_by(
            [("_source", "ascending"), ("_line", "ascending")]
        )
        for made in (of_whole, of_parts)
    ]
    assert same(Rows(left[0]), Rows(left[1]))


@settings(max_examples=40, deadline=None)
@given(table=tables(cells={"id": [1, 2], "ok": [True, False]}))
def test_surplus_rows_are_those_beyond_the_first_of_a_key(table):
    keys = [(row["id"], row["ok"]) for row in table.to_pylist() if None not in {row["id"], row["ok"]}]

    assert torn(table, Check(check="unique", columns=("id", "ok"))) == len(keys) - len(set(keys))


# ---- the end of a run


def test_a_failed_check_stops_the_commit_with_everything_that_failed():
    checks = [
        Check(check="unique", column="id"),
        Check(check="range", column="age", min=0, max=120),
        Check(check="not_null", column="city", severity="warn"),
        Check(check="row_count", min=1),
    ]

    with pytest.raises(CheckFailed) as caught:
        refuse_failed("people", checked(checks, [TABLE])[1])

    assert str(caught.value).splitlines()[:3] == [
        "table 'people': 2 checks failed, nothing was committed:",
        "  unique id: found 1 of 4 rows repeat the key of another, expected every key once",
        "  range age: found 2 of 4 rows are outside, expected 0 to 120",
    ]
    refuse_failed("people", checked(checks[2:], [TABLE])[1])


def test_a_check_that_did_not_run_is_not_passed():
    with pytest.raises(PipelineError, match="'not_null id' was not run on all of the 4 rows"):
        verdicts([Check(check="not_null", column="id")], {"rows checked": 3}, rows=4, measured={})
    with pytest.raises(PipelineError, match="'unique id' was not run"):
        verdicts([Check(check="unique", column="id")], {"rows checked": 4}, rows=4, measured={})


def test_private_values_are_not_told():
    table = with_origin(
        pa.table([["ann"]], schema=pa.schema([pa.field("x", pa.string(), metadata={"privacy": "p"})]))
    )

    (rows,), _ = checked([Check(check="pattern", column="x", pattern="b.*", severity="quarantine")], [table])

    assert rows.rejected["message"].to_pylist() == [
        "column 'x': a private value found, the whole text matches 'b.*' expected"
    ]


# ---- what is wrong in the pipeline file


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"check": "range", "column": "age"}, "min or max is missing"),
        ({"check": "values", "column": "age"}, "values is missing"),
        ({"check": "pattern", "column": "city"}, "pattern is missing"),
        ({"check": "not_null"}, "say of which column"),
        ({"check": "not_null", "column": "a", "columns": ["b"]}, "say of which column"),
        ({"check": "not_null", "column": "age", "min": 3}, "min has no meaning here; it takes columns only"),
        ({"check": "row_count", "min": 1, "column": "age"}, "of the whole table"),
        ({"check": "row_count", "min": 1, "severity": "quarantine"}, "no rows to set aside"),
        ({"check": "not_null", "column": "agee"}, "did you mean 'age'"),
        ({"check": "range", "column": "city", "min": 1}, "column 'city' is string"),
        ({"check": "range", "column": "age", "min": "young"}, "'young' is no integer"),
        ({"check": "range", "column": "day", "min": 3}, "3 is no date"),
        ({"check": "range", "column": "age", "min": 3, "max": 2}, "min = 3 is above max = 2"),
        ({"check": "values", "column": "age", "values": ["x"]}, "'x' is no integer"),
        ({"check": "pattern", "column": "city", "pattern": "("}, "no RE2 expression"),
        ({"check": "pattern", "column": "age", "pattern": "1"}, "column 'age' is int32, expected string"),
        ({"check": "row_count", "min": -1}, "no number of rows"),
        ({"check": "row_count", "max": 1.5}, "no number of rows"),
    ],
    ids=str,
)
def test_a_check_that_cannot_be_is_said_before(given_, message):
    with pytest.raises(
        (SpecError, ValidationError), match=message
    ):  # of its settings, or of the table's columns
        TypeAdapter(Check).validate_python(given_).build(FULL)


def test_a_check_is_read_from_its_settings():
    check = CHECKS[1]

    assert (
        TypeAdapter(Check).validate_python(
            {name: value for name, value in asdict(check).items() if value is not None}
        )
        == check
    )
    with pytest.raises(ValidationError):
        TypeAdapter(Check).validate_python({"check": "not_null", "colum": "age"})
    with pytest.raises(ValidationError):
        TypeAdapter(Check).validate_python({"check": "nonull", "column": "age"})


def test_two_checks_have_two_names():
    twice = [Check(check="range", column="age", min=0), Check(check="range", column="age", max=9)]

    with pytest.raises(SpecError, match="two are called 'range age'; give one of them another name"):
        row_checks(twice)
