"""One version for everything, from one place, and the page about releasing."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import version as script

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "releasing.md").read_text()
DISTRIBUTIONS = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all that the script reads and writes."""
    for path in [*script.files(), ROOT / "CHANGELOG.md"]:
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    return tmp_path


def test_every_file_says_the_version_and_the_range_of_the_root() -> None:
    version = script.workspace_version()
    for path in script.files():
        wanted = script.rewritten(path, version)
        assert path.read_text() == wanted, f"{path}: run nox -s version -- {version}"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_installed_has_it(name: str) -> None:
    assert importlib.metadata.version(name) == script.workspace_version()


def test_the_command_says_it() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "mb_tools", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"mb, version {script.workspace_version()}\n"


def test_the_changelog_begins_with_it() -> None:
    sections = re.findall(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == script.workspace_version()


@pytest.mark.parametrize(
    ("version", "range_of_it"),
    [
        ("0.1.0", ">=0.1,<0.2"),
        ("0.1.3", ">=0.1.3,<0.2"),
        ("0.2.0rc1", ">=0.2.0rc1,<0.3"),
        ("1.0.0", ">=1.0,<2"),
        ("1.4.2", ">=1.4.2,<2"),
    ],
)
def test_a_range_ends_before_what_may_break(version: str, range_of_it: str) -> None:
    assert script.compatible(version) == range_of_it


def test_a_new_version_is_written_everywhere_and_nothing_else_is(tree: Path) -> None:
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("\n## ", "\n## 7.8.9 (2031-01-01)\n\n## ", 1)
    )
    before = {path: path.read_text() for path in script.files(tree)}
    old, old_range = script.workspace_version(tree), script.compatible(script.workspace_version())
    assert script.main(["7.8.9"], tree) is None
    assert script.workspace_version(tree) == "7.8.9"
    for path, text in before.items():
        changed = path.read_text()
        if path.name == "pyproject.toml" and "examples" not in path.parts:
            assert changed.count('version = "7.8.9"') == 1
            text = text.replace(f'version = "{old}"', 'version = "7.8.9"', 1)
        assert changed == text.replace(f'{old_range}"', '>=7.8.9,<8"')
    # And back again.
    assert script.main([old], tree) is None
    assert {path: path.read_text() for path in before} == before


def test_a_version_without_a_section_in_the_changelog_is_refused(tree: Path) -> None:
    refused = script.main(["9.9.9"], tree)
    assert refused == ("CHANGELOG.md has no section '## 9.9.9 (...)': describe the changes first")


@pytest.mark.parametrize("arguments", [["1"], ["v0.2.0"], ["0.2.0", "0.3.0"], ["0.2"]])
def test_an_invalid_version_is_refused(arguments: list[str], tree: Path) -> None:
    refused = script.main(arguments, tree)
    assert (
        refused == f"{' '.join(arguments)!r} is not a version: expected three numbers, as in 0.2.0"
    )


# The page


def test_the_sessions_of_the_page_and_of_contributing_exist() -> None:
    noxfile = (ROOT / "noxfile.py").read_text()
    there = set(re.findall(r"^def (\w+)\(session", noxfile, re.MULTILINE))
    for text in (PAGE, (ROOT / "CONTRIBUTING.md").read_text()):
        for names in re.findall(r"nox -s ((?:[a-z]+ ?)+)", text):
            assert set(names.split()) <= there, names


def test_the_page_names_every_distribution() -> None:
    listed = re.search(r"^```distributions\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == DISTRIBUTIONS


def test_who_is_needed_comes_before_who_needs_it() -> None:
    listed = re.search(r"^```distributions\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert listed is not None
    order = listed[1].split()
    for name in order:
        for need in importlib.metadata.requires(name) or []:
            needed = re.match(r"[\w-]+", need)
            assert needed is not None
            if needed[0] in order:
                assert order.index(needed[0]) < order.index(name), f"{name} needs {needed[0]}"
