"""One pipeline with every way in which rows move, and the ways to cut its input."""

import random

from pipelines import parts
from tests import builds

PIPELINE = """
name = "cuts"
[sources.orders]
kind = "csv"
path = "orders-*.csv"
null = [""]
part_bytes = {part_bytes}
columns = {{ id = "int64", customer = "int64", month = "int64", price = "float64", city = {{ type = "string", trim = true }} }}
[sources.customers]
kind = "csv"
path = "customers.csv"
columns = {{ customer = "int64", name = "string" }}
[tables.customers]
source = "customers"
[tables.orders]
source = "orders"
steps = [
  {{ do = "quarantine", where = "price < 0", rule = "negative" }},
  {{ do = "deduplicate", by = ["id"], keep = "last" }},
  {{ do = "derive", columns = {{ other = "price" }} }},
  {{ do = "fill", columns = ["other"], with = "mean" }},
  {{ do = "clip", columns = ["price"], method = "iqr" }},
  {{ do = "fill", columns = ["price"], with = "median", by = ["month"] }},
  {{ do = "join", with = "customers", on = ["customer"], cardinality = "m:1", how = "outer" }},
  {{ do = "window", by = ["customer"], order_by = ["id"], columns = {{ before = "lag(city, 1)", level = "mean(price, 3)" }} }},
  {{ do = "quarantine", where = "name == \\"n7\\"", rule = "seven" }},
]
partition_by = ["month"]
checks = [{{ check = "unique", columns = ["id"] }}]
"""


def sources(folder, *, rows=600, seed=1):
    """The files of the pipeline: repeats, missing values, wild ones, a hot customer, customers without orders."""
    chance = random.Random(seed)
    lines = []
    for _ in range(rows):
        price = chance.choice([None, -1.0, 1e6, *[round(chance.uniform(1, 90), 2)] * 20])
        customer = 3 if chance.random() < 0.5 else chance.choice([None, *range(40)])
        city = chance.choice(["Ulm ", " Bonn", "", "K\u00f6ln"])
        lines.append((chance.randrange(rows), customer, chance.randrange(1, 6), price, city))
    for number in range(3):
        builds.csv(
            folder / f"orders-{number}.csv", ("id", "customer", "month", "price", "city"), lines[number::3]
        )
    builds.csv(
        folder / "customers.csv", ("customer", "name"), [(number, f"n{number}") for number in range(60)]
    )


def cut(monkeypatch, size):
    """Parts of about so many bytes."""
    monkeypatch.setattr(parts, "PART_BYTES", (64, size))
    return PIPELINE.format(part_bytes=size)


def outcome(folder, text, runner=None):
    """Rows in the order of the files, and the counts of every step."""
    built = builds.make(folder, text, runner)
    return builds.rows(folder, "orders"), builds.steps(built["orders"])


def files(folder, monkeypatch, runner):
    """Digests of the files of the table and the counts of every step; eight and more tasks in every pass."""
    sources(folder)
    text = cut(monkeypatch, 1200)
    monkeypatch.setattr(parts, "BUCKET_BYTES", (1024, 2048))
    built = builds.make(folder, text, runner)
    return builds.digests(folder, "orders"), builds.steps(built["orders"])
