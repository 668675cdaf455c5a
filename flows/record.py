"""A run record with every part in its place, so that nothing that shows it needs a word about missing parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["COUNTS", "complete"]

COUNTS = dict.fromkeys(("rows_in", "rows_out", "quarantined", "deduplicated", "filtered", "added"), 0)
STEP: dict[str, Any] = {"name": "", **COUNTS, "notes": {}}
INPUT = {"name": "", "kind": "", "path": "", "rows": None, "bytes": None, "version": None, "sha256": None}
SAMPLE = {"source": "", "line": None, "message": "", "raw": ""}
REJECT: dict[str, Any] = {"rule": "", "column": None, "count": 0, "samples": []}
PASS: dict[str, Any] = {"steps": [], "ends": "", "why": []}
VERDICT: dict[str, Any] = {"version": None, "time": "", "checks": []}
CLAIM = {"value": "", "origin": None, "time": None, "source": "", "line": None, "decided": None}
DISPUTE: dict[str, Any] = {
    "step": "",
    "column": "",
    "policy": "",
    "count": 0,
    "values": 0,
    "decided": {},
    "samples": [],
}
CHECK = {"name": "", "column": None, "severity": "block", "passed": False, "found": "", "expected": ""}
COLUMN: dict[str, Any] = {
    "type": "", "rows": 0, "nulls": 0, "min": None, "max": None, "mean": None, "std": None, "distinct": None,
    "histogram": None, "top": [],
}  # fmt: skip
TABLE: dict[str, Any] = {
    "name": "", "status": "", "why": [], "version": None, "seconds": None, **COUNTS, "files": None, "bytes": None,
    "partition_by": [], "steps": [], "inputs": [], "rejects": [], "evidence": [], "checks": [],
    "check_history": [], "passes": [], "profile": {},
}  # fmt: skip
MODEL: dict[str, Any] = {
    "name": "", "status": "", "why": [], "table": None, "version": None, "rows": {}, "features": None,
    "architecture": [], "parameters": None, "loss": None, "optimizer": None, "batch": None, "shards": None, "seed": None,
    "workers": None, "seconds": None, "samples_per_s": None, "history": [], "metrics": {}, "baselines": [],
    "confusion": None, "classes": None, "roc": [], "calibration": [], "weights_sha256": None, "restarts": [],
    "proof": None, "verdict": None, "path": None, "slices": {}, "calibrated": None,
}  # fmt: skip
RECORD: dict[str, Any] = {
    "pipeline": "", "file": "", "run": "", "started": "", "seconds": None, "driver": "", "workers": None,
    "versions": {}, "plan": "", "tables": [], "models": [], "ledger": {},
}  # fmt: skip


def complete(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with what it does not hold as empty, and paths as seen from the folder of the pipeline file."""
    whole = _with(RECORD, record)
    whole["tables"] = [_complete_table(table) for table in whole["tables"]]
    whole["models"] = [_with(MODEL, model) for model in whole["models"]]
    _shorten(whole, f"{Path(whole['file']).parent}/" if whole["file"] else "")
    return whole


def _shorten(whole: dict[str, Any], folder: str) -> None:
    """Paths inside the pipeline's folder lose it: they are read more easily, and tell nothing of the machine."""
    samples = (
        sample for table in whole["tables"] for reject in table["rejects"] for sample in reject["samples"]
    )
    claims = (
        claim
        for table in whole["tables"]
        for dispute in table["evidence"]
        for sample in dispute["samples"]
        for claim in sample["values"]
    )
    inputs = (item for table in whole["tables"] for item in table["inputs"])
    for holder, key in (
        *((one, "source") for one in (*samples, *claims)),
        *((one, "path") for one in (*inputs, *whole["models"])),
    ):
        holder[key] = str(holder[key]).removeprefix(folder) if holder[key] is not None else None
    whole["file"] = str(whole["file"]).removeprefix(folder)


def _complete_table(table: Mapping[str, Any]) -> dict[str, Any]:
    whole = _with(TABLE, table)
    whole["steps"] = [_with(STEP, step) for step in whole["steps"]]
    whole["inputs"] = _merged([_with(INPUT, item) for item in whole["inputs"]])
    whole["checks"] = [_with(CHECK, check) for check in whole["checks"]]
    whole["rejects"] = [_with(REJECT, reject) for reject in whole["rejects"]]
    for reject in whole["rejects"]:
        reject["samples"] = [_with(SAMPLE, sample) for sample in reject["samples"]]
    whole["passes"] = [_with(PASS, one) for one in whole["passes"]]
    whole["check_history"] = [
        _with(VERDICT, {**one, "checks": [_with(CHECK, check) for check in one.get("checks") or []]})
        for one in whole["check_history"]
    ]
    whole["evidence"] = [_with(DISPUTE, dispute) for dispute in whole["evidence"]]
    for dispute in whole["evidence"]:
        dispute["samples"] = [
            {
                "key": sample.get("key"),
                "chosen": sample.get("chosen"),
                "values": [_with(CLAIM, claim) for claim in sample.get("values") or []],
            }
            for sample in dispute["samples"]
        ]
    whole["profile"] = {name: _with(COLUMN, column) for name, column in whole["profile"].items()}
    return whole


def _merged(inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A table that was read from many files is one input; files of sources stay apart, each has its digest."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item in inputs:
        key = (
            item["kind"],
            item["name"],
            item["version"],
            item["path"] if item["kind"] == "source" else None,
        )
        if key not in found:
            found[key] = item if item["kind"] == "source" else {**item, "path": ""}
        elif item["rows"] is not None:
            found[key]["rows"] = (found[key]["rows"] or 0) + item["rows"]
    return list(found.values())


def _with(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, **{key: value for key, value in given.items() if value is not None}}
