"""What was fitted lies beside the table: named by the commit, of that very version, and not in the log."""

import os
import pickle
import time
from pathlib import Path

import pytest

from pipelines import access
from pipelines.engine import InProcess, OnDask
from pipelines.errors import PartFailed
from pipelines.places import StorePath
from pipelines.warehouse import Snapshot, fitted_of, log, maintain, pin, replace, restore
from pipelines.warehouse.by_group import ByGroup, read_groups
from pipelines.warehouse.fitted import file_groups, prune_fitted
from tests import builds
from tests.strategies import told
from tests.warehouse_tables import SCHEMA, file, lineage, put

COLUMNS = {"schema": SCHEMA, "partition_by": ["day"]}


@pytest.fixture
def uri(tmp_path):
    return str(tmp_path / "t")


def build(uri, key, label=None):
    """A version that has fitted something of a group with this label."""
    said = (
        {} if label is None else {"fill x": {"all": {"x": 1.5}, "groups": {"x": ByGroup.of([label], [0.5])}}}
    )
    replace(uri, [file(uri, [1])], key=key, lineage=lineage(key, fitted=said), **COLUMNS)


def fitted(uri, version=None):
    return told(fitted_of(Snapshot.open(uri, version)))


def of(label):
    return {"fill x": {"all": {"x": 1.5}, "groups": {"x": {label: [0.5]}}}}


def files(uri):
    return sorted(path.name for path in Path(uri).parent.glob("_dlflow/fitted/*"))


def test_a_version_has_the_values_that_its_rows_were_made_with(uri):
    build(uri, "a", "Ulm")
    build(uri, "b", "Bonn")
    put(uri, [2], "rows")
    build(uri, "c")

    assert [fitted(uri, version) for version in range(4)] == [of("Ulm"), of("Bonn"), of("Bonn"), {}]
    assert fitted(uri) == {}


def test_the_log_names_the_steps_and_no_value(uri):
    build(uri, "a", "Ulm")

    said = b"".join(path.read_bytes() for path in Path(uri, "_delta_log").iterdir())
    assert b"fill x" in said
    assert b"Ulm" not in said
    assert len(files(uri)) == 2


def test_the_values_of_a_restored_version_are_back(uri):
    build(uri, "a", "Ulm")
    build(uri, "b", "Bonn")
    build(uri, "c")

    restore(uri, 0, key="back", lineage=lineage(), runner=InProcess())
    assert fitted(uri) == of("Ulm")
    restore(uri, 2, key="forth", lineage=lineage(), runner=InProcess())
    assert fitted(uri) == {}


def test_they_are_there_when_the_log_has_forgotten_the_build(uri):
    build(uri, "a", "Ulm")
    for number in range(12):
        put(uri, [number + 2], f"k{number}")
    log.checkpoint(uri)
    age(Path(uri, "_delta_log"), days=91)
    assert log.clean(uri) > 0

    assert not log.entry_path(uri, 0).exists()
    assert fitted(uri) == of("Ulm")


def test_the_same_values_are_written_once_and_a_damaged_file_is_written_again(uri):
    build(uri, "a", "Ulm")
    (groups,) = Path(uri).parent.glob("_dlflow/fitted/*.parquet")
    groups.write_bytes(b"half")
    with pytest.raises(
        PartFailed, match="what was fitted by group is damaged; restore it from a copy, or build"
    ):
        fitted(uri)

    build(uri, "b", "Ulm")
    assert len(files(uri)) == 2
    assert fitted(uri) == of("Ulm")


def test_what_is_gone_is_told(uri):
    build(uri, "a", "Ulm")
    for path in Path(uri).parent.glob("_dlflow/fitted/*.json"):
        path.unlink()

    with pytest.raises(
        PartFailed,
        match=r"what was fitted cannot be read .*; restore it from a copy, or build the table again",
    ):
        fitted(uri)


def test_upkeep_takes_what_is_old_and_neither_of_the_newest_nor_of_a_pinned_version(uri):
    for key, label in (("a", "Ulm"), ("b", "Bonn"), ("c", "Kiel")):
        build(uri, key, label)
    root = str(Path(uri).parent)
    pin(root, "t", 1, holder="model")
    before = set(files(uri))
    assert prune_fitted(uri) == 0

    age(Path(root, "_dlflow", "fitted"), days=91)
    maintain(root, ["t"], runner=InProcess())

    assert (len(before), len(files(uri))) == (6, 4)
    assert [fitted(uri, version) for version in (1, 2)] == [of("Bonn"), of("Kiel")]


def test_a_task_carries_the_name_of_the_file_and_not_its_groups(uri):
    groups = ByGroup.of([f"{number:06d}" for number in range(50_000)], list(range(50_000)))

    filed = file_groups(uri, {"x": groups})

    assert len(pickle.dumps(filed)) < 500
    assert pickle.loads(pickle.dumps(filed))["x"].table.equals(groups.table)  # noqa: S301 - our own bytes


def test_in_a_store_they_are_objects_beside_the_table(store, bucket):
    root = f"s3://{bucket}/tables"
    access.mount(root, store.storage)
    try:
        for key, label in (("a", "Ulm"), ("b", "Bonn"), ("c", "Ulm")):
            build(f"{root}/t", key, label)
        (groups, *_) = sorted(StorePath(f"{root}/_dlflow/fitted").glob("*.parquet"))
        groups.unlink()
        build(f"{root}/t", "d", "Ulm")
        build(f"{root}/t", "e", "Bonn")
        read_groups.cache_clear()

        assert [fitted(f"{root}/t", version) for version in (0, 1, 4)] == [of("Ulm"), of("Bonn"), of("Bonn")]
        assert len(list(StorePath(f"{root}/_dlflow/fitted").glob("*"))) == 4
    finally:
        access._mounted.pop(root)


FILE = """
[sources.{name}]
kind = "csv"
path = "{name}.csv"
columns = {{ g = "string", x = "float64" }}
[tables.{name}]
source = "{name}"
{more}
steps = [{{ do = "fill", columns = ["x"], with = "median", by = ["g"] }}]
"""


def test_values_by_group_are_taken_over_from_another_table_as_a_file_of_its_own(tmp_path, local_cluster):
    builds.csv(tmp_path / "old.csv", ("g", "x"), [("a", 1), ("a", 3), ("b", 7), ("b", None)])
    builds.csv(tmp_path / "new.csv", ("g", "x"), [("a", None), ("b", None), ("c", None), ("c", 5)])
    text = FILE.format(name="old", more="") + FILE.format(name="new", more='fitted_from = "old"')

    builds.make(tmp_path, text, OnDask(local_cluster))
    for path in tmp_path.rglob("_dlflow/fitted/old-*"):
        path.unlink()

    assert [row["x"] for row in builds.rows(tmp_path, "new")] == [2.0, 7.0, 3.0, 5.0]
    (uri,) = tmp_path.rglob("new/_delta_log")
    groups = fitted(str(uri.parent))["fill x"]["groups"]
    assert groups == {"x": {"a": [2.0], "b": [7.0]}}


def age(folder, *, days):
    then = time.time() - days * 24 * 3600
    for path in folder.iterdir():
        os.utime(path, (then, then))
