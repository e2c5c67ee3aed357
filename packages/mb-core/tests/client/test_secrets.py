"""A token in a URL's query reaches the server, and no log, error, callback or observer's text."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mb_broker import RunningBroker
from mb_core import (
    URL,
    ConnectError,
    MessageBrokerClient,
    PluginError,
    Plugins,
    hookimpl,
    installed_plugins,
)

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


QUERY = "/?token=SECRET"


async def test_the_log_and_observers_do_not_show_it(
    mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    class Watcher:
        @hookimpl
        def mb_connected(self, url: object, peer: str) -> None:
            told.append(f"{url} {url!r} {peer}")

    class Transports:
        @hookimpl
        def mb_register_transports(self) -> Any:
            return [installed_plugins().transport("ws")]

    plugins = Plugins()
    plugins.register(Watcher(), "watcher")
    plugins.register(Transports(), "transports")
    caplog.set_level(logging.DEBUG)
    url = mb_broker.url_of("ws") + QUERY
    async with MessageBrokerClient(url, plugins=plugins) as client:
        told.append(repr(client))
        told.append(repr(client.stats()))
    assert told
    assert "/?***" in told[0]
    assert "SECRET" not in "".join(told)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("mb_")]
    assert any("connected to ws://" in text for text in logged)
    assert "SECRET" not in caplog.text


async def test_errors_do_not_show_it(start_tcp_server: Start) -> None:
    async with start_tcp_server(greeting=None) as server:
        url = f"ws://127.0.0.1:{server.port}{QUERY}"
        with pytest.raises(ConnectError) as raised:
            await MessageBrokerClient(url, connect_timeout=50).connect()
        assert "/?*** did not accept the connection within 0.05 s" in str(raised.value)
        assert "SECRET" not in str(raised.value)
        with pytest.raises(ConnectError) as raised:
            await MessageBrokerClient().connect(url, 8080)
        assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize("error", [OSError, ValueError])
async def test_what_a_transport_of_others_raises_does_not_show_it(error: type[Exception]) -> None:
    class Mine:
        scheme = "mine"

        async def connect(self, url: URL, *_: object, **__: object) -> Any:
            raise error(f"no way to {url.full}")

        async def listen(self, *_: object, **__: object) -> Any:
            raise NotImplementedError

        @hookimpl
        def mb_register_transports(self) -> Any:
            return [self]

    plugins = Plugins()
    plugins.register(Mine(), "mine")
    with pytest.raises((ConnectError, PluginError)) as raised:
        await MessageBrokerClient("mine://host" + QUERY, plugins=plugins).connect()
    assert "no way to mine://host" in str(raised.value)
    assert "SECRET" not in str(raised.value)


async def test_with_several_urls_each_error_names_its_url() -> None:
    urls = ["ws://127.0.0.1:1/a?token=SECRET", "memory://nobody", "tcp://127.0.0.1:1"]
    with pytest.raises(ConnectError) as raised:
        await MessageBrokerClient(urls).connect()
    text = str(raised.value)
    assert text.startswith("no broker was reached: ws://127.0.0.1:1/a?***: nobody listens on ")
    assert "; memory://nobody: no broker in this process listens on " in text
    assert "; tcp://127.0.0.1:1: nobody listens on 127.0.0.1:1" in text
    assert "SECRET" not in text
