"""A prefix for the names of the distributions: what is built and installed then."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from .installing import ROOT, Environment, build, clone, install

pytestmark = [
    pytest.mark.wheels,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


def apply(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script of `tree`, as `nox -s prefix` does."""
    command = [sys.executable, "scripts/prefix.py", *arguments]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the workspace whose distributions have the prefix acme-."""
    folder = clone(tmp_path_factory.mktemp("tree"))
    for command in (["init", "--quiet"], ["add", "--all", "--force"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    done = apply(folder, "acme-")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheels(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("prefixed")
    build(tree, folder, "--all-packages", "--wheel")
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def tools(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with `mb`, and what it declares."""
    return install(tmp_path_factory.mktemp("environment"), wheels, "acme-mb-tools")


def test_every_distribution_has_it_and_needs_the_others_by_it(wheels: list[Path]) -> None:
    found = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            [path] = [entry for entry in opened.namelist() if entry.endswith("/METADATA")]
            metadata = message_from_bytes(opened.read(path))
        found[metadata["Name"]] = metadata.get_all("Requires-Dist", [])
    folders = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert set(found) == {f"acme-{name}" for name in folders}
    needs = [need for each in found.values() for need in each]
    assert not [need for need in needs if need.startswith("mb-")]
    assert [need for need in found["acme-mb-client"] if re.match(r"acme-mb-core\W*>=", need)]


def test_the_command_and_the_imports_are_as_ever(tools: Environment) -> None:
    assert {"acme-mb-tools", "acme-mb-client", "acme-mb-core"} <= tools.installed()
    shown = tools.call("mb", "--version")
    assert (shown.returncode, shown.stderr) == (0, "")
    demo = tools.call("mb", "demo")
    assert demo.returncode == 0, demo.stderr
    assert "requests  2000 asked, 2000 answered" in demo.stdout


def test_remedies_in_errors_have_it(tools: Environment, wheels: list[Path], tmp_path: Path) -> None:
    missing = tools.call("mb", "top")
    assert "pip install 'acme-mb-tools[top]'" in missing.stderr
    core = install(tmp_path, wheels, "acme-mb-core")
    assert core.run("refused.py", "connect", "tcp://localhost") == (
        "PluginError: tcp:// needs the package acme-mb-tcp: pip install acme-mb-tcp\n"
    )


def test_names_within_paths_and_of_third_parties_stay(tree: Path) -> None:
    noxfile = (tree / "noxfile.py").read_text()
    assert noxfile == (ROOT / "noxfile.py").read_text()
    project = (tree / "examples" / "mb-unix" / "pyproject.toml").read_text()
    assert 'name = "mb-unix"' in project
    assert '"acme-mb-core>=' in project


def test_a_second_prefix_and_an_invalid_one_are_refused(tree: Path) -> None:
    second = apply(tree, "other-")
    assert second.returncode == 1
    assert second.stderr == (
        "the distributions have a prefix already (acme-mb-broker): start from a clean checkout\n"
    )
    for invalid in ("acme", "Acme-", "-", "a b-", ""):
        refused = apply(tree, invalid)
        assert refused.returncode == 1
        assert f"{invalid!r} is not a prefix: expected lower-case letters" in refused.stderr
