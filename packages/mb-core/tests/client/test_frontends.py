"""Front ends: choosing how to use the client by a name."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import mb_core
from mb_core import (
    Frontend,
    InstalledPlugin,
    LocalProtocolError,
    MessageBrokerClient,
    PluginError,
    Plugins,
    connect,
    frontends,
    hookimpl,
)


class Blocking:
    """A front end of somebody else: it notes what it is given."""

    def __init__(self, url: Any = None, **options: Any) -> None:
        self.given = (url, options)

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *args: object) -> None: ...


class Plugin:
    @hookimpl
    def mb_register_frontends(self) -> list[Frontend]:
        return [Frontend("windows", Blocking, blocking=True)]


@pytest.fixture
def plugins() -> Plugins:
    plugins = Plugins()
    plugins.register(Plugin(), "acme")
    return plugins


@pytest.mark.anyio
async def test_within_an_event_loop_it_is_the_loop_s_own(url: str) -> None:
    with anyio.fail_after(10):
        async with connect(url, close_timeout=1_000) as client:
            assert type(client) is MessageBrokerClient
            await client.request("system.heartbeat", {})


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["asyncio", "trio"])
async def test_those_of_event_loops_are_one_client(name: str, url: str) -> None:
    with anyio.fail_after(10):
        async with connect(url, frontend=name) as client:
            assert type(client) is MessageBrokerClient


def test_without_an_event_loop_it_has_to_be_named() -> None:
    with pytest.raises(LocalProtocolError, match="no event loop is running here: pass a front end"):
        connect("tcp://localhost")


@pytest.mark.anyio
@pytest.mark.parametrize("urls", ["tcp://localhost", ["tcp://one", "tcp://two"], None])
async def test_a_third_party_s_gets_what_was_given(urls: Any, plugins: Plugins) -> None:
    with connect(urls, frontend="windows", plugins=plugins, max_payload=7) as client:
        assert client.given == (urls, {"plugins": plugins, "max_payload": 7})


def test_an_unknown_one_says_what_there_is(plugins: Plugins) -> None:
    expected = r"has the front end 'doors' \(installed: the front end 'windows'\)"
    with pytest.raises(PluginError, match=expected):
        connect("tcp://localhost", frontend="doors", plugins=plugins)


def test_a_known_one_names_the_package_to_install(plugins: Plugins) -> None:
    expected = "the front end 'sync' needs the package mb-sync: pip install mb-sync"
    with pytest.raises(PluginError, match=expected):
        connect("tcp://localhost", frontend="sync", plugins=plugins)


def test_they_are_listed_with_their_distributions(plugins: Plugins) -> None:
    assert frontends(plugins) == [InstalledPlugin("front end", "windows", "acme", "")]
    installed = {each.name: each for each in frontends()}
    for name in ("asyncio", "trio"):
        assert installed[name].distribution == "mb-core"
        assert installed[name].version
    assert mb_core.frontends is frontends
