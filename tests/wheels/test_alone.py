"""Each distribution, installed alone with what it declares, is imported, used, and enough."""

from __future__ import annotations

import importlib.metadata
import json

import pytest

from mb_broker import Broker

from .conftest import Install
from .installing import DISTRIBUTIONS, ROOT, Environment

pytestmark = pytest.mark.wheels

# What of this project comes along with each.
NEEDS = {
    "mb-core": set(),
    "mb-tcp": {"mb-core"},
    "mb-ws": {"mb-core"},
    "mb-broker": {"mb-core"},
    "mb-sync": {"mb-core"},
    "mb-client": {"mb-broker", "mb-core", "mb-sync", "mb-tcp", "mb-ws"},
    "mb-testing": {"mb-broker", "mb-core"},
    "mb-tools": {"mb-broker", "mb-client", "mb-core", "mb-sync", "mb-tcp", "mb-ws"},
}

VERSION = importlib.metadata.version("mb-core")


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_it_brings_what_it_declares_and_can_be_imported(name: str, environment_of: Install) -> None:
    alone = environment_of(name)
    ours = {found for found in alone.installed() if found.startswith("mb-")}
    assert ours == {name} | NEEDS[name]
    imported = f"import {name.replace('-', '_')}"
    done = alone.call("python", "-I", "-W", "error", "-c", imported)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_core_brings_no_event_loop_and_no_transport(environment_of: Install) -> None:
    installed = environment_of("mb-core").installed()
    assert {"anyio", "msgspec", "pluggy"} <= installed
    assert not installed & {"pytest", "trio", "websockets"}


def test_the_core_parses_and_keeps_a_session(environment_of: Install) -> None:
    environment_of("mb-core").run("core.py")


@pytest.mark.parametrize(("name", "scheme"), [("mb-tcp", "tcp"), ("mb-ws", "ws")])
def test_a_transport_is_all_that_a_client_needs(
    name: str, scheme: str, environment_of: Install, mb_broker: Broker
) -> None:
    environment_of(name).run("client.py", mb_broker.url_of(scheme))


def test_the_broker_is_enough_for_memory(environment_of: Install) -> None:
    environment_of("mb-broker").run("broker.py", "memory://", "memory://name")


def test_the_fixtures_work_without_a_transport(environment_of: Install) -> None:
    test = ROOT / "tests" / "wheels" / "programs" / "fixture.py"
    arguments = ("-q", "-p", "no:cacheprovider", "--rootdir", test.parent, test)
    done = environment_of("mb-testing").call("pytest", *arguments)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_mb_client_has_every_transport(environment_of: Install) -> None:
    environment_of("mb-client").run("everything.py")


@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
def test_the_blocking_client_needs_a_transport_and_no_more(
    scheme: str, environment_of: Install, mb_broker: Broker
) -> None:
    if scheme == "memory":
        environment_of("mb-broker", "mb-sync").run("blocking_memory.py")
    else:
        environment_of("mb-sync", f"mb-{scheme}").run("blocking.py", mb_broker.url_of(scheme))


def test_the_command_says_its_version_and_what_it_can(environment_of: Install) -> None:
    tools = environment_of("mb-tools")
    assert tools.call("mb", "--version").stdout == f"mb, version {VERSION}\n"
    helped = tools.call("mb", "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "serve" in helped.stdout


def test_the_command_serves_replies_and_asks(environment_of: Install) -> None:
    tools = environment_of("mb-tools")
    with tools.started("mb", "serve", "--tcp-port", "0", "--ws-port", "0") as broker:
        assert broker.stdout is not None
        for scheme in ("tcp", "ws"):
            url = broker.stdout.readline().strip()
            assert url.startswith(f"{scheme}://")
            replied(tools, url)


def replied(tools: Environment, url: str) -> None:
    """One `mb` answers another."""
    with tools.started("mb", "reply", "--echo", "-n", "1", "echo", "--url", url) as service:
        while '"echo"' not in tools.call("mb", "topics", "--url", url).stdout:
            assert service.poll() is None  # it is about to subscribe
        asked = tools.call("mb", "request", "echo", '{"n": 1}', "--url", url)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert json.loads(asked.stdout) == {"n": 1}


def test_a_broker_that_is_alone_serves_tcp_beside_mb_tcp(environment_of: Install) -> None:
    both = environment_of("mb-broker", "mb-tcp")
    assert "websockets" not in both.installed()
    both.run("broker.py", "memory://", "tcp://127.0.0.1:0")
