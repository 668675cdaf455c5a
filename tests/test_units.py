"""Quantities are brought to one unit, and what is no quantity is set aside."""

import pyarrow as pa
import pytest

from pipelines.errors import SpecError
from pipelines.units import Unit, Units
from tests.strategies import data, run, with_origin

WEIGHT = {"g": 0.001, "lb": 0.45359237}


def read(texts, **settings):
    step = Units(column="w", **{"to": "kg", "units": WEIGHT, **settings})
    table = with_origin(pa.table({"w": pa.array(texts, pa.string())}))
    return run(step, [table])


def test_numbers_with_units_become_numbers_in_one_unit():
    rows = read(["3 kg", "2.5 lb", " 500g ", "1e3 g", "-.5kg", "+4. kg", None])

    assert data(rows.kept)["w"] == [3.0, 2.5 * 0.45359237, 0.5, 1.0, -0.5, 4.0, None]
    assert rows.notes == {"converted w": 3}
    assert rows.kept.schema.field("w").metadata == {b"unit": b"kg"}


def test_what_is_no_quantity_is_set_aside_with_the_units_that_are_known():
    rows = read(["3 kg", "3 stone", "kg", "1,5 kg", "1.2.3 kg", "", "4"])

    assert data(rows.kept)["w"] == [3.0]
    assert rows.rejected["message"].to_pylist()[0] == (
        "column 'w': '3 stone' is not a number in one of kg, g, lb"
    )
    assert rows.rejected["_line"].to_pylist() == [2, 3, 4, 1, 2, 3]
    assert set(rows.rejected["rule"].to_pylist()) == {"unit"}


def test_or_becomes_missing_and_is_counted():
    rows = read(["3 kg", "heavy", "4"], other="null", default="g")

    assert data(rows.kept)["w"] == [3.0, None, 0.004]
    assert rows.notes == {"converted w": 1, "emptied w": 1}


def test_a_decimal_comma_and_an_offset():
    units = {"C": Unit(offset=273.15), "F": Unit(factor=5 / 9, offset=459.67 * 5 / 9)}

    rows = read(["20,5 C", "32 F", "1.5 K"], to="K", units=units, decimal=",", other="null")

    assert data(rows.kept)["w"] == [pytest.approx(293.65), pytest.approx(273.15), None]


def test_a_column_may_name_the_unit():
    table = with_origin(
        pa.table({"w": [2, 500, 7, None], "unit": pa.array(["kg", " g", None, "stone"], pa.string())})
    )
    step = Units(column="w", to="kg", units=WEIGHT, unit_column="unit", other="null")

    rows = run(step, [table])

    assert data(rows.kept) == {"w": [2.0, 0.5, None, None], "unit": ["kg", "kg", None, "stone"]}
    assert rows.notes == {"converted w": 1, "emptied w": 1}


def test_private_quantities_are_not_told():
    field = pa.field("w", pa.string(), metadata={"privacy": "health"})
    table = with_origin(pa.table([["heavy"]], schema=pa.schema([field])))

    rows = run(Units(column="w", to="kg", units=WEIGHT), [table])

    assert rows.rejected["message"].to_pylist() == [
        "column 'w': a private value is not a number in one of kg, g, lb"
    ]
    assert rows.kept.schema.field("w").metadata == {b"privacy": b"health", b"unit": b"kg"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": {"g": 0}}, "the factor of 'g' is 0.0; expected a number other than 0"),
        ({"units": {"kg": 2}}, "'kg' is the wanted unit, its factor is 1; leave it out"),
        ({"units": {" g": 2}}, "' g' is not a name for a unit"),
        ({"units": {"g": 0.001}, "default": "gr"}, "default = 'gr' is not in units; did you mean 'g'"),
        ({"units": WEIGHT, "unit_column": "n"}, "column 'w' is string, expected integer or float"),
        ({"units": WEIGHT, "column": "n"}, "column 'n' is int64, expected string"),
    ],
)
def test_a_table_of_units_that_cannot_be_is_refused(settings, message):
    schema = with_origin(pa.table({"w": pa.array([], pa.string()), "n": pa.array([], pa.int64())})).schema

    with pytest.raises(SpecError, match=message):
        Units(**{"column": "w", "to": "kg", **settings}).stage(schema)
