"""The layers of the code: who may import whom, what no package does, how long a file may be."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("pipelines", "dlflow", "flows")
ROOT = Path(__file__).parents[1]
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
MOST_LINES = 350


def imports_of(tree):
    """Every package that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def forbidden(tree):
    """What the file does that no file of ours may do: run text as code, or read what can do so."""
    for package in imports_of(tree):
        if package in {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}:
            yield f"imports {package}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in {"eval", "exec", "os.system", "os.popen", "yaml.load", "__import__"}:
            yield f"line {node.lineno}: calls {name}"
        for keyword in node.keywords:
            if keyword.arg in {"shell", "allow_pickle"} and ast.unparse(keyword.value) != "False":
                yield f"line {node.lineno}: calls {name} with {keyword.arg}"


def imported_by(statement):
    """The foreign packages that a statement brings into a fresh process."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*sorted(set(sys.modules) - before))"
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return {name.partition(".")[0] for name in out.split()} - sys.stdlib_module_names - set(PACKAGES)


def public_modules():
    for package in PACKAGES:
        yield package
        found = importlib.import_module(package)
        for info in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not info.name.rpartition(".")[2].startswith("_"):
                yield info.name


def test_the_import_contracts_hold():
    program = "from importlinter.cli import lint_imports_command as run; run()"
    found = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-2000:]


def test_no_file_runs_text_or_reads_pickles():
    assert {name: found for name, tree in TREES.items() if (found := list(forbidden(tree)))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "subprocess.run(x, shell=y)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_what_is_forbidden_is_found(text):
    assert len(list(forbidden(ast.parse(text)))) == 1


def test_no_file_is_longer_than_a_reader_can_hold():
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in TREES}

    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_prefect_is_known_in_flows_alone():
    assert {
        name
        for name, tree in TREES.items()
        if "prefect" in imports_of(tree) and not name.startswith("flows/")
    } == set()


def test_dlflow_nn_needs_numpy_alone():
    assert imported_by("import dlflow.nn") == {"numpy"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "flows.cli",
            {"prefect", "distributed", "dask", "pandas", "sklearn", "deltalake", "numpy", "pyarrow"},
        ),
        ("flows.run", {"prefect", "distributed", "dask", "sklearn"}),
        ("flows.cluster", {"prefect", "distributed", "dask", "numpy", "pyarrow"}),
        ("flows.server", {"prefect", "uvicorn", "fastapi"}),
        ("pipelines.engine", {"distributed", "dask"}),
    ],
)
def test_what_a_start_does_not_need_is_not_imported(module, heavy):
    assert imported_by(f"import {module}") & heavy == set()


def test_public_names_are_listed_sorted_and_there():
    faults = {}
    for name in public_modules():
        module = importlib.import_module(name)
        own = {
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and getattr(value, "__module__", "") == name
        }
        listed = list(getattr(module, "__all__", []))
        unsorted = listed != sorted(listed, key=lambda key: (not key.isupper(), key[0].islower(), key))
        absent = [key for key in listed if not hasattr(module, key)]
        if unsorted or absent or (own and not listed):
            faults[name] = (
                "not sorted"
                if unsorted
                else f"lists {absent}, which are not there"
                if absent
                else "no __all__"
            )

    assert faults == {}
