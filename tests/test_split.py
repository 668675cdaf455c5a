"""The split is stable, exact where it is stratified, and a torn key is an error."""

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.project import open_project
from pipelines.errors import CheckFailed, SpecError
from pipelines.split import Split
from pipelines.warehouse.by_group import ByGroup
from tests import projects
from tests.strategies import cuts, data, run, with_origin

ROWS = with_origin(
    pa.table(
        {"id": [1, 2, 3, 4, 5], "who": ["a", "b", "c", "a", "d"], "late": [True, False, False, True, None]}
    )
)


def test_rows_of_one_key_are_never_apart_and_shares_are_kept():
    many = with_origin(pa.table({"who": [f"c{number % 5000}" for number in range(20_000)]}))
    step = Split(by=("who",), test=0.2, validation=0.1)

    made = step.stage(many.schema)(many)

    places = {}
    for who, part in zip(many["who"].to_pylist(), made.kept["split"].to_pylist(), strict=True):
        assert places.setdefault(who, part) == part
    counts = made.notes
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.02)
    assert counts["validation"] / 20_000 == pytest.approx(0.1, abs=0.02)
    alone = step.stage(many.schema)(many.slice(7, 1)).kept["split"].to_pylist()
    assert alone == [places["c7"]]


def test_a_split_by_time_takes_conditions():
    step = Split(test="id >= 4", validation="id == 3")

    made = step.stage(ROWS.schema)(ROWS)

    assert made.kept["split"].to_pylist() == ["train", "train", "validation", "test", "test"]


@settings(max_examples=30, deadline=None)
@given(data_=st.data(), sizes=st.lists(st.integers(1, 60), min_size=1, max_size=3))
def test_every_stratum_has_its_exact_shares_whatever_the_cut(data_, sizes):
    strata = [label for label, size in zip(["a", None, "b"], sizes, strict=False) for _ in range(size)]
    table = with_origin(pa.table({"id": range(len(strata)), "class": pa.array(strata, pa.string())}))
    step = Split(by=("id",), test=0.25, validation=0.25, stratify=("class",))

    made = data(run(step, data_.draw(cuts(table))).kept)

    assert made == data(run(step, [table]).kept)
    frame = pd.DataFrame(made).fillna("missing")
    for _, rows in frame.groupby("class"):
        for part in ("test", "validation"):
            assert abs((rows["split"] == part).sum() - 0.25 * len(rows)) <= 1


def test_a_new_stratum_is_cut_at_the_shares():
    step = Split(by=("id",), test=0.5, stratify=("late",))
    stage = step.stage(ROWS.schema)
    later = with_origin(pa.table({"id": range(1000), "late": pa.array([True] * 1000)}))

    made = stage.mapped(ByGroup.of(["false"], [0.9], [0.9]))(later)

    assert made.notes["test"] == pytest.approx(500, abs=60)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"by": ("id",), "test": 0.6, "validation": 0.4}, "leave no rows to train on"),
        ({"by": ("id",), "test": "id > 3", "validation": 0.1}, "or conditions for both"),
        ({"test": 0.2}, "say by which key"),
        ({"by": ("id",), "test": 1.5}, "expected shares from 0 to 1"),
        ({"test": "id > 3", "stratify": ("late",)}, "stratify is for shares"),
    ],
)
def test_a_split_that_cannot_work_says_so(given_, message):
    with pytest.raises(SpecError, match=message):
        Split(**given_)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"test": "id"}, "'id' is int64, expected a condition"),
        ({"by": ("idd",), "test": 0.2}, "did you mean 'id'"),
        ({"by": ("id",), "test": 0.2, "stratify": ("lat",)}, "did you mean 'late'"),
    ],
)
def test_what_does_not_fit_the_columns_is_told(given_, message):
    with pytest.raises(SpecError, match=message):
        Split(**given_).build(ROWS.schema)


FILE = """[sources.o]
kind = "csv"
path = "o.csv"
columns = {{ id = "int64", who = "int64", late = "bool", price = "float64" }}
[tables.o]
source = "o"
steps = [
  {{ do = "split", {split} }},
  {{ do = "features", label = "late", numeric = ["price"], key = [{key}] }},
]
checks = [{checks}]
"""


def project(folder, split, key, checks=""):
    rows = "\n".join(f"{row},{row % 40},{('true', 'false')[row % 3 == 0]},{row}" for row in range(400))
    (folder / "o.csv").write_text(f"id,who,late,price\n{rows}\n", "utf-8")
    (folder / "pipeline.toml").write_text(FILE.format(split=split, key=key, checks=checks), "utf-8")
    return folder


def test_a_planted_overlap_stops_the_commit(tmp_path):
    project(tmp_path, 'by = ["who"], test = "id >= 300"', '"who"')

    with pytest.raises(
        CheckFailed, match=r"apart who: found 40 keys are in more than one part, expected every key in one"
    ):
        projects.run(tmp_path)
    project(tmp_path, 'by = ["who"], test = 0.3, stratify = ["late"]', '"who"')
    with pytest.raises(CheckFailed, match="apart who"):
        projects.run(tmp_path)


def test_what_cannot_be_apart_is_not_looked_at_and_what_may_be_is_said(tmp_path):
    project(tmp_path, 'by = ["who"], test = 0.3', '"who", "id"')
    sure = open_project(tmp_path / "pipeline.toml").pipeline.tables["o"].checks
    project(tmp_path, 'by = ["id"], test = 0.3', '"who"')
    torn = open_project(tmp_path / "pipeline.toml").pipeline.tables["o"].checks
    project(tmp_path, 'test = "id >= 300"', '"who"', '{ check = "apart", column = "who", severity = "warn" }')
    (own,) = open_project(tmp_path / "pipeline.toml").pipeline.tables["o"].checks
    projects.run(tmp_path)

    assert sure == ()
    assert [check.targets for check in torn] == [("who",)]
    assert own.severity == "warn", "the declared one counts"


def test_a_key_that_is_not_there_at_the_end_cannot_be_checked(tmp_path):
    project(tmp_path, 'by = ["who"], test = "id >= 300"', '"id"')

    with pytest.raises(SpecError, match="there is no column 'who' at the end of the table"):
        open_project(tmp_path / "pipeline.toml")
