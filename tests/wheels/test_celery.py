"""The tasks in docs/frameworks.md run in the workers of Celery's default pool."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from mb_sync import MessageBrokerClient
from mb_testing import FaultyBroker, wait_until

from .conftest import Install
from .installing import ROOT

pytestmark = pytest.mark.wheels

PAGE = ROOT / "docs" / "frameworks.md"
# Instead of Redis, folders: they need no server.
FOLDERS = """
app.conf.broker_transport_options = {
    "data_folder_in": "FOLDER/queue",
    "data_folder_out": "FOLDER/queue",
    "control_folder": "FOLDER/control",
}
app.conf.result_backend = "file://FOLDER/results"
"""
ASK = 'import tasks; print(tasks.report.delay("Oslo").get(timeout=60))'


def test_tasks(
    environment_of: Install,
    mb_broker: FaultyBroker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [program] = re.findall(r'```python title="tasks.py"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    for old, new in [
        ("redis://localhost", "filesystem://"),
        ("tcp://localhost:8081", mb_broker.url_of("tcp")),
    ]:
        assert old in program
        program = program.replace(old, new)
    for folder in ("queue", "control", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks.py").write_text(program + FOLDERS.replace("FOLDER", str(tmp_path)))
    monkeypatch.chdir(tmp_path)

    environment = environment_of("mb-sync", "mb-tcp", "celery")
    reports: list[object] = []
    with MessageBrokerClient(mb_broker.url) as service:
        service.subscribe("weather.current", action="request", handler=lambda m: {"degrees": 3})
        service.subscribe("report.written", handler=lambda m: reports.append(m.payload))
        worker = ("-A", "tasks", "worker", "--concurrency", "2")
        with environment.started("celery", *worker) as celery:
            asked = environment.call("python", "-c", ASK)
            assert asked.stdout == "{'degrees': 3}\n", asked.stderr
            wait_until(lambda: reports == [{"city": "Oslo"}])
            connected = mb_broker.connections
            celery.send_signal(signal.SIGTERM)
            _, err = celery.communicate(timeout=60)
            assert celery.returncode == 0, err
        assert connected == 3
        wait_until(lambda: mb_broker.connections == 1)
