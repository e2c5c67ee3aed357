"""The recipes of docs/recipes-testing.md; tests/wheels has those that need a plugin of others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .pages import files

RECIPES = files("recipes-testing.md")
# The plugin that a recipe uses besides ours, and how many tests pass.
NEEDS = {
    "test_with_anyio.py": (["-p", "anyio"], 2),
    "test_with_unittest.py": ([], 2),
    "test_a_program.py": ([], 1),
    "test_with_a_shared_broker.py": ([], 2),
}
ELSEWHERE = {"test_with_pytest_asyncio.py", "pyproject.toml", "test_with_pytest_trio.py"}


def test_every_recipe_is_run() -> None:
    assert RECIPES.keys() == {"weather.py", *NEEDS, *ELSEWHERE}


@pytest.mark.parametrize("name", NEEDS)
def test_the_recipe_passes(name: str, tmp_path: Path) -> None:
    plugins, passed = NEEDS[name]
    pytest_alone = ("-m", "pytest", "-q", "--disable-plugin-autoload")
    done = run(name, tmp_path, *pytest_alone, "-p", "mb_testing.pytest_plugin", *plugins)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{passed} passed" in done.stdout


def test_the_recipe_for_anyio_runs_in_virtual_time_as_well(tmp_path: Path) -> None:
    in_virtual_time = """

@pytest.mark.virtual_clock
async def test_an_hour() -> None:
    await anyio.sleep(3600)
    assert anyio.current_time() == 3600
"""
    recipe = RECIPES["test_with_anyio.py"].replace(
        "import pytest\n", "import anyio\nimport pytest\n"
    )
    (tmp_path / "weather.py").write_text(RECIPES["weather.py"])
    (tmp_path / "test_both.py").write_text(recipe + in_virtual_time)
    plugins = ("--disable-plugin-autoload", "-p", "mb_testing.pytest_plugin", "-p", "anyio")
    done = execute(tmp_path, "-m", "pytest", "-q", *plugins, "test_both.py")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_unittest_runs_its_recipe_without_pytest(tmp_path: Path) -> None:
    done = run("test_with_unittest.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Ran 2 tests" in done.stderr


def run(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for each in ("weather.py", name):
        (folder / each).write_text(RECIPES[each])
    return execute(folder, *arguments, name)


def execute(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
