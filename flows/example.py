"""The shop of the demo: three sources with every common fault planted on purpose, and counted.

Nothing is downloaded: the files are a pure function of (rows, seed). Whether an order is returned depends on how its
columns act *together* (a high price means one thing for shoes and the opposite for tools), so a linear model sees
little of it and a small network sees most.

    data/orders-2025-q1.csv ... q4.csv   orders, one file per quarter; a changed order is exported again, in a later file
    data/customers.jsonl                 nested attributes, repeated and contradictory lines, one torn line
    data/reference.sqlite                table `products`
"""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["generate"]

HEADER = "order_id,customer_id,ordered_at,updated_at,sku,quantity,unit_price,discount,channel,returned"
CATEGORIES = ("books", "garden", "gadgets", "kitchen", "jackets", "shoes", "tools", "toys")
DEAR_GOES_BACK = np.array(
    [-0.7, -1.0, -1.3, -0.7, 1.2, 1.4, -1.0, 0.9]
)  # per category: the sign of the price's effect
CHANNELS, CHANNEL_SHARES = ("web", "app", "store"), (0.45, 0.35, 0.2)
TIERS, TIER_SHARES = ("bronze", "silver", "gold"), (0.5, 0.3, 0.2)
REGIONS = ("north", "east", "south", "west")
PRODUCTS = 120
QUARTERS = ((0, 90), (90, 181), (181, 273), (273, 365))  # days of 2025
DATES = np.datetime_as_string(np.datetime64("2025-01-01") + np.arange(430).astype("timedelta64[D]")).tolist()
MALFORMED = {
    "too_few_fields": 0.6,
    "too_many_fields": 0.5,
    "bad_number": 0.9,
    "bad_time": 0.7,
    "no_order_id": 0.3,
}
FAULTS = MALFORMED | {
    "duplicates": 9,
    "negative_quantity": 1.2,
    "unknown_product": 0.8,
    "unknown_customer": 2,
    "missing_price": 12,
    "missing_discount": 20,
    "price_outliers": 3,
    "noisy_channel": 150,
    "noisy_sku": 40,
}
"""Faulty lines per thousand. No order has two faults, so that every count is exact."""
FEWEST_ROWS = 500


