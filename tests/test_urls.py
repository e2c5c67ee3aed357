"""Where the project lives, as package indexes show it."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest
from scripts import urls as script

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path in script.files():
        copied = tmp_path / path.relative_to(ROOT)
        copied.parent.mkdir(parents=True)
        shutil.copyfile(path, copied)
    return tmp_path


def test_every_package_has_all_of_them(tree: Path) -> None:
    before = {path: tomllib.loads(path.read_text()) for path in script.files(tree)}
    assert script.main(["https://git.example/acme/mb/"], tree) is None
    for path, project in before.items():
        changed = tomllib.loads(path.read_text())
        assert changed["project"].pop("urls") == {
            "Documentation": "https://git.example/acme/mb/blob/main/docs/index.md",
            "Changelog": "https://git.example/acme/mb/blob/main/CHANGELOG.md",
            "Issues": "https://git.example/acme/mb/issues",
            "Source": "https://git.example/acme/mb",
        }
        project["project"].pop("urls", None)
        assert changed == project


def test_an_address_replaces_the_one_before(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["https://git.example/acme/mb"], tree)
    first = [path.read_text() for path in script.files(tree)]
    script.main(["https://git.example/other/mb"], tree)
    script.main([], tree)
    assert capsys.readouterr().out == "https://git.example/other/mb\n"
    script.main(["https://git.example/acme/mb"], tree)
    assert [path.read_text() for path in script.files(tree)] == first


@pytest.mark.parametrize("address", ["git.example/acme/mb", "http://git.example/acme/mb", "x y"])
def test_an_invalid_address_is_refused(address: str, tree: Path) -> None:
    assert script.main([address], tree) == (
        f"{address!r} is not the address of a repository: expected one such as "
        "https://git.example/acme/mb"
    )
