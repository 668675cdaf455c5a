"""What is true of the repository as a whole: its text, its lock, its documents."""

import os
import pwd
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HERE = [
    re.escape(f"{folder}/")
    for folder in (pwd.getpwuid(os.getuid()).pw_dir, ROOT.parent)
    if str(folder) != "/"
]
PRIVATE = re.compile(
    "|".join(
        [r"/(?:home|Users)/(?!you\b|user\b)\w+", r"(?:index|find-links)[-_]?(?:url)?\s*[=:]\s*\S*/", *HERE]
    )
)
"""A home, a folder of this machine, the address of a package index."""
LOCKED = re.compile(
    r"^(?P<name>[\w.-]+)==(?P<version>[^ ;]+)(?P<marker> ; [^\\\n]*?)? ?\\?\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)",
    re.MULTILINE,
)


def texts():
    """Every text file that is, or will be, part of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        try:
            yield name, (ROOT / name).read_text(encoding="utf-8")
        except (
            UnicodeDecodeError,
            FileNotFoundError,
            IsADirectoryError,
        ):  # an image; deleted, not yet committed
            continue


def locked():
    return list(LOCKED.finditer((ROOT / "requirements.lock").read_text(encoding="utf-8")))


def test_no_file_names_a_folder_of_someone_or_a_registry():
    found = {
        name: line.strip()[:120]
        for name, text in texts()
        if name != "tests/test_repository.py"
        for line in text.splitlines()
        if PRIVATE.search(line)
    }

    assert found == {}


def test_every_package_of_the_lock_has_a_hash():
    lines = [
        line for line in (ROOT / "requirements.lock").read_text().splitlines() if re.match(r"[\w.-]+==", line)
    ]

    assert len(locked()) == len(lines) > 100
    assert [match["name"] for match in locked() if not match["hashes"]] == []


def test_the_lock_has_what_the_project_declares_within_its_bounds():
    groups = PROJECT["dependency-groups"]
    declared = [
        *PROJECT["project"]["dependencies"],
        *(name for group in groups.values() for name in group if isinstance(name, str)),
        *(name for extra in PROJECT["project"]["optional-dependencies"].values() for name in extra),
        *PROJECT["build-system"]["requires"],
    ]
    pinned = {}
    for match in locked():
        pinned.setdefault(canonicalize_name(match["name"]), []).append(Version(match["version"]))

    for requirement in map(Requirement, declared):
        versions = pinned.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not in requirements.lock: make lock"
        assert all(version in requirement.specifier for version in versions), f"{requirement}: make lock"


def test_the_changelog_has_a_place_for_the_next_change():
    assert re.search(r"^## \[?Unreleased", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_make_targets_that_documents_name_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        named = set(
            re.findall(
                r"\bmake ([a-z]+)`|^\s*(?:\$ )?make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE
            )
        )
        assert {one or other for one, other in named} <= targets, path.name


def test_the_commands_that_documents_name_exist():
    listed = subprocess.run(
        [sys.executable, "-m", "flows.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    commands = set(re.findall(r"^  ([a-z]+)  ", listed.stdout.partition("Commands:")[2], re.MULTILINE))
    for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]:
        named = set(
            re.findall(r"(?:^|[`$&]) ?dlflow ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert named <= commands, f"{path.name}: {named - commands}"


@pytest.mark.parametrize("document", ["LICENSE", "README.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")

    for link in re.findall(r"\]\(((?!https?:|#|mailto:)[^)#]+)", text):
        assert (ROOT / link).exists(), f"{document} points to {link}"


def test_the_pipeline_file_in_the_readme_is_a_good_one(tmp_path):
    from flows.project import open_project

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "pipeline.toml").write_text(
        re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1], encoding="utf-8"
    )

    project = open_project(tmp_path / "pipeline.toml")

    assert list(project.pipeline.tables) == ["orders", "features"]


@pytest.mark.parametrize("document", ["ingest", "remote", "sources"])
def test_the_pipeline_files_in_the_documents_on_sources_are_good_ones(tmp_path, monkeypatch, document):
    from pipelines import spec

    for name in ("SHOP_PASSWORD", "STORE_KEY", "STORE_SECRET"):
        monkeypatch.setenv(name, "x")
    text = (ROOT / "docs" / f"{document}.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)

    for number, example in enumerate(examples):
        path = tmp_path / f"{number}.toml"
        path.write_text(example, encoding="utf-8")
        assert spec.load(path)
    assert examples


def test_every_setting_of_sources_columns_and_stores_is_in_the_documents():
    from pipelines.schema import Field
    from pipelines.sources import Source
    from pipelines.stores import Storage

    text = "".join(
        (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("sources", "remote", "ingest")
    )
    inner = {"storage", "evolved"}  # made by the program itself

    for settings in (Source, Field, Storage):
        for one in fields(settings):
            assert one.name in inner or re.search(rf"`{one.name}`|\b{one.name} = ", text), one.name


def test_the_readme_names_every_step_check_layer_and_command():
    from dlflow.nn.spec import LAYERS, LOSSES, OPTIMIZERS
    from flows.cli import cli
    from pipelines.spec import STEPS

    text = (ROOT / "README.md").read_text(encoding="utf-8")

    for name in (*STEPS, *LAYERS, *LOSSES, *OPTIMIZERS):
        assert f"`{name}`" in text, name
    for name in cli.commands:
        assert f"dlflow {name}" in text, name
