"""Programs that are frozen start, and find their transports: PyInstaller uses our hooks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mb_broker import RunningBroker

from .conftest import Install
from .installing import PROGRAMS

pytestmark = pytest.mark.wheels


def test_a_frozen_program_finds_every_transport(
    environment_of: Install, tmp_path: Path, mb_broker: RunningBroker
) -> None:
    tools = environment_of("mb-client", "pyinstaller")
    folders = ("--distpath", tmp_path, "--workpath", tmp_path / "work", "--specpath", tmp_path)
    made = tools.call("pyinstaller", "--log-level", "ERROR", *folders, PROGRAMS / "frozen.py")
    assert made.returncode == 0, made.stderr
    urls = [mb_broker.url_of(scheme) for scheme in ("tcp", "ws")]
    done = subprocess.run(
        [tmp_path / "frozen" / "frozen", *urls],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [*["success"] * 3, "200", *["success"] * 2]
