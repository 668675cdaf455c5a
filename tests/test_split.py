"""The split is stable, exact where it is stratified, and a torn key is an error."""

from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.project import open_project
from pipelines.errors import CheckFailed, InputError, SpecError
from pipelines.fill import Fill
from pipelines.outliers import Clip
from pipelines.sketch import summarise
from pipelines.split import Split
from pipelines.warehouse.by_group import ByGroup
from tests import projects
from tests.strategies import cuts, data, in_order, run, tables, told, with_origin

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


@settings(max_examples=15, deadline=None)
@given(data_=st.data(), table=tables(least=1), others=tables(), seed=st.integers(0, 3))
def test_a_row_keeps_its_place_whatever_others_come_and_however_they_are_cut(data_, table, others, seed):
    step = Split(by=("id", "city"), test=0.4, validation=0.3, seed=seed)
    alone = data(run(step, [table]).kept)
    number = others.schema.get_field_index("_source")
    later = others.set_column(
        number, others.schema.field(number), pc.add(others["_source"], pa.scalar(9, pa.int32()))
    )

    with_others = data(run(step, data_.draw(cuts(pa.concat_tables([table, later])))).kept)

    assert with_others["split"][: table.num_rows] == alone["split"]
    places = {}
    for key, part in zip(
        zip(with_others["id"], with_others["city"], strict=True), with_others["split"], strict=True
    ):
        assert places.setdefault(key, part) == part


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


FITTING = [
    Fill(columns=("price",), with_="mean", fit_on="train"),
    Fill(columns=("city", "age"), with_="mode", by=("ok",), fit_on="train"),
    Fill(columns=("price", "age"), with_="median", by=("city",), fit_on="train"),
    Clip(columns=("price",), method="iqr", fit_on="train"),
    Clip(columns=("age",), method="zscore", factor=1, fit_on="train"),
    Clip(columns=("price",), method="mad", by=("ok",), fit_on="train"),
]


def fitted_on(step, parts):
    """What the step fits on these rows, and what it makes of them; an error as its text."""
    stage = step.stage(parts[0].schema)
    try:
        fitted = summarise(stage.sketch, [part.select(list(stage.columns)) for part in parts])
        return told(fitted), data(stage.mapped(fitted)(in_order(pa.concat_tables(parts))).kept)
    except InputError as error:
        return str(error), None


@pytest.mark.parametrize("step", FITTING, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    data_=st.data(),
    table=tables(least=1),
    places=st.lists(st.sampled_from(["train", "test"]), min_size=12, max_size=12),
)
def test_what_is_fitted_on_the_training_rows_is_what_they_alone_teach(step, data_, table, places):
    split = table.append_column("split", pa.array(places[: table.num_rows], pa.string()))
    train = split.filter(pc.equal(split["split"], "train"))

    fitted, made = fitted_on(step, data_.draw(cuts(split)))
    alone, _ = fitted_on(replace(step, fit_on="all"), [train])

    assert fitted == alone or isinstance(fitted, str)
    if made is not None:  # a test row is treated by what the training rows taught
        stage = replace(step, fit_on="all").stage(train.schema)
        known = summarise(stage.sketch, [train.select(list(stage.columns))])
        assert made == data(stage.mapped(known)(split).kept)


def test_strata_of_a_private_column_are_refused_and_allowed_by_name():
    schema = pa.schema(
        [ROWS.schema.field("id"), ROWS.schema.field("late").with_metadata({"privacy": "health"})]
    )
    step = Split(by=("id",), test=0.2, stratify=("late",))

    with pytest.raises(
        SpecError, match="split: column 'late' has privacy class 'health', and labels and values of groups"
    ):
        step.build(schema)
    assert replace(step, allow_private=("late",)).build(schema).names == ["id", "late", "split"]
    pseudonym = schema.set(1, schema.field("late").with_metadata({"privacy": "pseudonym"}))
    assert step.build(pseudonym).names == ["id", "late", "split"]
