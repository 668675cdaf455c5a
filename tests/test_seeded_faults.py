"""Defects are planted on purpose, each in a row of its own: all are found, under their own rule, and none is invented.

The generator is a pure function of its seed. Good rows are as strange as good rows may be: other spellings, other
units, missing values that are allowed, the ends of every range.
"""

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from pipelines import warehouse
from pipelines.steps import STEPS
from tests import projects

SETS_ASIDE = {  # defect: the rule that finds it
    "too few fields": "columns",
    "bad number": "type",
    "bad time": "type",
    "no id": "null",
    "price below the range": "range",
    "unknown unit": "unit",
    "unknown status": "map_values",
    "amount that is no number": "type",
    "unknown shop": "unmatched",
    "unknown customer": "foreign_key who",
    "wrong zip": "pattern zip",
    "ends before it begins": "ends before it begins",
}
MANY = 7  # of each defect
ROWS = 900
CUSTOMERS = 50
FILE = """[sources.orders]
kind = "csv"
path = "orders-*.csv"
null = ["", "NA"]
[sources.orders.columns]
id = { type = "int64", nullable = false }
who = "int64"
shop = "string"
amount = "string"
price = { type = "float64", range = [0, inf] }
weight = "string"
status = "string"
zip = "string"
begins = "timestamp"
ends = "timestamp"
[sources.customers]
kind = "csv"
path = "customers.csv"
columns = { id = "int64" }
[sources.shops]
kind = "csv"
path = "shops.csv"
columns = { shop = "string", town = "string" }
[tables.customers]
source = "customers"
[tables.shops]
source = "shops"
[tables.orders]
source = "orders"
steps = [
  { do = "text", columns = ["status"], case = "lower", accents = "remove", unicode = "NFKC", collapse = true },
  { do = "trim" },
  { do = "map_values", column = "status", values = { open = "open", closed = "closed", fermee = "closed" }, other = "quarantine" },
  { do = "units", column = "weight", to = "kg", units = { g = 0.001, lb = 0.45359237 } },
  { do = "cast", columns = { amount = "float64" } },
  { do = "keep", where = 'shop != "test"' },
  { do = "join", with = "shops", on = ["shop"], cardinality = "m:1", unmatched = "quarantine" },
  { do = "quarantine", where = "ends < begins", rule = "ends before it begins" },
  { do = "deduplicate" },
  { do = "resolve", by = ["id"], policy = "quarantine" },
  { do = "clip", columns = ["price"], method = "mad", factor = 20, on_outlier = "flag" },
  { do = "clip", columns = ["amount"], method = "iqr", factor = 5, by = ["town"], on_outlier = "null" },
  { do = "fill", columns = ["amount"], with = "mean", by = ["town"] },
  { do = "fill", columns = ["price"], with = "median" },
  { do = "fill", columns = ["weight"], with = "interpolate", by = ["who"], order_by = ["begins"] },
]
checks = [
  { check = "foreign_key", columns = ["who"], table = "customers", to = ["id"], severity = "quarantine" },
  { check = "pattern", column = "zip", pattern = "[0-9]{5}", severity = "quarantine" },
  { check = "unique", column = "id" },
]
"""


def good(rng, number):
    """One good row, in one of its many spellings."""
    grams = int(rng.integers(100, 9000))
    weight = [f"{grams} g", f"{grams / 1000}kg", f" {grams / 1000:.3f} kg ", f"{grams / 453.59237:.6f} lb"][
        rng.integers(4)
    ]
    status = ["open", "Closed", " CLOSED ", "Ferm\u00e9e", "o\u00adpen".replace("\u00ad", "")][
        rng.integers(5)
    ]
    begins = np.datetime64("2026-01-01T00:00:00") + np.timedelta64(int(rng.integers(0, 10**7)), "s")
    ends = begins + np.timedelta64(int(rng.integers(0, 10**6)), "s")
    return {
        "id": str(number),
        "who": str(rng.integers(1, CUSTOMERS + 1)),
        "shop": ["north", "south"][number % 2],
        "amount": f"{rng.normal([10, 1000][number % 2], 1):.3f}",  # a tenth of the one is usual in the other
        "price": f"{rng.normal(100, 5):.2f}",
        "weight": weight,
        "status": status,
        "zip": f"{rng.integers(0, 10**5):05}",
        "begins": str(begins),
        "ends": str(ends),
    }


SPOIL = {
    "bad number": {"price": "12.5o"},
    "bad time": {"begins": "2026-02-30T00:00:00"},
    "no id": {"id": "NA"},
    "price below the range": {"price": "-0.01"},
    "unknown unit": {"weight": "3 stone"},
    "unknown status": {"status": "lost"},
    "amount that is no number": {"amount": "12.5x"},
    "unknown shop": {"shop": "west"},
    "unknown customer": {"who": str(CUSTOMERS + 1)},
    "wrong zip": {"zip": "1234"},
    "ends before it begins": {"begins": "2026-05-05T00:00:01", "ends": "2026-05-05T00:00:00"},
}


