"""Several inputs as one table: columns meet by name, conflicts are declared or errors."""

import pyarrow as pa
import pytest

from pipelines import warehouse
from pipelines.engine import OnDask
from pipelines.errors import SpecError
from pipelines.stage import ORIGIN
from pipelines.union import Union, merged
from tests import builds

PIPELINE = """
name = "union"
[sources.shop]
kind = "csv"
path = "shop.csv"
null = [""]
columns = {{ id = "int64", amount = "float64", city = "string" }}
[sources.web]
kind = "csv"
path = "web.csv"
null = [""]
columns = {{ amount = "string", id = "int64", agent = "string" }}
[tables.sales]
source = ["shop", "web"]
union = {{ missing = "null", cast = {{ amount = "float64" }}, source_column = "origin" }}
steps = {steps}
reject_limit = 5
"""


def project(folder, steps="[]"):
    builds.csv(folder / "shop.csv", ("id", "amount", "city"), [(1, 1.5, "Ulm"), (2, None, None)])
    builds.csv(
        folder / "web.csv",
        ("amount", "id", "agent"),
        [("2.5", 3, "curl"), ("much", 4, "wget"), (None, 5, "ie")],
    )
    return PIPELINE.format(steps=steps)


def test_columns_meet_by_name_and_what_does_not_fit_is_set_aside(tmp_path):
    built = builds.make(tmp_path, project(tmp_path))["sales"]

    assert builds.rows(tmp_path, "sales") == [
        {"id": 1, "amount": 1.5, "city": "Ulm", "agent": None, "origin": "shop"},
        {"id": 2, "amount": None, "city": None, "agent": None, "origin": "shop"},
        {"id": 3, "amount": 2.5, "city": None, "agent": "curl", "origin": "web"},
        {"id": 5, "amount": None, "city": None, "agent": "ie", "origin": "web"},
    ]
    assert builds.steps(built)["union"] == {
        "rows_in": 5,
        "rows_out": 4,
        "quarantined": 1,
        "from shop": 2,
        "from web": 2,
    }
    (reject,) = warehouse.read_quarantine(str(tmp_path / "warehouse" / "sales")).to_pylist()
    assert (reject["rule"], reject["column"], reject["line"]) == ("type", "amount", 3)
    assert reject["source"].endswith("web.csv")


def test_workers_and_later_passes_change_nothing(tmp_path, local_cluster):
    steps = '[{ do = "fill", columns = ["amount"], with = "mean" }, { do = "deduplicate", by = ["id"] }]'

    builds.make(tmp_path / "here", project(tmp_path / "here", steps))
    builds.make(tmp_path / "there", project(tmp_path / "there", steps), OnDask(local_cluster))

    here = builds.rows(tmp_path / "here", "sales")
    assert here == builds.rows(tmp_path / "there", "sales")
    assert {row["id"]: row["amount"] for row in here} == {1: 1.5, 2: 2.0, 3: 2.5, 5: 2.0}


def schema(**columns):
    return pa.schema([*columns.items(), *ORIGIN])


A = schema(id=pa.int64(), amount=pa.float64())


@pytest.mark.parametrize(
    ("union", "other", "message"),
    [
        (
            {},
            schema(id=pa.int64()),
            "'b' has no column 'amount'; add it, drop it from the others, or set missing",
        ),
        (
            {},
            schema(id=pa.int64(), amount=pa.string()),
            r"several types \(a: double, b: string\); set cast = \{ amount",
        ),
        ({"cast": {"amout": "string"}}, A, "cast names 'amout', which no input has; did you mean 'amount'"),
        ({"cast": {"amount": "flaot64"}}, A, "no type 'flaot64'; did you mean 'float64'"),
        ({"source_column": "id"}, A, "there is a column 'id' already"),
        ({"cast": {"amount": "date"}}, A, "a.amount is double and cannot become date"),
    ],
)
def test_what_is_not_declared_is_an_error(union, other, message):
    with pytest.raises(SpecError, match=message):
        merged(Union(**union), {"a": A, "b": other})


def test_units_and_privacy_classes_are_never_mixed():
    one, other = (
        pa.schema([pa.field("height", pa.float64(), metadata={"unit": unit, "privacy": "personal"}), *ORIGIN])
        for unit in ("m", "ft")
    )

    with pytest.raises(
        SpecError, match=r"column 'height' has several units \(a: m, b: ft\); make them alike before"
    ):
        merged(Union(), {"a": one, "b": other})
    with pytest.raises(SpecError, match="several privacy classes"):
        merged(Union(), {"a": one, "b": schema(height=pa.float64())})


def test_inputs_with_other_columns_and_no_word_about_it_are_refused(tmp_path):
    text = project(tmp_path).replace("union = ", "# ")

    with pytest.raises(SpecError, match="do not have the same columns"):
        builds.make(tmp_path, text)
