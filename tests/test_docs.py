"""Every Python example in the README and the documentation runs, and is what it seems."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "packages").glob("*/README.md")),
    *sorted((ROOT / "examples").glob("**/README.md")),
]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def example_programs() -> list[str]:
    """The programs of examples/ without their docstrings; test_examples.py runs them."""
    programs = []
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text()
        tree = ast.parse(text)
        if ast.get_docstring(tree) is not None:
            text = "".join(text.splitlines(keepends=True)[tree.body[0].end_lineno :]).lstrip()
        programs.append(text)
    return programs


CASES = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page), 1)
]


def test_there_are_examples() -> None:
    assert len(CASES) >= 5


@pytest.mark.parametrize("block", CASES)
def test_example_runs(block: str, tmp_path: Path) -> None:
    if block in example_programs():
        return  # run by test_examples.py, which this finding ties to the page
    path = tmp_path / "test_example.py"
    path.write_text(block)
    runner = ["-m", "pytest", "-q"] if "def test_" in block else []
    done = subprocess.run(
        [sys.executable, "-W", "error", *runner, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_service_and_client_of_the_readme_are_short() -> None:
    programs = [block for block in blocks(ROOT / "README.md") if block in example_programs()]
    assert len(programs) == 2
    for program in programs:
        lines = [line for line in program.splitlines() if line.strip()]
        assert len(lines) <= 15


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), f"{page}: {target}"
