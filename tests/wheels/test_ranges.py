"""Packages need each other in a range: a later release that breaks nothing does, others do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .installing import DISTRIBUTIONS, ROOT, Environment, UvError, build, install

pytestmark = pytest.mark.wheels


@pytest.fixture
def versions() -> tuple[str, str]:
    """A later version that is compatible with this one, and the next one that is not."""
    [line] = [
        line
        for line in (ROOT / "packages/mb-core/pyproject.toml").read_text().splitlines()
        if line.startswith("version = ")
    ]
    major, minor, patch = (int(part) for part in line.split('"')[1].split("."))
    breaking = f"0.{minor + 1}.0" if major == 0 else f"{major + 1}.0.0"
    return f"{major}.{minor}.{patch + 7}", breaking


def wheel_of_the_core(version: str, folder: Path) -> Path:
    """mb-core as it is, under another version."""
    source = folder / "mb-core"
    shutil.copytree(ROOT / "packages" / "mb-core", source, ignore=shutil.ignore_patterns("tests"))
    path = source / "pyproject.toml"
    lines = path.read_text().splitlines(keepends=True)
    changed = [f'version = "{version}"\n' if x.startswith("version = ") else x for x in lines]
    path.write_text("".join(changed))
    build(source, folder, "--wheel")
    [wheel] = folder.glob("mb_core-*.whl")
    return wheel


def installed_with(core: str, name: str, dist: Path, folder: Path) -> Environment:
    """An environment with `name`, and mb-core in another version."""
    wheels = [wheel for wheel in dist.glob("*.whl") if not wheel.name.startswith("mb_core-")]
    return install(folder, [*wheels, wheel_of_the_core(core, folder)], name)


def test_a_later_core_that_breaks_nothing_does_for_all(
    dist: Path, tmp_path: Path, versions: tuple[str, str]
) -> None:
    compatible, _ = versions
    environment = installed_with(compatible, "mb-tools", dist, tmp_path)
    say = "import importlib.metadata; print(importlib.metadata.version('mb-core'))"
    assert environment.call("python", "-c", say).stdout == f"{compatible}\n"
    environment.run("everything.py")


@pytest.mark.parametrize("name", [name for name in DISTRIBUTIONS if name != "mb-core"])
def test_a_core_that_may_break_it_is_refused_by_each(
    name: str, dist: Path, tmp_path: Path, versions: tuple[str, str]
) -> None:
    _, breaking = versions
    with pytest.raises(UvError, match=rf"{name}==\S+ depends on mb-core>="):
        installed_with(breaking, name, dist, tmp_path)
