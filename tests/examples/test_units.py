"""The systemd units are valid, give services the time they need to drain, and start them."""

from __future__ import annotations

import configparser
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

from .programs import EXAMPLES, PATIENCE, started

DOCS = EXAMPLES.parent / "docs"
UNITS = {
    "orders.service": (EXAMPLES / "orders" / "orders.service").read_text(),
    "mb.service": re.findall(r"```ini\n(.*?)```", (DOCS / "serve.md").read_text(), re.DOTALL)[0],
}


def parsed(unit: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit)
    assert parser["Install"]["WantedBy"] == "multi-user.target"
    return parser["Service"]


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_it(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    # systemd looks for the program, which is not installed on this machine.
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNITS[name], flags=re.M)
    unit = tmp_path / name
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # It also reads the machine's own units, and may complain about those.
    assert name not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    # From 0, what can do nothing, to 100, what root may do.
    threshold = ["--offline=true", "--threshold=25"]
    done = subprocess.run(
        ["systemd-analyze", "security", *threshold, unit],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_service_has_time_to_drain() -> None:
    service = parsed(UNITS["orders.service"])
    program = (EXAMPLES / "orders" / "orders.py").read_text()
    limits = re.findall(r"(?:drain|close)_timeout=([\d_]+)", program)
    assert len(limits) == 2
    needed = sum(int(limit) for limit in limits) / 1000
    assert needed < 10  # what `docker stop` gives it
    assert needed + 5 <= int(service["TimeoutStopSec"])
    assert service["Type"] == "exec"


def test_its_command_serves(mb_broker: FaultyBroker) -> None:
    service = parsed(UNITS["orders.service"])
    interpreter, program = service["ExecStart"].split()
    assert interpreter == "/opt/orders/bin/python"
    environ = dict(entry.split("=", 1) for entry in service["Environment"].split())
    assert environ == {"MB_URL": "tcp://localhost:8081", "PYTHONUNBUFFERED": "1"}
    with (
        started(f"orders/{Path(program).name}", url=mb_broker.url_of("tcp")) as process,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        names = [s["name"] for s in client.request("system.service.list", {}).payload["services"]]
        assert "Orders" in names
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM  # systemd counts this as success
