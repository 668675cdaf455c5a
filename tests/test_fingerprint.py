"""What makes a table be built again: what decides its rows, told by name, and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.project import open_project
from flows.session import plan_of
from pipelines import fingerprint
from tests import builds

FILE = """
[sources.s]
kind = "csv"
path = "s.csv"
columns = { x = "float64" }
[tables.t]
source = "s"
steps = [{ do = "fill", columns = ["x"], with = "mean" }]
"""


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the package; what its digest is after one file of it has changed."""
    package = Path(fingerprint.__file__).parent
    copy = shutil.copytree(package, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "__file__", str(copy / "fingerprint.py"))

    def digest(changed=None):
        if changed is not None:
            with (copy / changed).open("a") as file:
                file.write("# changed")
        return fingerprint.code.__wrapped__()

    return digest


@pytest.mark.parametrize(
    "module",
    ["fill.py", "sums.py", "quality.py", "sources/csv.py", "warehouse/file.py", "warehouse/by_group.py"],
)
def test_code_that_decides_what_rows_become_counts(copied, module):
    before = copied()

    assert copied(module) != before


def test_code_that_decides_nothing_of_rows_does_not_count(copied):
    before = copied()

    assert fingerprint.code() == before
    assert {copied(f"{module}.py") for module in fingerprint.NOT_ROWS} == {before}  # each of them is there


@pytest.mark.parametrize("library", [np, pa], ids=["numpy", "pyarrow"])
def test_another_major_version_of_a_library_that_computes_builds_again_and_is_told(
    tmp_path, monkeypatch, library
):
    builds.csv(tmp_path / "s.csv", ("x",), [(1,), (3,)])
    builds.make(tmp_path, FILE)
    major, _, minor = library.__version__.partition(".")

    def planned(version):
        monkeypatch.setattr(library, "__version__", version)
        return plan_of(open_project(tmp_path / "pipeline.toml")).tables["t"]

    assert planned(f"{major}.{minor}.1").current
    other = planned("99.0")
    assert not other.current
    assert other.why == (f"{library.__name__} {major} became 99",)
