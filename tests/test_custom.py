"""Functions of the user: found beside the pipeline file, run from their text, checked, and part of the fingerprint."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from flows.project import open_project
from flows.session import plan_of
from pipelines.custom import Python
from pipelines.errors import InputError, SpecError
from tests import projects
from tests.strategies import data, run, with_origin

MODULE = """import pyarrow as pa
import pyarrow.compute as pc

RATE = {"EUR": 1.0, "USD": 0.5}

def in_euro(table, *, digits=2):
    rates = pa.array([RATE[name] for name in table["currency"].to_pylist()])
    return pa.table({"euro": pc.round(pc.multiply(table["price"], rates), digits)})

def all_columns(table):
    return pa.table({"price": table["price"], "n": pa.array([table.num_columns] * len(table), pa.int8())})

def shorter(table):
    return pa.table({"euro": table["price"][1:]})

def other(table):
    return pa.table({"eurro": table["price"]})

def whole(table):
    return pa.table({"euro": table["price"].cast("int64")})

def nothing(table):
    return None
"""
TABLE = with_origin(pa.table({"price": [1.0, 3.0, 5.0], "currency": ["EUR", "USD", "EUR"]}))
EURO = {"function": "money:in_euro", "columns": {"euro": "float64"}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "money.py").write_text(MODULE, "utf-8")
    return tmp_path


def test_a_function_gives_columns_wherever_it_runs(folder):
    step = Python(**EURO, takes=("price", "currency"), params={"digits": 0}).located(folder)
    (folder / "money.py").unlink()  # workers have no such file

    stage = pickle.loads(pickle.dumps(step.stage(TABLE.schema)))  # noqa: S301 - our own bytes
    made = stage(TABLE).kept

    assert data(made)["euro"] == [1.0, 2.0, 5.0]  # 1.5 half to even
    assert step.build(TABLE.schema).equals(made.schema, check_metadata=True)
    assert step.build(TABLE.schema).equals(stage(TABLE.slice(0, 0)).kept.schema, check_metadata=True)
    assert data(run(step, [TABLE.slice(2), TABLE.slice(0, 2)]).kept) == data(made)


def test_a_function_may_take_all_columns_and_replace_one(folder):
    step = Python(function="money:all_columns", columns={"n": "int8", "price": "float64"}).located(folder)

    made = run(step, [TABLE]).kept

    assert data(made) == {"price": [1.0, 3.0, 5.0], "currency": ["EUR", "USD", "EUR"], "n": [2, 2, 2]}


def test_what_it_gives_inherits_the_privacy_of_what_it_takes(folder):
    schema = TABLE.schema.set(0, TABLE.schema.field(0).with_metadata({"privacy": "wages"}))

    given = Python(**EURO).located(folder).build(schema).field("euro")
    other = Python(**EURO, takes=("currency",)).located(folder).build(schema).field("euro")

    assert given.metadata == {b"privacy": b"wages"}
    assert other.metadata is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "in_euro",
            "2 rows from line 2 of input file 0 to line 3 of input file 0: KeyError: 'XXX' (money.py:7)",
        ),
        ("shorter", "it gave 1 rows for 2; expected one for each, in order"),
        ("other", "it gave the columns ['eurro'], declared are ['euro']"),
        ("whole", "column 'euro' is int64, declared is double; cast it there"),
        ("nothing", "it gave a NoneType, expected a pyarrow.Table"),
    ],
)
def test_what_goes_wrong_names_the_function_and_the_rows(folder, function, message):
    step = Python(function=f"money:{function}", columns={"euro": "float64"}).located(folder)
    rows = TABLE.slice(1).set_column(1, "currency", pa.array(["EUR", "XXX"]))

    with pytest.raises(InputError) as caught:
        run(step, [rows])

    assert str(caught.value).startswith(f"python money:{function}, 2 rows from line 2")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"function": "money"}, 'expected "module:function"'),
        ({"function": "../money:f"}, 'expected "module:function"'),
        ({"function": "monney:in_euro"}, "there is no file"),
        ({"function": "money:in_euros"}, "has no function 'in_euros'; did you mean 'in_euro'?"),
        ({"function": "broken:f"}, "broken.py:1: "),
        ({"columns": {}}, "columns is empty"),
        ({"columns": {"x": "float"}}, "no type 'float'; did you mean 'float64'?"),
        ({"columns": {"_x": "int8"}}, "a leading '_' is reserved"),
        ({"takes": ("prize",)}, "no column 'prize'; did you mean 'price'?"),
    ],
)
def test_a_function_that_cannot_be_is_told_before_anything_runs(folder, settings, message):
    (folder / "broken.py").write_text("def f(:", "utf-8")

    with pytest.raises(SpecError) as caught:
        Python(**{**EURO, **settings}).located(folder).stage(TABLE.schema)

    assert message in str(caught.value)


def test_a_run_uses_it_and_a_change_of_its_text_is_a_reason_to_build_again(tmp_path):
    (tmp_path / "o.csv").write_text("price,currency\n1,EUR\n3,USD\n", "utf-8")
    (tmp_path / "money.py").write_text(MODULE, "utf-8")
    (tmp_path / "pipeline.toml").write_text(
        """[sources.o]
