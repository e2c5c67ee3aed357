"""The same tree gives the same files: byte for byte, wherever and whenever it is built."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from .installing import DISTRIBUTIONS, ROOT, build, uv

pytestmark = pytest.mark.wheels


def workspace() -> list[Path]:
    """The files of which distributions are built, relative to the root."""
    found = [ROOT / "pyproject.toml", *(ROOT / "packages").rglob("*")]
    return sorted(
        path.relative_to(ROOT)
        for path in found
        if path.is_file() and "__pycache__" not in path.parts and "tests" not in path.parts
    )


def copied(files: list[Path], folder: Path, *, mode: int, time: float) -> Path:
    """The workspace in another place, made in this order, with these permissions and times."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, path)
        path.chmod(mode)
        os.utime(path, (time, time))
    return folder


def sums(folder: Path) -> dict[str, str]:
    files = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_built_twice_alike(tmp_path: Path) -> None:
    files = workspace()
    one = copied(files, tmp_path / "one", mode=0o644, time=1_600_000_000)
    other = copied(files[::-1], tmp_path / "else" / "where", mode=0o600, time=1_700_000_001)
    build(one, tmp_path / "first", "--all-packages", TZ="UTC", LC_ALL="C")
    build(other, tmp_path / "second", "--all-packages", TZ="Asia/Tokyo", LC_ALL="C.UTF-8")
    first = sums(tmp_path / "first")
    assert len(first) == 2 * len(DISTRIBUTIONS)
    assert sums(tmp_path / "second") == first


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_tree(tmp_path: Path) -> None:
    tree = copied(workspace(), tmp_path / "tree", mode=0o644, time=1_600_000_000)
    build(tree, tmp_path / "through", "--all-packages")  # the wheels from the sdists
    build(tree, tmp_path / "direct", "--all-packages", "--wheel")
    direct = sums(tmp_path / "direct")
    assert len(direct) == len(DISTRIBUTIONS)
    through = sums(tmp_path / "through")
    assert direct == {name: through[name] for name in direct}


def test_the_command_of_docs_releasing_md_gives_the_same(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "releasing.md").read_text()
    [command] = re.findall(r"^uv (build .* --out-dir dist)$", page, re.MULTILINE)
    files = [*workspace(), Path("constraints.txt")]
    tree = copied(files, tmp_path / "tree", mode=0o644, time=1_600_000_000)
    uv(*command.split(), cwd=tree)
    build(tree, tmp_path / "other", "--all-packages")
    released = sums(tree / "dist")
    assert len(released) == 2 * len(DISTRIBUTIONS)
    assert released == sums(tmp_path / "other")
