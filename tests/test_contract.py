"""What a source promises, and what happens to what does not fit: stop, set aside, make null, or take in."""

from pathlib import Path

import pytest

from flows.failures import explain
from flows.tables import print_history
from pipelines import warehouse
from pipelines.errors import InputError, SpecError
from tests.test_loads import Shop

FILE = """
[sources.orders]
kind = "csv"
path = "data/*.csv"
contract = "{policy}"
columns = {{ id = {{ type = "int64", nullable = false }}, price = {{ type = "float64", range = [0, 100] }} }}

[tables.orders]
source = "orders"
{more}
"""


def made(folder, contract, more=""):
    shop = Shop(folder / "shop", contract, more, text=FILE)
    shop.file("a.csv", "1,5", "2,x", "y,7", "4,150")
    return shop


def rows(shop):
    return warehouse.Snapshot.open(shop.uri).read().to_pylist()


@pytest.mark.parametrize("contract", ["quarantine", "evolve"])
def test_a_row_that_does_not_fit_is_set_aside(tmp_path, contract):
    shop = made(tmp_path, contract)

    shop.run()

    assert shop.ids == [1]
    assert [row[1] for row in shop.rejects] == [3, 4, 5]


def test_with_null_the_cell_is_empty_and_counted_and_a_key_still_sets_its_row_aside(tmp_path):
    shop = made(tmp_path, "null")

    built = shop.run()

    assert rows(shop) == [{"id": 1, "price": 5.0}, {"id": 2, "price": None}, {"id": 4, "price": None}]
    assert built.steps[0]["notes"] == {"nulled price": 2}
    assert [row[1] for row in shop.rejects] == [4]


def test_with_freeze_the_run_stops_at_the_first_value(tmp_path):
    shop = made(tmp_path, "freeze")

    with pytest.raises(InputError, match=r"a\.csv:4: column 'id': cannot read 'y' as int64"):
        shop.run()

    assert not warehouse.log.exists(shop.uri)


def test_a_column_may_say_otherwise(tmp_path):
    shop = made(tmp_path, "freeze")
    shop.declare(
        "freeze", **{"[0, 100]": '[0, 100], on_error = "null"', "nullable = false": 'on_error = "quarantine"'}
    )

    shop.run()

    assert (shop.ids, len(shop.rejects)) == ([1, 2, 4], 1)


@pytest.mark.parametrize("contract", ["freeze", "quarantine", "null"])
def test_a_new_column_stops_the_run_with_what_differs(tmp_path, contract):
    shop = made(tmp_path, contract)
    (shop.folder / "data" / "b.csv").write_text("id,price,note\n5,6,hello\n")

    with pytest.raises(
        InputError,
        match=r"declared, \+ found\):\n  \+ note: is not declared; .* ignore = \[\"note\"\], or take them",
    ):
        shop.run()


def test_on_the_terminal_the_difference_is_one_change_a_line(tmp_path):
    shop = made(tmp_path, "freeze")
    (shop.folder / "data" / "a.csv").write_text("id,prise,note\n5,6,hello\n")
    with pytest.raises(InputError) as failure:
        shop.run()

    text, code = explain(failure.value)

    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("        "))
    assert code == 2
    assert " ".join(lines[:at]).endswith("2 columns are declared (- declared, + found):")
    assert lines[at:-1] == [
        "        - price float64: is missing, did you mean 'prise'?",
        "        + prise: is not declared",
        "        + note: is not declared",
        'fix   correct the declaration or the data, leave new columns out by ignore = ["prise", "note"], or',
        '      take them in by contract = "evolve"',
    ]


def test_with_evolve_a_declared_column_may_not_be_missing(tmp_path):
    shop = made(tmp_path, "evolve")
    (shop.folder / "data" / "b.csv").write_text("id,note\n5,x\n")

    with pytest.raises(InputError, match="- price float64: is missing"):
        shop.run()


def test_an_optional_column_is_null_where_a_file_lacks_it(tmp_path):
    shop = made(tmp_path, "quarantine")
    shop.declare("quarantine", **{'kind = "csv"': 'kind = "csv"\noptional = ["price"]'})
    (shop.folder / "data" / "b.csv").write_text("id\n5\n6\n")

    shop.run()

    assert rows(shop)[-2:] == [{"id": 5, "price": None}, {"id": 6, "price": None}]


def test_changed_columns_are_a_reason_of_the_plan_and_of_the_version(tmp_path, capsys):
    shop = made(tmp_path, "quarantine")
    shop.run()
    shop.declare(
        "quarantine",
        **{'"float64", range = [0, 100]': '"string", unit = "EUR"', "nullable = false": "nullable = true"},
    )

    assert shop.why == (
        "declaration of orders changed",
        "columns:\n  - id int64 NOT NULL\n  + id int64\n  - price float64\n  + price string, unit EUR",
    )
    assert shop.plan().text().splitlines()[2:7] == [
        "         why: columns:",
        "              - id int64 NOT NULL",
        "              + id int64",
        "              - price float64",
        "              + price string, unit EUR",
    ]
    shop.run()
    print_history(Path(shop.uri).parent, "orders", as_json=False)
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "version 1: columns:",
        "  - id int64 NOT NULL",
        "  + id int64",
        "  - price float64",
        "  + price string, unit EUR",
    ]
    assert warehouse.history(shop.uri)[0].why[-1].startswith("columns:\n  - id int64 NOT NULL\n")


@pytest.mark.parametrize(
    ("contract", "changes", "problem"),
    [
        ("evolv", {}, "input should be 'evolve', 'freeze', 'quarantine' or 'null'"),
        ("evolve", {'kind = "csv"': 'kind = "csv"\nextra = "ignore"'}, "extra has no effect with"),
        ("evolve", {'kind = "csv"': 'kind = "csv"\nheader = false'}, "without one a new column has no name"),
        ("evolve", {'kind = "csv"': 'kind = "text"'}, "has no effect on a text source"),
        ("null", {'kind = "csv"': 'kind = "csv"\noptional = ["prise"]'}, "optional names 'prise'"),
        ("null", {'kind = "csv"': 'kind = "csv"\noptional = ["id"]'}, "nullable = false; it is null"),
        ("evolve", {'kind = "csv"': 'kind = "csv"\nevolved = ["x"]'}, "unknown key 'evolved'"),
    ],
)
def test_contracts_that_cannot_be_are_refused(tmp_path, contract, changes, problem):
    shop = made(tmp_path, contract)
    shop.declare(contract, **changes)

    with pytest.raises(SpecError, match=problem):
        shop.plan()
