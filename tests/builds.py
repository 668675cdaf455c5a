"""Small pipelines built without the drivers: a pipeline file, text files, and the rows of its tables."""

import hashlib
from pathlib import Path

from flows.project import open_project
from flows.session import plan_of
from pipelines import warehouse
from pipelines.build import build
from pipelines.engine import InProcess
from pipelines.storage import reference

__all__ = ["csv", "digests", "make", "rows", "steps"]


def make(folder, text, runner=None, only=()):
    """Build the tables of a pipeline file; what `build` says of each."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pipeline.toml").write_text(text, "utf-8")
    plan = plan_of(open_project(folder / "pipeline.toml"))

    def newest(name):
        return reference(name, warehouse.Snapshot.open(str(folder / "warehouse" / name)))

    return {
        name: build(one, runner or InProcess(), reference=newest, run="test")
        for name, one in plan.tables.items()
        if not one.current and (not only or name in only)
    }


def rows(folder, name):
    """Rows of a table in the order of its files."""
    return warehouse.Snapshot.open(str(Path(folder) / "warehouse" / name)).read().to_pylist()


def digests(folder, name):
    """What every byte of the files of a table is, in the order of the files; their names are never twice the same."""
    table = Path(folder) / "warehouse" / name
    return [
        hashlib.sha256((table / file.path).read_bytes()).hexdigest()
        for file in warehouse.Snapshot.open(str(table)).files()
    ]


def steps(built):
    """Counts of each step by name, without those that are 0."""
    return {
        step["name"]: {key: value for key, value in step.items() if value and key not in {"name", "notes"}}
        | dict(step["notes"])
        for step in built.steps
    }


def csv(path, header, lines):
    """A CSV file; None is an empty cell."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = ["" if cell is None else str(cell) for line in lines for cell in line]
    width = len(header)
    text = "\n".join(
        [",".join(header), *(",".join(body[at : at + width]) for at in range(0, len(body), width))]
    )
    path.write_text(text + "\n", "utf-8")
