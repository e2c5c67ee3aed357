"""What a distribution holds: the package, its types and its licence, and nothing of the tests."""

from __future__ import annotations

import re
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from .installing import DISTRIBUTIONS, ROOT

pytestmark = [
    pytest.mark.wheels,
    pytest.mark.parametrize("name", DISTRIBUTIONS),
]


@pytest.fixture
def wheel(dist: Path, name: str) -> Path:
    [found] = dist.glob(f"{name.replace('-', '_')}-*.whl")
    return found


def test_a_wheel_has_every_file_of_the_package_and_no_other(wheel: Path, name: str) -> None:
    source = ROOT / "packages" / name / "src"
    expected = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as opened:
        held = {entry for entry in opened.namelist() if not entry.endswith("/")}
        about = {entry for entry in held if ".dist-info/" in entry}
    assert held - about == expected
    assert f"{name.replace('-', '_')}/py.typed" in held
    assert any(entry.endswith("/licenses/LICENSE") for entry in about)


def test_its_metadata_says_what_a_user_has_to_know(wheel: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as opened:
        [path] = [entry for entry in opened.namelist() if entry.endswith("/METADATA")]
        metadata = message_from_bytes(opened.read(path))
    assert metadata["Name"] == name
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Summary"]
    description = metadata.get_payload()  # the README, as package indexes show it
    assert description.strip()
    assert not re.findall(r"\]\((?!https://)[^)]*\)", description)  # they would lead nowhere
    # What is installed by an address of ours would not be found by anybody else.
    assert not [need for need in metadata.get_all("Requires-Dist", []) if "@" in need]


def test_an_sdist_can_be_built_and_has_no_more(dist: Path, name: str) -> None:
    [sdist] = dist.glob(f"{name.replace('-', '_')}-*.tar.gz")
    with tarfile.open(sdist) as opened:
        tops = {"/".join(entry.split("/")[1:2]) for entry in opened.getnames()}
    expected = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "src"}
    assert tops - {"", "pyproject.toml.orig"} == expected  # .orig: newer uv_build