def plant(folder, seed):
    """Files, and what was planted: (file, line) of each defect by its name."""
    rng = np.random.default_rng(seed)
    rows = [(good(rng, number), "") for number in range(ROWS)]
    places = iter(rng.permutation(ROWS).tolist())
    for name in SETS_ASIDE:
        for place in (next(places) for _ in range(MANY)):
            rows[place] = ({**rows[place][0], **SPOIL.get(name, {})}, name)
    for place in (next(places) for _ in range(MANY)):
        rows[place] = ({**rows[place][0], "price": f"{rng.choice([1, 9]) * 1000}"}, "outlier")
    for place in (next(places) for _ in range(MANY)):
        rows[place] = ({**rows[place][0], "price": ""}, "missing price")
    for place in (next(places) for _ in range(MANY)):  # of the other shop: unusual in this one alone
        rows[place] = ({**rows[place][0], "shop": ["north", "south"][place % 2 == 0]}, "outlier of its group")
    for place in (next(places) for _ in range(MANY)):
        rows[place] = ({**rows[place][0], "shop": "test"}, "left out")
    for place in (next(places) for _ in range(MANY)):
        rows[place] = (rows[place][0], "twice")
        rows.append((rows[place][0], "copy"))
    for place in (next(places) for _ in range(MANY)):
        rows[place] = (rows[place][0], "contradiction")
        rows.append(
            (
                {**rows[place][0], "zip": "99999" if rows[place][0]["zip"] != "99999" else "99998"},
                "contradiction",
            )
        )
    rows = [rows[place] for place in rng.permutation(len(rows))]
    planted = {}
    for file, start in enumerate(range(0, len(rows), 400)):
        lines = ["id,who,shop,amount,price,weight,status,zip,begins,ends"]
        for line, (row, defect) in enumerate(rows[start : start + 400], 2):
            values = list(row.values())
            lines.append(",".join(values[:-2] if defect == "too few fields" else values))
            planted.setdefault(defect, []).append((f"orders-{file}.csv", line))
        (folder / f"orders-{file}.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (folder / "customers.csv").write_text(
        "id\n" + "".join(f"{n}\n" for n in range(1, CUSTOMERS + 1)), "utf-8"
    )
    (folder / "shops.csv").write_text("shop,town\nnorth,Kiel\nsouth,Ulm\n", "utf-8")
    (folder / "pipeline.toml").write_text(FILE, "utf-8")
    return planted


def test_every_step_that_finds_defects_is_tried_here():
    others = {
        "resolve",
        "deduplicate",
        "clip",
        "fill",
        "text",
        "trim",
    }  # their finds are counted, or change cells
    nothing = {
        "rename",
        "select",
        "drop",
        "derive",
        "python",
        "mask",
        "generalise",
        "pseudonymise",
        "window",
        "split",
    }
    elsewhere = {"join_asof", "features"}  # an unmatched row as of join, a label as of map_values

    used = set(re.findall(r'do = "(\w+)"', FILE))

    assert used == others | {"map_values", "units", "cast", "keep", "join", "quarantine"}
    assert used | nothing | elsewhere == set(STEPS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_planted_defect_is_found_under_its_rule_and_none_is_invented(tmp_path, seed):
    planted = plant(tmp_path, seed)

    record = projects.run(tmp_path)

    rejects = warehouse.read_quarantine(str(tmp_path / "warehouse" / "orders")).to_pylist()
    found = {}
    for one in rejects:
        found.setdefault(one["rule"], []).append((one["source"].rpartition("/")[2], one["line"]))
    expected = {}
    for defect, rule in SETS_ASIDE.items():
        expected.setdefault(rule, []).extend(planted[defect])
    expected["contradiction"] = planted["contradiction"]
    assert {rule: sorted(places) for rule, places in found.items()} == {
        rule: sorted(places) for rule, places in expected.items()
    }
    orders = next(one for one in record["tables"] if one["name"] == "orders")
    notes = Counter()
    for step in orders["steps"]:
        notes.update(step["notes"])
    assert orders["deduplicated"] == len(planted["copy"])
    assert notes["outliers price"] == len(planted["outlier"])
    assert notes["filled price"] == len(planted["missing price"])
    assert notes["outliers amount"] == notes["filled amount"] == len(planted["outlier of its group"])
    assert orders["filtered"] == len(planted["left out"])
    assert record["ledger"]["balanced"]
    assert orders["rows_out"] == ROWS - (len(SETS_ASIDE) + 2) * MANY
    assert all(check["passed"] for check in orders["checks"] if check["severity"] == "block")


def test_without_defects_nothing_is_found(tmp_path):
    rng = np.random.default_rng(9)
    plant(tmp_path, 9)
    for file in tmp_path.glob("orders-*.csv"):
        file.unlink()
    rows = [",".join(good(rng, number).values()) for number in range(300)]
    header = "id,who,shop,amount,price,weight,status,zip,begins,ends"
    (tmp_path / "orders-0.csv").write_text("\n".join([header, *rows]) + "\n", "utf-8")

    record = projects.run(tmp_path)

    orders = next(one for one in record["tables"] if one["name"] == "orders")
    assert (orders["rows_out"], orders["quarantined"], orders["deduplicated"]) == (300, 0, 0)
    assert all(check["passed"] for check in orders["checks"])
    table = warehouse.Snapshot.open(str(tmp_path / "warehouse" / "orders")).read()
    assert not pa.compute.any(table["price_outlier"]).as_py()
