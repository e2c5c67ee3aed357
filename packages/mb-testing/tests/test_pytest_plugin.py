"""The pytest fixture mb_broker, as a project that installed mb-testing meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mb_core import MessageBrokerClient, Plugins
from mb_core.hookspecs import hookimpl
from mb_core.plugins import installed_plugins
from mb_testing import FaultyBroker


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

urls = set()  # in memory; a port that has become free may be given again

def test_one(mb_broker):
    urls.add(mb_broker.url)

def test_another_has_its_own(mb_broker):
    assert mb_broker.url not in urls

def test_without():
    import threading
    assert "mb broker" not in {thread.name for thread in threading.enumerate()}

def test_that_fails(mb_broker):
    raise KeyError("mine")
"""
    said = run_pytest(tmp_path, source)
    assert "1 failed, 4 passed" in said
    assert "KeyError: 'mine'" in said


def test_pytest_starts_without_importing_the_library() -> None:
    """Projects pay for the plugin with every start of pytest, whether they test with it or not."""
    program = "import pytest, sys; before = set(sys.modules); import mb_testing.pytest_plugin; "
    program += "print(*sorted(set(sys.modules) - before))"
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert imported == ["mb_testing", "mb_testing.pytest_plugin"]


def test_the_fixture_says_what_it_is(tmp_path: Path) -> None:
    said = run_pytest(tmp_path, "", "--fixtures")
    assert "A broker for this test, in a thread" in said


def test_the_virtual_clock_is_a_fixture_and_a_marker(tmp_path: Path) -> None:
    source = """
import anyio
import pytest

@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_fixture(virtual_clock, backend):
    virtual_clock.run(anyio.sleep, 3600, backend=backend)

@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_marker():
    await anyio.sleep(3600)
    assert anyio.current_time() == 3600

@pytest.mark.anyio
@pytest.mark.virtual_clock(patience=1)
async def test_another_begins_anew():
    assert anyio.current_time() == 0

@pytest.mark.anyio
async def test_without():
    before = anyio.current_time()
    with anyio.move_on_after(0.01):
        await anyio.sleep(3600)
    assert 0.01 <= anyio.current_time() - before < 3600
"""
    said = run_pytest(tmp_path, source, "--strict-markers")
    assert "8 passed" in said, said


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("def test_it(): ...", "but not with anyio: add @pytest.mark.anyio, or"),
        ("async def test_it(): ...", "but not with anyio: add @pytest.mark.anyio, or"),
        (
            (
                "@pytest.mark.anyio\nasync def test_it(): ...\n"
                "@pytest.fixture\ndef anyio_backend(): return 'asyncio'"
            ),
            'write @pytest.fixture(params=["asyncio"]) and return request.param, or',
        ),
    ],
    ids=["sync", "no anyio", "no params"],
)
def test_a_marker_that_would_do_nothing_is_an_error(
    tmp_path: Path, source: str, remedy: str
) -> None:
    said = run_pytest(tmp_path, f"import pytest\n\n@pytest.mark.virtual_clock\n{source}\n")
    assert "ERROR" in said
    assert "test_it.py::test_it is marked with virtual_clock, but " in said
    assert f"{remedy} use the fixture virtual_clock" in said
    assert "passed" not in said


def test_in_memory_comes_first(mb_broker: FaultyBroker) -> None:
    assert [url.partition(":")[0] for url in mb_broker.urls] == ["memory", "tcp", "ws"]


@pytest.mark.anyio
async def test_it_serves_clients_of_any_event_loop(mb_broker: FaultyBroker) -> None:
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
    monkeypatch.setattr("mb_core.plugins.installed_plugins", lambda: alone)
    broker: FaultyBroker = request.getfixturevalue("mb_broker")
    assert len(broker.urls) == 1
    assert broker.url.startswith("memory://")
