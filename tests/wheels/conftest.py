"""What is built once: the wheels of the workspace, those of the examples, their environments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from .installing import ROOT, Environment, build, install

Install = Callable[..., Environment]


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of each distribution of the workspace."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "--all-packages")
    return folder


@pytest.fixture(scope="session")
def third_parties(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels of the examples that are distributions of their own."""
    folder = tmp_path_factory.mktemp("third-parties")
    for name in ("mb-unix", "mb-log"):
        build(ROOT / "examples" / name, folder, "--wheel")
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def environment_of(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Install:
    """Make an environment with some of the wheels; the same one for the same arguments.

    `beside` are wheels of others that may be asked for, too.
    """
    made: dict[tuple[str | Path, ...], Environment] = {}

    def environment(*requirements: str, beside: Sequence[Path] = ()) -> Environment:
        key = (*requirements, *beside)
        if key not in made:
            folder = tmp_path_factory.mktemp("environment")
            made[key] = install(folder, [*dist.glob("*.whl"), *beside], *requirements)
        return made[key]

    return environment
