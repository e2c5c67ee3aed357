"""Distributions of others, installed beside ours, work everywhere: the examples mb-unix and mb-log.

Nothing of ours knows them; they are found by their entry points.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Install
from .installing import Environment

pytestmark = pytest.mark.wheels


@pytest.fixture(scope="module")
def all_of_it(environment_of: Install, third_parties: list[Path]) -> Environment:
    """An environment with all of ours, the transport and the observer."""
    return environment_of("mb-tools", "mb-unix", "mb-log", beside=third_parties)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/mb.sock"


def test_client_and_broker_need_the_transport_and_nothing_else(
    environment_of: Install, third_parties: list[Path], url: str
) -> None:
    environment = environment_of("mb-broker", "mb-unix", beside=third_parties)
    assert not environment.installed() & {"mb-tcp", "mb-ws", "websockets"}
    environment.run("broker.py", url)


def test_a_broker_listens_there_beside_everything_else(all_of_it: Environment, url: str) -> None:
    all_of_it.run("broker.py", "memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0", url)


def test_the_command_serves_and_asks_over_it(all_of_it: Environment, url: str) -> None:
    with all_of_it.started("mb", "serve", *off("tcp", "ws"), "--listen", url) as broker:
        assert broker.stdout is not None
        assert broker.stdout.readline() == f"{url}\n"
        asked = all_of_it.call("mb", "request", "system.service.list", "{}", "--url", url)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert json.loads(asked.stdout)["services"]


def off(*schemes: str) -> list[str]:
    return [part for scheme in schemes for part in (f"--{scheme}-port", "off")]


def test_the_blocking_client_speaks_it(all_of_it: Environment, url: str) -> None:
    with all_of_it.started("mb", "serve", *off("tcp", "ws"), "--listen", url) as broker:
        assert broker.stdout is not None
        assert broker.stdout.readline() == f"{url}\n"
        all_of_it.run("blocking.py", url)


def test_the_command_lists_both(all_of_it: Environment) -> None:
    listed = all_of_it.call("mb", "plugins")
    assert (listed.returncode, listed.stderr) == (0, "")
    for line in ("mb-unix", "mb-log"):
        assert line in listed.stdout


def test_the_observer_logs_what_a_program_sends(all_of_it: Environment) -> None:
    logged = all_of_it.run("logged.py")
    assert "over.log" in logged