kind = "csv"
path = "o.csv"
columns = { price = "float64", currency = "string" }
[tables.o]
source = "o"
steps = [{ do = "python", function = "money:in_euro", takes = ["price", "currency"], columns = { euro = "float64" } }]
""",
        "utf-8",
    )

    projects.run(tmp_path)
    before = projects.content(tmp_path, "o")
    nothing = plan_of(open_project(tmp_path / "pipeline.toml")).nothing_to_do
    Path(tmp_path / "money.py").write_text(MODULE.replace("0.5", "2.0"), "utf-8")
    why = plan_of(open_project(tmp_path / "pipeline.toml")).tables["o"].why
    projects.run(tmp_path)

    assert [row["euro"] for row in before] == [1.0, 1.5]
    assert nothing
    assert why == ("its steps or settings in the pipeline file changed",)
    assert [row["euro"] for row in projects.content(tmp_path, "o")] == [1.0, 6.0]


def _importing(folder):
    (folder / "rates.py").write_text("EURO = {'USD': 0.5, 'EUR': 1.0}\n")
    (folder / "lookup.py").write_text("from rates import EURO\n\ndef rate(name):\n    return EURO[name]\n")
    (folder / "prices.py").write_text(
        "import json\nimport pyarrow as pa\nimport lookup\n\ndef euro(table):\n    from rates import EURO\n"
        "    assert json and EURO\n"
        "    return pa.table({'euro': [p * lookup.rate(c) for p, c in zip(table['price'].to_pylist(), table['currency'].to_pylist())]})\n"
    )
    return Python(function="prices:euro", columns={"euro": "float64"}).located(folder)


def test_modules_beside_it_that_it_imports_go_with_it_to_every_worker(folder, local_cluster):
    step = _importing(folder)
    stage = step.stage(TABLE.schema)
    for file in folder.glob("*.py"):
        file.unlink()

    workers = list(local_cluster.nthreads())
    made = local_cluster.gather(
        [local_cluster.submit(stage, TABLE, workers=[one], pure=False) for one in workers]
    )

    assert [name for name, _ in step.beside] == ["lookup", "rates"]
    assert len(workers) == 2
    assert [data(one.kept)["euro"] for one in made] == [[1.0, 1.5, 5.0]] * 2


def test_the_text_of_an_imported_module_counts_and_two_texts_of_one_name_do_not_meet(folder):
    before = _importing(folder)
    (folder / "rates.py").write_text("EURO = {'USD': 2.0, 'EUR': 1.0}\n")
    after = Python(**vars(before.step)).located(folder)

    assert before != after
    assert data(run(after, [TABLE]).kept)["euro"] == [1.0, 6.0, 5.0]
    assert data(run(before, [TABLE]).kept)["euro"] == [1.0, 1.5, 5.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import prices\n",
            "prices imports lookup imports prices: modules beside the pipeline file must not import",
        ),
        ("def rate(:\n", "lookup.py:1: "),
        ("from rates import *\n", "lookup.py: from rates import [*]: expected names"),
    ],
)
def test_an_imported_module_that_cannot_be_read_is_told_before_the_run(folder, text, message):
    step = _importing(folder).step
    (folder / "lookup.py").write_text(text)

    with pytest.raises(SpecError, match=message):
        step.located(folder)
