"""One pipeline whose rows wait by partition: repeats, a fit, rows left out on the way, a large partition and one without a value."""

import random

from tests import builds

PIPELINE = """
name = "laid"
[sources.orders]
kind = "csv"
path = "orders-*.csv"
null = [""]
part_bytes = 1500
columns = {{ id = "int64", customer = "int64", day = "date", price = "float64", city = "string" }}
[sources.customers]
kind = "csv"
path = "customers.csv"
null = [""]
columns = {{ customer = "int64", region = "string" }}
[tables.customers]
source = "customers"
[tables.orders]
source = "orders"
steps = [
  {{ do = "text", columns = ["city"], case = "lower" }},
  {{ do = "deduplicate", by = ["id"], keep = "latest", order_by = ["day"] }},
  {{ do = "fill", columns = ["price"], with = "median", by = ["city"] }},
  {{ do = "keep", where = "price < 80" }},
  {{ do = "rename", columns = {{ customer = "who", city = "customer" }} }},
  {{ do = "derive", columns = {{ month = "month(day)" }} }},
  {{ do = "join", with = "customers", on = {{ who = "customer" }}, cardinality = "m:1", how = "{how}" }},
  {{ do = "quarantine", where = "price > 70", rule = "dear" }},
  {steps}
]
partition_by = ["month", "region"]
checks = [{{ check = "range", columns = ["price"], min = 5, severity = "quarantine" }}]
"""
CITY = '{ do = "fill", columns = ["customer"], value = "none" },'
REGION = '{ do = "fill", columns = ["region"], with = "mode" },'


def sources(folder, rows=900):
    """Repeats, a month with most of the rows, customers of no region and of none that is known."""
    chance = random.Random(7)
    lines = []
    for _ in range(rows):
        month = 3 if chance.random() < 0.6 else chance.randrange(1, 13)
        price = None if chance.random() < 0.1 else round(chance.uniform(1, 90), 2)
        city = chance.choice(["Ulm", "BONN", "", "K\u00f6ln"])
        day = f"2024-{month:02d}-{chance.randrange(1, 29):02d}"
        lines.append((chance.randrange(rows), chance.randrange(45), day, price, city))
    for number in range(3):
        builds.csv(
            folder / f"orders-{number}.csv", ("id", "customer", "day", "price", "city"), lines[number::3]
        )
    regions = ["north", "south", None, "east"]
    builds.csv(
        folder / "customers.csv", ("customer", "region"), [(one, regions[one % 4]) for one in range(40)]
    )


def outcome(folder, text, runner=None):
    """The files of the table, their partitions, the counts of every step."""
    sources(folder)
    built = builds.make(folder, text, runner)
    return builds.digests(folder, "orders"), builds.rows(folder, "orders"), builds.steps(built["orders"])
