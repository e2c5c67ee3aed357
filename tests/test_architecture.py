"""The picture in docs/architecture.md and the rules that import-linter checks are the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def drawn(name: str) -> list[str]:
    """The layers of a picture: the first column of its lines."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    found = re.search(rf"^```layers {name}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"no picture of {name}"
    column = 40
    return [line[:column].strip() for line in found[1].splitlines()]


def checked(container: str | None) -> list[str]:
    """The layers of the contract that import-linter checks."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    [layers] = [
        contract["layers"]
        for contract in config["contracts"]
        if contract["type"] == "layers"
        and contract.get("containers") == ([container] if container else None)
    ]
    return list(layers)


@pytest.mark.parametrize(("name", "container"), [("packages", None), ("mb_core", "mb_core")])
def test_picture_and_rules_agree(name: str, container: str | None) -> None:
    assert drawn(name) == checked(container)


def test_every_package_is_in_the_picture() -> None:
    sources = {path.name for path in (ROOT / "packages").glob("*/src/*") if path.is_dir()}
    assert set(re.findall(r"mb_\w+", " ".join(drawn("packages")))) == sources


def test_every_module_of_the_core_is_in_the_picture() -> None:
    core = ROOT / "packages" / "mb-core" / "src" / "mb_core"
    modules = {
        path.stem
        for path in core.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(re.findall(r"\w+", " ".join(drawn("mb_core")))) == modules - {"__init__"}
