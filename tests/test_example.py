"""The shop of the demo: the same files from the same seed, every fault counted, a rule that only a network learns."""

import csv
import hashlib
import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from flows.example import generate
from pipelines import spec

ROWS = 20_000
PIPELINE = Path(spec.__file__).parents[1] / "flows" / "gallery" / "orders" / "pipeline.toml"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    return folder / "data", generate(folder, rows=ROWS, seed=3)


@pytest.fixture(scope="module")
def lines(shop):
    data, _ = shop
    return [
        line.split(",")
        for file in sorted(data.glob("orders-*.csv"))
        for line in file.read_text().splitlines()[1:]
    ]


def digests(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (folder / "data").iterdir()
        if file.suffix != ".sqlite"
    }


@pytest.mark.parametrize("rows", [500, 501, 4000])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, rows):
    first, again = generate(tmp_path / "a", rows=rows), generate(tmp_path / "b", rows=rows)
    generate(tmp_path / "c", rows=rows, seed=2)

    assert first == again
    assert first["orders"]["lines"] == rows
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert not set(digests(tmp_path / "a").values()) & set(digests(tmp_path / "c").values())


def test_too_few_rows_are_refused_with_the_smallest_number(tmp_path):
    with pytest.raises(ValueError, match="expected at least 500"):
        generate(tmp_path, rows=499)


def test_generating_again_replaces_the_files(tmp_path):
    generate(tmp_path, rows=1000, seed=1)
    planted = generate(tmp_path, rows=2000, seed=2)

    files = list((tmp_path / "data").glob("orders-*.csv"))
    assert len(files) == 4
    assert sum(len(file.read_text().splitlines()) - 1 for file in files) == 2000 == planted["orders"]["lines"]


MISSING = ("", "NA")


def well_formed(line):
    """Whether a reader of the declared types takes the line."""
    price = line[6:7] and (line[6] in MISSING or number(line[6], float) is not None)
    return len(line) == 10 and bool(line[0]) and price and a_time(line[2])


def a_time(text):
    return len(text) == 19 and text[5:10] != "02-30"


def number(text, kind):
    try:
        return kind(text)
    except ValueError:
        return None


def test_every_planted_fault_of_the_orders_is_found_by_counting(shop, lines):
    planted = shop[1]["orders"]
    products = set(skus(shop[0]))
    whole = [line for line in lines if len(line) == 10]
    good = [line for line in whole if well_formed(line)]
    ids = Counter(line[0] for line in good)

    found = {
        "lines": len(lines),
        "too_few_fields": sum(len(line) < 10 for line in lines),
        "too_many_fields": sum(len(line) > 10 for line in lines),
        "bad_number": sum(line[6] not in MISSING and number(line[6], float) is None for line in whole),
        "bad_time": sum(not a_time(line[2]) for line in whole),
        "no_order_id": sum(not line[0] for line in whole),
        "duplicates": sum(ids.values()) - len(ids),
        "negative_quantity": sum(int(line[5]) < 0 for line in good),
        "unknown_product": sum(line[4].strip().lower() not in products for line in good),
        "unknown_customer": sum(int(line[1]) > 900_000 for line in good),
        "missing_price": sum(line[6] in MISSING for line in good),
        "missing_discount": sum(line[7] in MISSING for line in good),
        "price_outliers": sum(float(line[6]) > 200 for line in good if line[6] not in MISSING),
        "noisy_channel": sum(line[8] not in {"web", "app", "store"} for line in good),
        "noisy_sku": sum(line[4] != line[4].strip().lower() for line in good),
    }
    found["rejected"] = sum(
        found[name]
        for name in (
            "too_few_fields",
            "too_many_fields",
            "bad_number",
            "bad_time",
            "no_order_id",
            "negative_quantity",
            "unknown_product",
        )
    )
    found["orders"] = len(lines) - found["rejected"] - found["duplicates"]
    assert found == planted


def test_the_newest_line_of_a_repeated_order_is_the_true_one_and_comes_in_a_later_file(shop):
    orders = {}
    for place, file in enumerate(sorted(shop[0].glob("orders-*.csv"))):
        with file.open(newline="") as text:
            for line in csv.reader(text):
                orders.setdefault(line[0], []).append((place, line))

    repeated = [found for name, found in orders.items() if name and len(found) == 2]

    assert len(repeated) == shop[1]["orders"]["duplicates"]
    for (first_file, first), (second_file, second) in repeated:
        assert first_file < second_file
        assert first[3] < second[3]
        assert first[9] == "0"


