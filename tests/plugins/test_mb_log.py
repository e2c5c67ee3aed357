"""examples/mb-log as an installed distribution: its own test, in an environment that has it."""

from __future__ import annotations

import tomllib
from pathlib import Path

from .distributions import Environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "mb-log"


def test_it_passes_its_own_test_where_it_is_installed(environment: Environment) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"mb.observers": {"log": "mb_log"}}
    source = (EXAMPLE / "src" / "mb_log" / "__init__.py").read_text()
    environment.install(project["name"], source, project["version"], observers=["log"])
    done = environment.run("-m", "pytest", "-q", str(EXAMPLE / "tests"))
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_it_is_short() -> None:
    files = [path for path in EXAMPLE.rglob("*") if path.suffix in (".md", ".py", ".toml")]
    assert len(files) == 4
    assert sum(len(path.read_text().splitlines()) for path in files) < 100
