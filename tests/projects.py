"""Small projects that tests run, and what can be said of a warehouse without knowing how it was made."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc

from flows.demo import new_project
from flows.driver import driver
from flows.project import open_project
from flows.run import run_project
from flows.session import Options, plan_of
from flows.terminal import Terminal
from pipelines import warehouse

REPOSITORY = Path(__file__).parents[1]
TABLES = ("products", "customers", "orders", "sales", "features")


def make(folder, *, rows=3000, seed=5):
    """A project of example data."""
    folder = Path(folder)
    new_project(folder, rows=rows, seed=seed)
    file = folder / "pipeline.toml"
    text = (
        file.read_text("utf-8")
        .replace('baselines = ["prior", "logistic"]', 'baselines = ["prior"]')
        .replace("batch = 1024", "batch = 128")
    )
    file.write_text(text, "utf-8")
    return folder


def run(folder, *, workers=0, prefect=False, values=None, **options):
    """Run in this process; the record. `values` as of `--set`."""
    project = open_project(Path(folder) / "pipeline.toml", values)
    with driver(prefect, Path(folder) / "prefect") as chosen:
        return run_project(
            project, plan_of(project), Options(workers=workers, **options), Terminal(io.StringIO()), chosen
        )


def command(folder, *arguments, **environment):
    """`dlflow ...` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def content(folder, name):
    """Rows of a table in the order of its files, vectors included."""
    return warehouse.Snapshot.open(str(Path(folder) / "warehouse" / name)).read().to_pylist()


def quarantined(folder, name):
    """Rejects of a table, without what differs from run to run."""
    table = warehouse.read_quarantine(str(Path(folder) / "warehouse" / name)).drop_columns(["run", "batch"])
    names = pc.replace_substring(table["source"], str(folder), "")
    table = table.set_column(table.schema.get_field_index("source"), "source", names)
    return sorted(
        table.drop_columns(["source"] if name in {"sales", "features"} else []).to_pylist(), key=str
    )


def disputed(folder, name):
    """Evidence of a table, without what differs from run to run."""
    table = warehouse.read_evidence(str(Path(folder) / "warehouse" / name))
    return sorted(table.drop_columns(["run", "batch", "source", "about"]).to_pylist(), key=str)


def ledger(folder):
    """Rows of the ledger table by table and step."""
    rows = warehouse.Snapshot.open(str(Path(folder) / "warehouse" / "_dlflow" / "ledger")).read().to_pylist()
    keys = ("table", "step", "rows_in", "added", "rows_out", "quarantined", "deduplicated", "filtered")
    return sorted(tuple(row[key] for key in keys) for row in rows)


def everything(folder):
    """All that readers can see, for comparison with another warehouse."""
    return {
        name: (content(folder, name), quarantined(folder, name), disputed(folder, name)) for name in TABLES
    }