def test_the_outliers_are_far_beyond_three_interquartile_ranges_and_nothing_else_is(shop, lines):
    prices = np.array([number(line[6], float) or np.nan for line in lines if len(line) == 10])
    prices = prices[np.isfinite(prices)]
    low, high = np.quantile(prices, [0.25, 0.75])

    assert (prices > high + 3 * (high - low)).sum() == shop[1]["orders"]["price_outliers"]
    assert not (prices < low - 3 * (high - low)).any()


def test_the_customers_repeat_and_contradict_themselves_as_often_as_is_said(shop):
    planted = shop[1]["customers"]
    texts = (shop[0] / "customers.jsonl").read_text().splitlines()
    whole = [json.loads(text) for text in set(texts) if text.endswith("}")]
    versions = Counter(one["customer_id"] for one in whole)

    assert len(texts) == planted["lines"]
    assert len(versions) == planted["customers"]
    assert sum(n - 1 for n in versions.values()) == planted["contradictions"]
    assert sum(not text.endswith("}") for text in texts) == planted["garbage"] == 1
    assert (
        planted["lines"]
        == planted["customers"] + planted["exact_duplicates"] + planted["contradictions"] + planted["garbage"]
    )


def skus(data):
    with closing(sqlite3.connect(data / "reference.sqlite")) as database:
        rows = database.execute("SELECT sku, category, list_price FROM products").fetchall()
    return {sku: (category, price) for sku, category, price in rows}


def features(data, lines):
    """What the pipeline makes of the good orders, in NumPy: numbers scaled, categories as indicators, and the label."""
    products = skus(data)
    customers = {}
    for text in sorted((data / "customers.jsonl").read_text().splitlines(), key=lambda text: text[-25:]):
        if text.endswith("}"):
            one = json.loads(text)
            customers[one["customer_id"]] = (one["attributes"]["tier"], one["region"])
    rows, labels, owners = [], [], []
    for line in lines:
        if not well_formed(line):
            continue
        sku = line[4].strip().lower()
        if sku not in products or int(line[5]) < 0 or int(line[1]) not in customers:
            continue
        weekday = str(np.datetime64(line[2][:10]).astype("datetime64[D]").astype(int) % 7)
        categories = (products[sku][0], *customers[int(line[1])], line[8].strip().lower(), weekday)
        rows.append(
            (
                (float(line[5]), min(number(line[6], float) or 50.0, 170.0), number(line[7], float) or 0.0),
                categories,
            )
        )
        labels.append(line[9] == "1")
        owners.append(int(line[1]))
    numbers = np.array([row[0] for row in rows])
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    indicators = []
    for column in range(5):
        values = np.array([row[1][column] for row in rows])
        indicators += [values == value for value in np.unique(values)]
    return np.column_stack([numbers, *indicators]).astype("f4"), np.array(labels), np.array(owners)


def test_a_small_network_clearly_beats_logistic_regression_and_stays_below_the_best_possible(shop, lines):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.neural_network import MLPClassifier

    X, y, owners = features(shop[0], lines)
    test = owners % 5 == 0
    linear = LogisticRegression(max_iter=300).fit(X[~test], y[~test])
    network = MLPClassifier((64,), batch_size=256, learning_rate_init=0.003, max_iter=12, random_state=1)
    with pytest.warns(ConvergenceWarning):  # 12 epochs are meant to be few
        network.fit(X[~test], y[~test])
    auc = {
        name: roc_auc_score(y[test], model.predict_proba(X[test])[:, 1])
        for name, model in (("linear", linear), ("network", network))
    }

    assert 0.5 < auc["linear"] < 0.62
    assert auc["network"] > auc["linear"] + 0.15
    assert auc["network"] < shop[1]["bayes_auc"] + 0.02
    assert 0.78 < shop[1]["bayes_auc"] < 0.82
    assert 0.25 < shop[1]["returned_share"] < 0.4


def test_the_gallery_pipeline_is_valid_and_reads_what_is_generated(shop):
    pipeline = spec.load(PIPELINE, {"data": str(shop[0])})

    assert list(pipeline.tables) == ["products", "customers", "orders", "sales", "features"]
    assert list(pipeline.models) == ["returns"]
    header = next(shop[0].glob("orders-*.csv")).read_text().partition("\n")[0].split(",")
    assert header == list(pipeline.sources["orders"].columns)


def test_the_gallery_pipeline_is_one_page():
    lines = PIPELINE.read_text().splitlines()

    assert len(lines) <= 110
    assert max(map(len, lines)) <= 180
