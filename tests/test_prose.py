"""scripts/prose.py finds wording that does not read as plain English, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripts import prose

SCRIPT = Path(__file__).parents[1] / "scripts" / "prose.py"


def found(text: str) -> list[Any]:
    return [pattern for _, _, pattern in prose.find(text)]


@pytest.mark.parametrize("pattern", prose.PATTERNS, ids=lambda pattern: pattern.example)
def test_a_pattern_finds_its_example(pattern: Any) -> None:
    assert pattern in found(pattern.example)


@pytest.mark.parametrize("pattern", prose.PATTERNS, ids=lambda pattern: pattern.example)
def test_a_pattern_does_not_find_what_only_looks_like_it(pattern: Any) -> None:
    for text in pattern.right:
        assert found(text) == []


def test_the_words_may_be_on_different_lines(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('"""One.\n\nWhat to do stands\nin it."""\n\n# The payload is no\n# JSON.\n')
    assert lines(file) == [("3", "stands in"), ("6", "is no JSON")]


def test_messages_are_read_as_users_see_them(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text('raise E(\n    f"the payload {payload!r} is "\n    "no JSON"\n)\n')
    assert lines(file) == [("2", "is no JSON")]


def test_code_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("anew = whoever = 1\n")
    assert lines(file) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "One\ntwo, and `on_error`\nis told.\n"),
        ("page.js", "/**\n * What `on_error`\n * is told.\n */\n"),
        ("page.toml", "\n# What `on_error`\n# is told.\n"),
    ],
)
def test_other_files_are_read_whole(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    assert [wording for _, wording in lines(file)] == ["is told"]


def test_the_files_of_the_project_are_checked() -> None:
    names = {path.name for path in prose.tracked()}
    assert {"README.md", "CHANGELOG.md", "noxfile.py", "pyproject.toml"} <= names
    assert SCRIPT.name not in names


def lines(file: Path) -> list[tuple[str, str]]:
    """What the script prints of a file, as line numbers and wordings; its status agrees."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(file)], capture_output=True, text=True, check=False
    )
    rows = []
    for row in result.stdout.splitlines():
        line, wording = row.removeprefix(f"{file}:").split(": ")[:2]
        rows.append((line, wording.strip("'\"")))
    assert result.returncode == (1 if rows else 0)
    assert ("wordings to change" in result.stderr) == bool(rows)
    return rows
