"""Run records as the drivers write them: one of the whole demo, and small variations for the edges."""

import copy
import hashlib
import math

DIGEST = hashlib.sha256(b"weights").hexdigest()


def demo_record():
    """The record of a first run of the demo: five tables, one model, every part filled."""
    return copy.deepcopy(_DEMO)


def unchanged_record():
    """The record of a second run: nothing to do."""
    record = demo_record()
    for item in (*record["tables"], *record["models"]):
        item.update(status="unchanged", why=[], seconds=0.0)
    return record


def bare_record():
    """The least that a driver may write."""
    return {"pipeline": "bare", "tables": [], "models": []}


def _histogram(centre, spread, bins=30, rows=98_000, low=0.0, high=100.0):
    width = (high - low) / bins
    edges = [low + width * at for at in range(bins + 1)]
    weights = [
        math.exp(-(((low + width * (at + 0.5)) - centre) ** 2) / (2 * spread**2)) for at in range(bins)
    ]
    return {"edges": edges, "counts": [round(rows * weight / sum(weights)) for weight in weights]}


def _source(name, path, rows, size):
    digest = hashlib.sha256(path.encode()).hexdigest()
    return {
        "name": name,
        "kind": "source",
        "path": path,
        "rows": rows,
        "bytes": size,
        "version": None,
        "sha256": digest,
    }


def _table_input(name, version, rows):
    return {
        "name": name,
        "kind": "table",
        "path": f"warehouse/{name}",
        "rows": rows,
        "bytes": None,
        "version": version,
        "sha256": None,
    }


def _step(name, rows_in, rows_out, **rest):
    counts = dict.fromkeys(("quarantined", "deduplicated", "filtered", "added"), 0)
    return {"name": name, "rows_in": rows_in, "rows_out": rows_out, "notes": {}, **counts, **rest}


def _check(name, column, *, passed=True, severity="block", found="0 rows", expected="0 rows"):
    return {
        "name": name,
        "column": column,
        "severity": severity,
        "passed": passed,
        "found": found,
        "expected": expected,
    }


def _table(name, rows_in, rows_out, **rest):
    counts = dict.fromkeys(("quarantined", "deduplicated", "filtered", "added"), 0)
    empty = {"steps": [], "inputs": [], "rejects": [], "checks": [], "profile": {}, "partition_by": []}
    given = {
        "status": "built",
        "why": ["it does not exist yet"],
        "version": 0,
        "seconds": 0.4,
        "files": 1,
        "bytes": 48_200,
    }
    return {"name": name, "rows_in": rows_in, "rows_out": rows_out, **counts, **given, **empty, **rest}


_ORDER_FILES = [
    (f"data/orders-2025-q{n}.csv", rows) for n, rows in ((1, 24_465), (2, 24_872), (3, 25_136), (4, 25_527))
]
_PRICE = {
    "type": "double", "rows": 98_680, "nulls": 0, "min": 8.55, "max": 170.42, "mean": 49.73, "std": 24.1, "distinct": 8211,
    "histogram": _histogram(50, 24, low=8.55, high=170.42), "top": [],
}  # fmt: skip
_CHANNEL = {
    "type": "string", "rows": 98_680, "nulls": 12, "min": "app", "max": "web", "mean": None, "std": None, "distinct": 3,
    "histogram": None, "top": [["web", 44_391], ["app", 34_528], ["store", 19_749]],
}  # fmt: skip
_WHEN = {
    "type": "timestamp[us, tz=UTC]", "rows": 98_680, "nulls": 0, "min": "2025-01-01 07:00:11", "max": "2025-12-31 22:59:40",
    "mean": None, "std": None, "distinct": None, "histogram": None, "top": [],
}  # fmt: skip
_ROC = [
    [0.0, 0.0],
    [0.05, 0.24],
    [0.1, 0.4],
    [0.2, 0.6],
    [0.3, 0.73],
    [0.45, 0.85],
    [0.6, 0.93],
    [0.8, 0.98],
    [1.0, 1.0],
]

