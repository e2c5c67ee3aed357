"""The order service runs and drains, and its own tests pass wherever it is copied to."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker

from .programs import EXAMPLES, PATIENCE, started

PEN = {"sku": "pen", "quantity": 3, "price": "1.20"}


def test_it_serves_until_sigterm(mb_broker: FaultyBroker) -> None:
    with (
        started("orders/orders.py", url=mb_broker.url_of("tcp")) as service,
        MessageBrokerClient(mb_broker.url) as client,
    ):
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"
        order = client.request("order.place", {"customer": "Ada", "items": [PEN]}).payload
        assert order == {"id": 1, "customer": "Ada", "items": [PEN], "total": "3.60"}
        assert client.request("order.get", {"id": 1}).payload == order
        service.send_signal(signal.SIGTERM)
        out, err = service.communicate(timeout=PATIENCE)
        assert (service.returncode, out, err) == (-signal.SIGTERM, "", "")


def test_its_tests_pass(tmp_path: Path) -> None:
    project = shutil.copytree(EXAMPLES / "orders", tmp_path / "orders")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    assert "4 passed" in done.stdout
