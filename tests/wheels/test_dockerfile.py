"""The commands of examples/orders/Dockerfile make an environment in which the service runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

from .installing import ROOT

pytestmark = pytest.mark.wheels

FOLDER = ROOT / "examples" / "orders"
# Seconds.  For a machine that is busy, or fetches what it has not got yet.
PATIENCE = 120


def test_its_steps(dist: Path, tmp_path: Path, mb_broker: FaultyBroker) -> None:
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text())
    root = tmp_path / "image"
    (root / "wheels").mkdir(parents=True)
    for pattern in re.findall(r"wheels/(\S+\.whl)", text):
        for wheel in dist.glob(pattern):
            shutil.copy(wheel, root / "wheels")
    shutil.copy(FOLDER / "orders.py", root)

    # The Python of the base image, with pip.
    base = tmp_path / "base"
    subprocess.run([f"{sys.base_prefix}/bin/python3", "-m", "venv", base], check=True)
    pins = re.findall(r"^[\w.-]+==[^ ;]+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    (tmp_path / "pins.txt").write_text("\n".join(pins))
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VIRTUAL_ENV", "PYTHON", "COV_", "COVERAGE_"))
    }
    environ |= {
        "PATH": f"{base / 'bin'}:{environ['PATH']}",
        "PIP_CONSTRAINT": str(tmp_path / "pins.txt"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "MB_URL": mb_broker.url_of("tcp"),
        "PYTHONUNBUFFERED": "1",
    }

    def within(command: str) -> str:
        return command.replace("/venv", f"{root}/venv").replace("/wheels/", f"{root}/wheels/")

    for command in re.findall(r"^RUN (.*)", text, re.MULTILINE):
        done = subprocess.run(
            ["sh", "-ec", within(command)],
            cwd=root,
            env=environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert not (root / "venv" / "bin" / "pip").exists()

    python, program = re.findall(r'"([^"]+)"', re.findall(r"^CMD (.*)", text, re.MULTILINE)[0])
    with (
        subprocess.Popen(
            [within(python), program], cwd=root, env=environ, stdout=subprocess.PIPE, text=True
        ) as service,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
            names = [
                each["name"]
                for each in client.request("system.service.list", {}).payload["services"]
            ]
            assert "Orders" in names
            service.send_signal(signal.SIGTERM)
            assert service.wait(PATIENCE) == -signal.SIGTERM
        finally:
            service.kill()
