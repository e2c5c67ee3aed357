"""docs/tutorial-transport.md, followed word for word in a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial-transport.md"
EXAMPLE = ROOT / "examples" / "mb-unix"
# What the page installs as published.
PACKAGES = ["mb-core", "mb-broker", "mb-testing"]
# As `python -m uv run nox` and others that uv has started know it.
UV = os.environ.get("UV") or shutil.which("uv")
# Variables that would lead uv to an environment of ours, and change what is in it.
_OURS = (
    "CONDA_PREFIX",
    "PYTHON",
    "UV_INTERNAL",  # the interpreter of `python -m uv`
    "UV_PROJECT",
    "UV_PYTHON",
    "UV_SYSTEM",
    "UV_TARGET",
    "VIRTUAL_ENV",
)


@dataclass
class Block:
    """A fenced block: its language, the file that it is, and its text."""

    language: str
    title: str | None
    text: str


def blocks() -> list[Block]:
    fence = r'^(````?)(\w+)(?: title="([^"]+)")?\n(.*?)^\1$'
    found = re.findall(fence, PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(language, title or None, text) for _, language, title, text in found]


def script(folder: Path) -> str:
    """The page as a program: its files are written and its commands run, in their order."""
    steps = ["set -e"]
    for number, block in enumerate(blocks()):
        if block.title is not None:
            source = folder / f"block{number}"
            source.write_text(block.text)
            steps.append(f"cp '{source}' '{block.title}'")
        elif block.language == "sh":
            steps.append(block.text)
    return "\n".join(steps)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which the packages of this project are published, as they are now."""
    if UV is None:
        pytest.skip("needs uv: pip install uv")
    wheels = tmp_path / "wheels"
    for package in PACKAGES:
        command = [UV, "build", "--quiet", "--wheel", "--package", package, "--out-dir", wheels]
        subprocess.run(command, cwd=ROOT, check=True)
    published = tmp_path / "published.txt"
    published.write_text(
        "".join(
            f"{path.name.partition('-')[0].replace('_', '-')} @ {path.as_uri()}\n"
            for path in wheels.glob("*.whl")
        )
    )
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "uv").symlink_to(UV)
    # uv installs into the environment that the page activates, and into none that ours names.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # The interpreter itself, not the environment around it.
    (commands / "python3").symlink_to(Path(sys.executable).resolve())
    return {
        **outside,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "UV_CONSTRAINT": str(ROOT / "constraints.txt"),
        "UV_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"),
        "UV_OVERRIDE": str(published),
    }


def test_the_page_leads_to_a_transport_that_works(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-c", script(tmp_path)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^=+ \d+ passed.* in [\d.]+s", done.stdout, re.MULTILINE), done.stdout
    [output] = [block.text for block in blocks() if block.text.startswith("1 + 2 + 3 is")]
    assert output in done.stdout
    assert list((folder / "mb-unix" / ".venv").rglob("mb_unix-0.1.0.dist-info"))
    built = sorted(path.name for path in (folder / "mb-unix" / "dist").glob("mb_unix-*"))
    assert built == ["mb_unix-0.1.0-py3-none-any.whl", "mb_unix-0.1.0.tar.gz"]


def test_the_files_of_the_page_are_those_of_the_example() -> None:
    files = {block.title: block.text for block in blocks() if block.title is not None}
    del files["talk.py"]
    kept = [
        path for path in EXAMPLE.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    ]
    assert files == {str(path.relative_to(EXAMPLE)): path.read_text() for path in kept}


def test_the_example_is_short() -> None:
    lines = [
        line
        for block in blocks()
        if block.title not in (None, "talk.py")
        for line in block.text.splitlines()
    ]
    assert len(lines) < 150