_DEMO = {
    "pipeline": "orders",
    "file": "orders/pipeline.toml",
    "run": "20251121-104500-7f3a",
    "started": "2025-11-21T10:45:00+00:00",
    "seconds": 8.42,
    "driver": "direct",
    "workers": 2,
    "versions": {"dlflow": "0.1.0", "python": "3.11.9", "numpy": "2.4.6", "pyarrow": "22.0.0", "dask": "2026.7.0"},
    "plan": "orders     4 files  -> trim, text, deduplicate, fill, fill, clip, derive  (does not exist yet)\nsales      orders, customers, products -> join, join, fill  (does not exist yet)",
    "tables": [
        _table("products", 120, 120, inputs=[_source("products", "data/reference.sqlite", 120, 12_288)],
               checks=[_check("unique", "sku")]),
        _table("customers", 4104, 4000, quarantined=1, deduplicated=103,
               inputs=[_source("customers", "data/customers.jsonl", 4104, 498_120)],
               steps=[_step("read customers", 4104, 4103, quarantined=1),
                      _step("resolve region, tier", 4103, 4000, deduplicated=103, notes={"contradictions": 62})],
               rejects=[{"rule": "json", "column": None, "count": 1, "samples": [
                   {"source": "data/customers.jsonl", "line": 2053, "message": "not a JSON object: ends inside a string",
                    "raw": '{"customer_id": 1, "region": "w'}]}],
               passes=[{"steps": ["read"], "ends": "exchange for resolve region, tier",
                        "why": ["resolve region, tier: exchange, rows of equal customer_id must meet"]},
                       {"steps": ["resolve region, tier", "checks", "write"], "ends": "", "why": []}],
               evidence=[{"step": "resolve region, tier", "column": "tier", "policy": "trust", "count": 62, "values": 124,
                          "decided": {"trust": 60, "first": 2}, "samples": [{"key": "17", "chosen": "gold", "values": [
                              {"value": "gold", "origin": "crm", "time": None, "source": "data/customers.jsonl", "line": 4,
                               "decided": None},
                              {"value": "basic", "origin": "shop", "time": "2025-01-02", "source": "data/customers.jsonl",
                               "line": 9, "decided": "trust"}]}]}],
               check_history=[
                   {"version": 4, "time": "2025-11-21T10:45:00+00:00", "checks": [
                       {"name": "unique", "severity": "block", "passed": True, "found": "0 rows"},
                       {"name": "late", "severity": "warn", "passed": False, "found": "3 rows"}]},
                   {"version": 3, "time": "2025-11-20T10:45:00+00:00", "checks": [
                       {"name": "unique", "severity": "block", "passed": False, "found": "2 rows"}]}],
               checks=[_check("unique", "customer_id")]),
        _table("orders", 100_000, 98_680, quarantined=420, deduplicated=900, seconds=1.92, files=12, bytes=2_950_400,
               partition_by=["month"], inputs=[_source("orders", path, rows, rows * 61) for path, rows in _ORDER_FILES],
               steps=[_step("read orders", 100_000, 99_580, quarantined=420), _step("trim", 99_580, 99_580, notes={"trimmed": 7500}),
                      _step("text", 99_580, 99_580), _step("deduplicate order_id", 99_580, 98_680, deduplicated=900),
                      _step("fill unit_price", 98_680, 98_680, notes={"filled unit_price": 1200}),
                      _step("fill discount", 98_680, 98_680, notes={"filled discount": 2000}),
                      _step("clip unit_price", 98_680, 98_680, notes={"outliers unit_price": 300}), _step("derive", 98_680, 98_680)],
               rejects=[
                   {"rule": "range", "column": "quantity", "count": 120, "samples": [
                       {"source": "data/orders-2025-q1.csv", "line": 311, "message": "column 'quantity': -2 is not in [1, 1000]",
                        "raw": "310,2201,2025-01-02 18:01:11,2025-02-01 18:01:11,sku-044,-2,31.20,0.1,web,0"}]},
                   {"rule": "fields", "column": None, "count": 110, "samples": [
                       {"source": "data/orders-2025-q2.csv", "line": 8112, "message": "3 fields, expected 10", "raw": "99012,17,2025-04-02"}]},
                   {"rule": "type", "column": "unit_price", "count": 90, "samples": [
                       {"source": "data/orders-2025-q3.csv", "line": 77, "message": "column 'unit_price': cannot read '19.99 EUR' as float64",
                        "raw": "99201,18,2025-07-01 10:11:12,2025-08-01 10:11:12,sku-001,1,19.99 EUR,0,app,1"}]},
                   {"rule": "type", "column": "ordered_at", "count": 70, "samples": []},
                   {"rule": "null", "column": "order_id", "count": 30, "samples": []}],
               checks=[_check("unique", "order_id"), _check("row_count", None, found="98,680", expected=">= 1"),
                       _check("null_share", "channel", passed=False, severity="warn", found="0.012 %", expected="0 %")],
               profile={"unit_price": _PRICE, "channel": _CHANNEL, "ordered_at": _WHEN}),
        _table("sales", 98_680, 98_600, quarantined=80, seconds=0.8, files=12, bytes=3_402_000, partition_by=["month"],
               inputs=[_table_input("orders", 0, 98_680), _table_input("customers", 0, 4000), _table_input("products", 0, 120)],
               steps=[_step("join customers", 98_680, 98_680, notes={"unmatched": 200}),
                      _step("join products", 98_680, 98_600, quarantined=80), _step("fill region, tier", 98_600, 98_600, notes={"filled region": 200, "filled tier": 200})],
               rejects=[{"rule": "unmatched", "column": "sku", "count": 80, "samples": []}]),
        _table("features", 98_600, 98_600, seconds=0.9, files=3, bytes=9_870_000, partition_by=["split"],
               inputs=[_table_input("sales", 0, 98_600)], steps=[_step("split customer_id", 98_600, 98_600), _step("features", 98_600, 98_600)],
               why=["it does not exist yet", "its input sales has a new version"]),
    ],
    "models": [
        {
            "name": "returns", "status": "trained", "why": ["it does not exist yet"], "table": "features", "version": 0,
            "rows": {"train": 69_020, "validation": 9_860, "test": 19_720}, "features": 30,
            "architecture": ["dense 64 relu", "dropout 0.1", "dense 1"], "parameters": 2049, "loss": "binary_cross_entropy",
            "optimizer": "adam 0.002", "batch": 1024, "shards": 8, "seed": 1, "workers": 2, "seconds": 2.31, "samples_per_s": 151_000.0,
            "history": [{"epoch": at + 1, "loss": loss, "val_loss": val, "seconds": 0.45} for at, (loss, val) in
                        enumerate(((0.634, 0.601), (0.572, 0.545), (0.533, 0.519), (0.516, 0.510), (0.510, 0.507)))],
            "metrics": {"train": {"auc": 0.797, "accuracy": 0.752, "log_loss": 0.506, "base_rate": 0.327},
                        "validation": {"auc": 0.795, "accuracy": 0.75, "log_loss": 0.507, "base_rate": 0.329},
                        "test": {"auc": 0.794, "accuracy": 0.751, "log_loss": 0.506, "base_rate": 0.328}},
            "baselines": [{"name": "prior", "metrics": {"auc": 0.5, "accuracy": 0.672, "log_loss": 0.633}},
                          {"name": "logistic", "metrics": {"auc": 0.567, "accuracy": 0.673, "log_loss": 0.628}}],
            "slices": {"region": [{"value": "north", "auc": 0.801, "accuracy": 0.76, "rows": 12_000},
                                  {"value": "south", "auc": None, "accuracy": 0.74, "rows": 7_720}]},
            "calibrated": {"scale": 0.82, "offsets": [-0.11], "log_loss_before": 0.514, "log_loss_after": 0.507},
            "confusion": [[11_902, 1_350], [3_560, 2_908]], "roc": _ROC,
            "calibration": [{"predicted": 0.05 + 0.1 * at, "observed": 0.04 + 0.098 * at, "rows": 4000 - 400 * at} for at in range(9)],
            "weights_sha256": DIGEST, "restarts": [], "proof": {"workers": 1, "weights_sha256": DIGEST, "identical": True},
            "verdict": "no over-fitting (gap 0.003)", "path": "orders/models/returns/1",
        }
    ],
"ledger": {},
}  # fmt: skip

_COUNTS = ("rows_in", "rows_out", "quarantined", "deduplicated", "filtered", "added")
_DEMO["ledger"] = {key: sum(table[key] for table in _DEMO["tables"]) for key in _COUNTS} | {"balanced": True}
