"""`dlflow demo` and `dlflow new`: a project of example data that shows the whole mission; nothing is downloaded."""

import os
import shutil
import sys
from importlib.resources import files
from pathlib import Path

from flows.driver import driver
from flows.example import generate
from flows.project import open_project
from flows.run import run_project
from flows.session import Options, plan_of
from flows.terminal import Terminal
from pipelines.errors import SpecError

__all__ = ["demo", "new_project"]

MARK = ".dlflow-demo"  # only a folder with this file is emptied by a later demo


def demo(
    folder: Path, *, rows: int, seed: int, workers: int, prefect: bool, kill_worker: bool, keep: bool
) -> None:
    """Generate, run, prove, report.

    Raises: SpecError if the folder holds something that is not a demo.
    """
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise SpecError(
            f"{folder} is not empty and not a demo of ours, so it is not overwritten; give another --folder"
        )
    if folder.exists() and not keep:
        shutil.rmtree(folder)
    terminal = Terminal()
    terminal.say(
        f"dlflow demo · {workers or 1} {'worker' if workers <= 1 else 'workers'} · {rows:,} orders · ./{folder}"
    )
    options = Options(workers=workers, prove=workers > 0, kill_worker=kill_worker and workers > 0)
    following = (f"cd {folder} && dlflow plan", "dlflow new shop", "dlflow demo --kill-worker")
    if shutil.which("dlflow") is None:  # run by make: the command is in the virtual environment only
        following = (
            f"source {os.path.relpath(Path(sys.executable).parent)}/activate",
            following[0],
            following[2],
        )
    with driver(
        prefect, folder / "prefect"
    ) as chosen:  # a server takes seconds to start: data are made meanwhile
        if not (folder / "pipeline.toml").exists():
            new_project(folder, rows=rows, seed=seed)
        (folder / MARK).touch()
        project = open_project(folder / "pipeline.toml")
        run_project(project, plan_of(project), options, terminal, chosen, following=following)


def new_project(folder: Path, *, rows: int, seed: int) -> None:
    """A pipeline file and example data in a folder.

    Raises: SpecError if there is one already.
    """
    if (folder / "pipeline.toml").exists() or (folder / "data").exists():
        raise SpecError(f"{folder} has a project already; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    generate(folder, rows=rows, seed=seed)
    template = files("flows") / "gallery" / "orders" / "pipeline.toml"
    (folder / "pipeline.toml").write_text(template.read_text("utf-8"), "utf-8")
