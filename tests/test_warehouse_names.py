"""One rule for names, and nothing outside the warehouse."""

import pytest

from pipelines.errors import SpecError
from pipelines.warehouse.names import check_columns, check_table, table_uri


@pytest.mark.parametrize("name", ["trips", "T1", "a_b", "x" * 63])
def test_a_plain_word_is_a_table(tmp_path, name):
    assert table_uri(str(tmp_path), name) == str(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "a-b",
        "a b",
        "../x",
        "/etc",
        "a/b",
        ".",
        "é",
        "x" * 64,
        "a\n",
        "_dlflow",
        "_x",
        "a__quarantine",
        "a__b",
    ],
)
def test_anything_else_is_not(name):
    with pytest.raises(SpecError, match="rename the table"):
        check_table(name)


def test_a_link_that_leads_out_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "warehouse" / "t").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(SpecError, match="leads out of the warehouse"):
        table_uri(str(tmp_path / "warehouse"), "t")


@pytest.mark.parametrize(
    ("names", "problem"),
    [(["a", "A"], "differ in case alone"), (["a", "a"], "there twice"), (["a.b"], "rename the column")],
)
def test_columns_that_a_reader_could_confuse_are_refused(names, problem):
    with pytest.raises(SpecError, match=problem):
        check_columns(names)


def test_a_column_may_start_with_an_underscore():
    check_columns(["_id", "id"])