def generate(folder: Path | str, *, rows: int = 100_000, seed: int = 1) -> dict[str, Any]:
    """Write the shop's files under `folder/data` and return what was planted, exactly.

    `rows` is the number of data lines of the four order files together, faulty ones included.
    """
    if rows < FEWEST_ROWS:
        raise ValueError(
            f"rows is {rows!r}, expected at least {FEWEST_ROWS}: fewer cannot hold one fault of each kind"
        )
    data = Path(folder) / "data"
    data.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    faults = {name: max(1, int(rows * share / 1000)) for name, share in FAULTS.items()}
    malformed = sum(faults[name] for name in MALFORMED)
    shop = _shop(rng, rows=rows - malformed - faults["duplicates"], customers=max(rows // 25, 20))
    counts = {
        "orders": _write_orders(data, shop, faults, rng),
        "customers": _write_customers(data / "customers.jsonl", shop, rng),
        "products": _write_products(data / "reference.sqlite", shop),
    }
    return {
        **counts,
        "returned_share": float(shop.returned.mean()),
        "bayes_auc": _auc(shop.logit, shop.returned),
    }


@dataclass(frozen=True)
class _Shop:
    """The truth behind the files: every array has one entry per order, per product or per customer."""

    day: np.ndarray
    second: np.ndarray
    customer: np.ndarray
    product: np.ndarray
    quantity: np.ndarray
    cents: np.ndarray
    discount: np.ndarray  # percent
    channel: np.ndarray
    logit: np.ndarray
    returned: np.ndarray
    category_of: np.ndarray  # of a product
    cents_of: np.ndarray
    tier_of: np.ndarray  # of a customer
    region_of: np.ndarray


def _shop(rng: np.random.Generator, *, rows: int, customers: int) -> _Shop:
    category_of = np.arange(PRODUCTS) % len(CATEGORIES)
    cents_of = rng.integers(900, 9000, PRODUCTS)
    tier_of = rng.choice(len(TIERS), customers, p=TIER_SHARES)
    region_of = rng.integers(0, len(REGIONS), customers)

    day = np.sort(rng.integers(0, 365, rows))
    customer = rng.integers(0, customers, rows)
    product = rng.integers(0, PRODUCTS, rows)
    quantity = np.minimum(rng.geometric(0.45, rows), 12)
    cents = cents_of[product] * rng.integers(95, 106, rows) // 100
    discount = np.where(rng.random(rows) < 0.4, 0, 5 * rng.integers(1, 9, rows))
    channel = rng.choice(len(CHANNELS), rows, p=CHANNEL_SHARES)

    # Each term is about zero on average in each of its columns alone: only the pairs speak. That is what a linear
    # model cannot see.
    dear = (cents - 4950) / 2400
    deep = (discount - 13.5) / 14
    weekend = (day + 2) % 7 >= 5  # 2025-01-01 was a Wednesday
    logit = (
        -0.95
        + 1.00 * DEAR_GOES_BACK[category_of[product]] * dear
        + 0.85 * np.array([1.0, -0.2, -1.4])[tier_of[customer]] * deep
        + 0.90 * np.array([-0.1, 1.0, -1.4])[channel] * np.where(weekend, 1.0, -0.4)
        + 0.25 * (quantity > 3)
        + np.array([0.1, -0.1, 0.05, -0.05])[region_of[customer]]
    )
    returned = rng.random(rows) < 1 / (1 + np.exp(-logit))
    second = rng.integers(7 * 3600, 23 * 3600, rows)
    return _Shop(
        day,
        second,
        customer,
        product,
        quantity,
        cents,
        discount,
        channel,
        logit,
        returned,
        category_of,
        cents_of,
        tier_of,
        region_of,
    )


def _write_orders(
    data: Path, shop: _Shop, faults: dict[str, int], rng: np.random.Generator
) -> dict[str, Any]:
    rows = len(shop.day)
    picked = rng.permutation(rows).tolist()

    def take(count: int) -> list[int]:
        taken, picked[:] = picked[:count], picked[count:]
        return taken

    columns = _columns(shop)
    for row in (negative := take(faults["negative_quantity"])):
        columns["quantity"][row] = "-" + columns["quantity"][row]
    for row in (no_product := take(faults["unknown_product"])):
        columns["sku"][row] = f"sku-9{row % 100:02d}"
    for row in take(faults["unknown_customer"]):
        columns["customer_id"][row] = str(900_000 + row)
    for nth, row in enumerate(take(faults["missing_price"])):
        columns["unit_price"][row] = ("", "NA")[nth % 2]
    for nth, row in enumerate(take(faults["missing_discount"])):
        columns["discount"][row] = ("", "NA")[nth % 2]
    for row in take(faults["price_outliers"]):
        columns["unit_price"][row] = f"{shop.cents[row] / 2:.2f}"  # 50 times the price: a lost decimal point
    for nth, row in enumerate(take(faults["noisy_channel"])):
        text = columns["channel"][row]
        columns["channel"][row] = (text.upper(), f" {text}", f"{text} ", text.title())[nth % 4]
    for nth, row in enumerate(take(faults["noisy_sku"])):
        columns["sku"][row] = (columns["sku"][row].upper(), f" {columns['sku'][row]}")[nth % 2]
    early = [row for row in take(2 * faults["duplicates"]) if shop.day[row] < QUARTERS[-1][0]]
    restated = sorted(
        (early + [row for row in picked if shop.day[row] < QUARTERS[-1][0]])[: faults["duplicates"]]
    )

    lines = list(map(",".join, zip(*columns.values(), strict=True)))
    files: list[list[str]] = []
    for start, stop in QUARTERS:
        first, last = np.searchsorted(shop.day, [start, stop])
        files.append(lines[first:last])
    quarter_of = np.searchsorted([stop for _, stop in QUARTERS], shop.day, side="right")
    for row in restated:  # the first export says "not returned, full price"; the later one has the truth
        quarter = int(rng.integers(quarter_of[row] + 1, len(QUARTERS)))
        files[quarter].append(lines[row])
        stale = {**{name: column[row] for name, column in columns.items()}, "returned": "0", "discount": "0"}
        stale["updated_at"] = f"{DATES[shop.day[row]]} 23:30:00"
        position = row - int(np.searchsorted(shop.day, QUARTERS[quarter_of[row]][0]))
        files[quarter_of[row]][position] = ",".join(stale.values())
    for line in _malformed(faults, [lines[row] for row in picked], rows + 1, rng):
        file = files[int(rng.integers(0, len(files)))]
        file.insert(int(rng.integers(0, len(file) + 1)), line)
    for number, file in enumerate(files, start=1):
        text = "\n".join([HEADER, *file, ""])
        (data / f"orders-2025-q{number}.csv").write_text(text, encoding="utf-8", newline="\n")
    rejected = sum(faults[name] for name in MALFORMED) + len(negative) + len(no_product)
    lines_written = sum(map(len, files))
    return {
        "lines": lines_written,
        **faults,
        "rejected": rejected,
        "orders": rows - len(negative) - len(no_product),
    }


def _columns(shop: _Shop) -> dict[str, list[str]]:
    """The clean text of every order, column by column; small vocabularies are looked up, not formatted."""
    clock = [f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}" for second in range(24 * 3600)]
    dates = np.array(DATES, dtype=object)
    times = np.array(clock, dtype=object)[shop.second]
    skus = np.array([f"sku-{number:03d}" for number in range(PRODUCTS)], dtype=object)
    prices = np.array([f"{cents / 100:.2f}" for cents in range(int(shop.cents.max()) + 1)], dtype=object)
    return {
        "order_id": list(map(str, range(1, len(shop.day) + 1))),
        "customer_id": list(map(str, (shop.customer + 1).tolist())),
        "ordered_at": (dates[shop.day] + " " + times).tolist(),
        "updated_at": (dates[shop.day + 30] + " " + times).tolist(),
        "sku": skus[shop.product].tolist(),
        "quantity": list(map(str, shop.quantity.tolist())),
        "unit_price": prices[shop.cents].tolist(),
        "discount": np.array([f"{percent / 100:g}" for percent in range(101)], dtype=object)[
            shop.discount
        ].tolist(),
        "channel": np.array(CHANNELS, dtype=object)[shop.channel].tolist(),
        "returned": np.array(["0", "1"], dtype=object)[shop.returned.astype(int)].tolist(),
    }


def _malformed(
    faults: dict[str, int], clean: list[str], first_id: int, rng: np.random.Generator
) -> list[str]:
    """Lines that no reader should accept, each made from a clean one; their ids are new, so no order is lost."""
    made: list[str] = []
    for kind in MALFORMED:
        for nth in range(faults[kind]):
            _, *rest = clean[int(rng.integers(0, len(clean)))].split(",")
            made.append(",".join(_spoil(kind, [str(first_id + len(made)), *rest], nth)))
    return made


def _spoil(kind: str, fields: list[str], nth: int) -> list[str]:
    match kind:
        case "too_few_fields":
            return fields[: 2 + nth % 7]
        case "too_many_fields":  # a price written 1,234.50 without quotes
            return [*fields[:6], "1", *fields[6:]]
        case "bad_number":
            return [*fields[:6], ("12.5O", "free", "19.99 EUR")[nth % 3], *fields[7:]]
        case "bad_time":
            return [
                *fields[:2],
                ("2025-02-30 10:00:00", "yesterday", "07/04/2025 10:00")[nth % 3],
                *fields[3:],
            ]
        case _:
            return ["", *fields[1:]]


def _write_customers(path: Path, shop: _Shop, rng: np.random.Generator) -> dict[str, int]:
    """Each customer once, some twice in the same words, some with an older line that names another region."""
    customers = len(shop.tier_of)

    def line(number: int, region: int, updated: str) -> str:
        attributes = {"tier": TIERS[shop.tier_of[number]], "since": 2010 + number % 15}
        return json.dumps(
            {
                "customer_id": number + 1,
                "region": REGIONS[region],
                "attributes": attributes,
                "updated_at": updated,
            }
        )

    lines = [
        line(number, region, "2025-06-01 08:00:00") for number, region in enumerate(shop.region_of.tolist())
    ]
    chosen = rng.permutation(customers).tolist()
    repeated, contradicted = (
        chosen[: customers // 100 + 1],
        chosen[customers // 100 + 1 : customers // 40 + 3],
    )
    extra = [lines[number] for number in repeated]
    extra += [
        line(number, (shop.region_of[number] + 1) % len(REGIONS), "2024-11-01 08:00:00")
        for number in contradicted
    ]
    for text in extra:  # older lines come anywhere, also after newer ones
        lines.insert(int(rng.integers(0, len(lines) + 1)), text)
    lines.insert(len(lines) // 2, lines[0][:31])
    path.write_text("\n".join([*lines, ""]), encoding="utf-8", newline="\n")
    return {
        "lines": len(lines),
        "customers": customers,
        "exact_duplicates": len(repeated),
        "contradictions": len(contradicted),
        "garbage": 1,
    }


def _write_products(path: Path, shop: _Shop) -> dict[str, int]:
    path.unlink(missing_ok=True)
    products = [
        (f"sku-{number:03d}", CATEGORIES[category], cents / 100)
        for number, (category, cents) in enumerate(
            zip(shop.category_of.tolist(), shop.cents_of.tolist(), strict=True)
        )
    ]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE products (sku TEXT PRIMARY KEY, category TEXT NOT NULL, list_price REAL NOT NULL)"
        )
        database.executemany("INSERT INTO products VALUES (?, ?, ?)", products)
    return {"rows": len(products)}


def _auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve; equal scores share the middle of their ranks."""
    _, of, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[of]
    positives = int(truth.sum())
    return float(
        (rank[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))
    )
