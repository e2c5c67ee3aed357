"""The README's first commands, as an ordinary user runs them in a clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .installing import ROOT, clone

pytestmark = [
    pytest.mark.wheels,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


def test_the_first_commands_show_the_demo(tmp_path: Path) -> None:
    commands = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert commands is not None
    assert "mb demo" in commands[1]
    python = Path(sys.base_prefix) / "bin"
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VIRTUAL_ENV", "UV_", "PYTHON", "COV_", "COVERAGE_", "MB_"))
    }
    # A user with an empty home directory, who is in another environment already.
    other = tmp_path / "other"
    subprocess.run([python / "python3", "-m", "venv", "--without-pip", other], check=True)
    environ |= {"HOME": str(tmp_path), "VIRTUAL_ENV": str(other)}
    environ["PATH"] = f"{other / 'bin'}:{python}:/usr/bin:/bin"
    folder = tmp_path / "clone"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-e", "-c", commands[1]],
        cwd=clone(folder),
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "requests  2000 asked, 2000 answered" in done.stdout
    assert "warning" not in (done.stdout + done.stderr).lower()
