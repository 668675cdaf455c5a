"""What was fitted once is used for new data: a table takes the values of another instead of its own."""

import numpy as np
import pytest

from flows.project import open_project
from flows.session import plan_of
from pipelines.errors import SpecError
from tests import projects

FILE = """[sources.old]
kind = "csv"
path = "old.csv"
columns = { id = "int64", price = "float64", late = "bool" }
[sources.new]
kind = "csv"
path = "new.csv"
columns = { id = "int64", price = "float64", late = "bool" }
[tables.old]
source = "old"
steps = [
  { do = "fill", columns = ["price"], with = "median" },
  { do = "split", test = "id > 90" },
  { do = "features", label = "late", columns = { price = "min_max" } },
]
[tables.new]
source = "new"
fitted_from = "old"
steps = [
  { do = "fill", columns = ["price"], with = "median" },
  { do = "split", test = "id >= 0" },
  { do = "features", label = "late", columns = { price = "min_max" } },
]
"""


@pytest.fixture
def folder(tmp_path):
    rows = "".join(f"{n},{n},{str(n % 2 == 0).lower()}\n" for n in range(101))
    (tmp_path / "old.csv").write_text(f"id,price,late\n{rows}", "utf-8")
    (tmp_path / "new.csv").write_text("id,price,late\n1,,true\n2,45,false\n3,9999,true\n", "utf-8")
    (tmp_path / "pipeline.toml").write_text(FILE, "utf-8")
    return tmp_path


def numbers(folder, name):
    return [float(np.frombuffer(row["x"], "<f4")[0]) for row in projects.content(folder, name)]


def test_new_rows_are_treated_by_what_the_old_ones_taught(folder):
    record = projects.run(folder)

    new = next(one for one in record["tables"] if one["name"] == "new")
    assert numbers(folder, "new") == pytest.approx(
        [50 / 90, 45 / 90, 1.0]
    )  # the median is 50, the training rows end at 90
    assert [step["name"] for step in new["steps"]] == ["read", "fill price", "split", "features"]
    assert "fill price (as in old)" in plan_of(open_project(folder / "pipeline.toml")).text()


def test_a_change_of_the_old_rows_is_a_reason_to_build_the_new_table_again(folder):
    projects.run(folder)
    with (folder / "old.csv").open("a", encoding="utf-8") as file:
        file.write("80,70,false\n")

    plan = plan_of(open_project(folder / "pipeline.toml"))

    assert plan.tables["new"].why == ("table old is built again",)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('fitted_from = "old"', 'fitted_from = "olt"', "there is no table 'olt'; did you mean 'old'?"),
        ('fitted_from = "old"', 'fitted_from = "new"', "depends on itself"),
        (
            'columns = { price = "min_max" } },\n]\n[tables.new]',
            'columns = { price = "robust" } },\n]\n[tables.new]',
            "step 'features' takes what table 'old' has fitted, so it must be there too with the same settings",
        ),
    ],
)
def test_what_was_not_fitted_so_is_told_before_anything_runs(folder, old, new, message):
    (folder / "pipeline.toml").write_text(FILE.replace(old, new, 1), "utf-8")

    with pytest.raises(SpecError) as caught:
        open_project(folder / "pipeline.toml")

    assert message in str(caught.value)
