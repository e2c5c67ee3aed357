"""The commands of docs/installing.md, each as a user with an empty home directory runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .installing import ROOT

pytestmark = pytest.mark.wheels

PAGE = (ROOT / "docs" / "installing.md").read_text()
SECTIONS = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##)", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The variables of a user who has nothing but Python and uv."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "python3").symlink_to(Path(sys.executable).resolve())
    (commands / "uv").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m uv "$@"\n')
    (commands / "uv").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    ours = ("VIRTUAL_ENV", "UV_", "PYTHON", "COV_", "COVERAGE_", "MB_", "PIP_FIND_LINKS")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = f"{home}/.local/bin:{commands}:/usr/bin:/bin"
    return outside | {"HOME": str(home), "PATH": path, "UV_PYTHON_DOWNLOADS": "never"}


def run(script: str, folder: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-e", "-c", script],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def repository(folder: Path) -> Path:
    """Make a Git repository of what git tracks here, with the changes that are not committed."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (("init", "-q"), ("add", "--all"), (*identity, "commit", "-q", "-m", "All")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_the_wheels_are_built(environ: dict[str, str], tmp_path: Path) -> None:
    [commands] = re.findall(r"```sh\n(.*?)```", PAGE.split("## In a project")[0], re.DOTALL)
    folder = repository(tmp_path / "clone")
    run(commands, folder, environ)
    wheels = sorted(path.name.partition("-")[0] for path in (folder / "wheels").glob("*.whl"))
    assert wheels == sorted(path.name.replace("-", "_") for path in ROOT.glob("packages/*"))


# Eight clones and builds take most of a minute: only what it names is checked.
BY_HAND = "From Git, with pip"


def test_pip_is_given_every_package() -> None:
    named = re.findall(r"subdirectory=packages/([\w-]+)", SECTIONS[BY_HAND])
    assert sorted(named) == sorted(path.name for path in ROOT.glob("packages/*"))


@pytest.mark.parametrize("section", [name for name in SECTIONS if name != BY_HAND])
def test_a_project_is_installed(
    section: str, dist: Path, environ: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "shop"
    (folder / "wheels").mkdir(parents=True)
    for wheel in dist.glob("*.whl"):
        shutil.copy2(wheel, folder / "wheels")
    text = SECTIONS[section]
    if "git.example" in text:
        url = repository(tmp_path / "mb.git").as_uri()
        text = text.replace("https://git.example/mb.git", url)
    for language, title, body in re.findall(
        r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', text, re.DOTALL | re.MULTILINE
    ):
        if title:
            (folder / title).write_text(body)
        elif language == "sh":
            run(body, folder, environ)
    bin_folder = folder / ".venv" / "bin"
    command = bin_folder / "mb" if bin_folder.exists() else "mb"
    assert run(f"{command} --version", folder, environ).startswith("mb, version ")
    if bin_folder.exists():
        program = "import mb_client, mb_sync, mb_testing, mb_tcp, mb_ws; print('ok')"
        assert run(f'{bin_folder}/python -c "{program}"', folder, environ) == "ok\n"


def test_debian_refuses_as_the_page_says(tmp_path: Path) -> None:
    if not list(Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED")):
        pytest.skip("this is neither Debian nor Ubuntu")
    command = ["/usr/bin/python3", "-m", "pip", "install", "--no-index", "mb-client"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "No module named pip" in done.stderr:
        pytest.skip("Debian's pip is not installed")
    [shown] = re.findall(r"```text\n(error.*?)```", PAGE, re.DOTALL)
    assert done.stderr.startswith(shown)
