"""The notebook way: the cells of docs/python.md in a running event loop, and what their values look like."""

import ast
import asyncio
import re

import pytest

from flows.notebook import Pipeline, Rows
from pipelines.errors import SpecError
from tests import projects
from tests.conftest import REPOSITORY


def cells():
    text = (REPOSITORY / "docs" / "python.md").read_text("utf-8")
    section = text.partition("## A pipeline, in a notebook")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


async def execute(found, names):
    """Each cell as Jupyter does: its last expression is what is shown."""
    shown = []
    for cell in found:
        *body, last = ast.parse(cell).body
        assert isinstance(last, ast.Expr), "a cell ends with what it shows"
        exec(compile(ast.Module(body, []), "cell", "exec"), names)  # noqa: S102 - our own document
        shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))  # noqa: S307
    return shown


def test_the_cells_of_the_document_run_where_an_event_loop_runs(tmp_path, monkeypatch, capsys):
    projects.make(tmp_path / "shop", rows=1500)
    monkeypatch.chdir(tmp_path)
    names = {}

    plan, run, months, rejects, answers = asyncio.run(execute(cells(), names))

    assert [row["action"] for row in plan.list()] == ["build"] * 5 + ["train"]
    assert {name: table["status"] for name, table in run.tables.items()} == dict.fromkeys(
        projects.TABLES, "built"
    )
    assert run.ledger["balanced"]
    assert run.report.is_file()
    assert "✔ balanced" in capsys.readouterr().out
    assert sum(row["orders"] for row in months.list()) == run.tables["sales"]["rows_out"]
    assert len(names["orders"]) == run.tables["orders"]["rows_out"]
    assert len(rejects) == run.tables["orders"]["quarantined"]
    assert len(answers) == 5
    for value, text in [
        (plan, "train"),
        (run, "<td>orders</td>"),
        (months, "<th>price</th>"),
        (rejects, "rule"),
    ]:
        assert text in value._repr_html_()
    shop = names["shop"]
    again = shop.run(workers=0)
    assert again.run is None
    assert "nothing to do" in again._repr_html_()
    assert shop.models().list()[0]["model"] == "returns"
    assert len(shop.history("orders")) == 1
    assert {row["name"] for row in shop.tables().list()} >= set(projects.TABLES)
    assert shop.status()["runs"][0]["status"] == "done"


def test_a_text_is_shown_and_never_obeyed():
    import pyarrow as pa

    shown = Rows(pa.table({"<b>": ["<script>alert(1)</script>"] * 30}))._repr_html_()

    assert "<script>" not in shown
    assert "<b>" not in shown
    assert "10 more rows" in shown


def test_a_wrong_file_raises_all_its_problems(tmp_path):
    (tmp_path / "pipeline.toml").write_text("nmae = 'x'\n")

    with pytest.raises(SpecError, match="did you mean 'name'"):
        Pipeline(tmp_path / "pipeline.toml")
