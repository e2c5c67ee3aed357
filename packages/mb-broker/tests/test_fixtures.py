"""The pytest fixture mb_broker, as a project that installed mb-broker meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mb_broker import Broker, fixtures
from mb_core import MessageBrokerClient, Plugins
from mb_core.hookspecs import hookimpl
from mb_core.plugins import installed_plugins


def run_pytest(folder: Path, source: str, *options: str) -> str:
    """What pytest says of one file of tests, in a process and a project of its own."""
    (folder / "test_it.py").write_text(source)
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "--rootdir", folder, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_the_fixture_is_there_without_being_imported(tmp_path: Path) -> None:
    source = """
import asyncio
from mb_core import MessageBrokerClient

async def ask(url):
    async with MessageBrokerClient(url) as client:
        return (await client.request("system.topic.list", {})).payload

def test_each_scheme(mb_broker):
    for scheme in ("memory", "tcp", "ws"):
        assert asyncio.run(ask(mb_broker.url_of(scheme))) == {"topics": []}

urls = set()

def test_one(mb_broker):
    urls.update(mb_broker.urls)

def test_another_has_its_own(mb_broker):
    assert not urls & set(mb_broker.urls)

def test_without():
    import threading
    assert "mb broker" not in {thread.name for thread in threading.enumerate()}

def test_that_fails(mb_broker):
    raise KeyError("mine")
"""
    said = run_pytest(tmp_path, source)
    assert "1 failed, 4 passed" in said
    assert "KeyError: 'mine'" in said


def test_the_fixture_says_what_it_is(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, "", "--fixtures")
    assert "A broker of the test's own, in a thread" in said


def test_in_memory_comes_first(mb_broker: Broker) -> None:
    assert [url.partition(":")[0] for url in mb_broker.urls] == ["memory", "tcp", "ws"]


@pytest.mark.anyio
async def test_it_serves_clients_of_any_event_loop(mb_broker: Broker) -> None:
    for url in mb_broker.urls:
        async with MessageBrokerClient(url) as client:
            await client.request("system.heartbeat", {})


class MemoryOnly:
    @hookimpl
    def mb_register_transports(self) -> list[Any]:
        return [installed_plugins().transport("memory")]


def test_it_needs_no_other_package(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    alone = Plugins()
    alone.register(MemoryOnly(), "memory only")
    monkeypatch.setattr(fixtures, "installed_plugins", lambda: alone)
    broker: Broker = request.getfixturevalue("mb_broker")
    assert len(broker.urls) == 1
    assert broker.url.startswith("memory://")
