"""Connecting: where to, to brokers that are full or misbehave, and time limits."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import Broker, RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    MessageBrokerClient,
    PluginError,
    Plugins,
    RequestTimeoutError,
)

from .scripted import VIRTUAL_TIME
from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


# Connecting


async def test_connects_to_a_url_and_asks(url: str) -> None:
    client = MessageBrokerClient()
    await client.connect(url)
    assert (await client.request("system.heartbeat", {})).payload == {"status": "success"}
    await client.close()


async def test_host_and_port_are_websocket(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient()
    await client.connect("127.0.0.1", port_of(mb_broker.url_of("ws")))
    await client.register_service("one", "by host and port")
    await client.close()


async def test_host_and_port_with_use_tls_are_encrypted(start_tcp_server: Start) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(connect_timeout=2_000)  # reading certificates takes a while
        with pytest.raises(ConnectError, match=f"wss://127.0.0.1:{server.port}"):
            await client.connect("127.0.0.1", server.port, use_tls=True)
        assert server.received.startswith(b"\x16\x03")  # a TLS handshake


async def test_the_url_can_be_given_to_the_client(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    await client.connect()
    await client.request("system.heartbeat", {})
    await client.close()


async def test_an_argument_of_connect_comes_before_the_clients_url(
    mb_broker: RunningBroker,
) -> None:
    client = MessageBrokerClient("tcp://127.0.0.1:1")
    await client.connect(mb_broker.url)
    await client.close()


async def test_a_block_connects_and_closes(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        await client.request("system.heartbeat", {})
    with pytest.raises(ConnectionLost) as lost:
        await client.request("system.heartbeat", {})
    assert not lost.value.sent


async def test_a_block_takes_a_client_that_is_connected(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient()
    await client.connect(mb_broker.url)
    async with client:
        await client.request("system.heartbeat", {})
    with pytest.raises(ConnectionLost):
        await client.publish("a.b", {})


async def test_a_block_hands_on_its_error_as_it_is(mb_broker: RunningBroker) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with MessageBrokerClient(mb_broker.url):
            raise KeyError("mine")


async def test_a_client_connects_once(mb_broker: RunningBroker) -> None:
    async with MessageBrokerClient(mb_broker.url) as client:
        with pytest.raises(LocalProtocolError, match="already connected"):
            await client.connect(mb_broker.url)
        await client.request("system.heartbeat", {})  # the connection is none the worse
    with pytest.raises(LocalProtocolError, match="was closed"):
        await client.connect(mb_broker.url)


async def test_without_a_target_there_is_nowhere_to_go() -> None:
    with pytest.raises(ConnectError, match="no address was given"):
        await MessageBrokerClient().connect()


async def test_nothing_works_before_connecting() -> None:
    client = MessageBrokerClient()
    calls: list[Callable[[], Any]] = [
        lambda: client.request("a.b", {}),
        lambda: client.publish("a.b", {}),
        lambda: client.publish("a.b", {}, confirm=True),
        lambda: client.subscribe("a.b"),
        lambda: client.unsubscribe("a.b"),
        lambda: client.register_service("a", "b"),
        lambda: client.run(),
        lambda: client.request("a.b", {}, retry=True),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="not connected"):
            await call()


@pytest.mark.parametrize("name", ["connect_timeout", "close_timeout"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1", True, 3_600_001])
async def test_bad_time_limits_are_refused(name: str, value: Any) -> None:
    with pytest.raises(LocalProtocolError, match=f"invalid {name}"):
        MessageBrokerClient(**{name: value})


@pytest.mark.parametrize("value", [0, -1, 1.5, "1"])
async def test_bad_payload_limits_are_refused(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="max_payload"):
        MessageBrokerClient(max_payload=value)


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_refused_port_is_a_connect_error_and_may_be_tried_again(
    scheme: str, free_port: int, mb_broker: RunningBroker
) -> None:
    client = MessageBrokerClient()
    with pytest.raises(ConnectError, match="nobody listens"):
        await client.connect(f"{scheme}://127.0.0.1:{free_port}")
    await client.connect(mb_broker.url)
    await client.close()


async def test_a_memory_broker_that_is_not_there_is_a_connect_error() -> None:
    with pytest.raises(ConnectError, match="memory://nowhere"):
        await MessageBrokerClient().connect("memory://nowhere")


async def test_a_scheme_whose_package_is_missing_names_it() -> None:
    with pytest.raises(PluginError, match="pip install mb-tcp"):
        await MessageBrokerClient("tcp://localhost:1", plugins=Plugins()).connect()


async def test_a_scheme_that_nobody_speaks_lists_those_spoken() -> None:
    with pytest.raises(PluginError, match=r"carrier://.*memory://.*tcp://.*ws://"):
        await MessageBrokerClient("carrier://pigeon").connect()


async def test_the_dialled_address_can_be_changed_from_outside(
    mb_broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = port_of(mb_broker.url_of("tcp"))
    monkeypatch.setenv("MB_CONNECT_TO", f"broker.example:8081=127.0.0.1:{real}")
    async with MessageBrokerClient("tcp://broker.example") as client:
        await client.request("system.heartbeat", {})


# A broker that is full


@pytest.mark.parametrize("scheme", ["memory", "tcp", "ws"])
async def test_a_full_brokers_words_are_in_the_connect_error(scheme: str) -> None:
    urls = ("memory://", "tcp://127.0.0.1:0", "ws://127.0.0.1:0")
    with anyio.fail_after(10):
        async with Broker(*urls, max_connections=1) as broker:
            url = broker.url_of(scheme)
            async with MessageBrokerClient(url) as first:
                for _ in range(3):
                    refused = MessageBrokerClient()
                    with pytest.raises(ConnectError) as error:
                        await refused.connect(url)
                    assert "the broker is full: max_connections is 1" in str(error.value)
                    # It may try again.
                await first.request("system.heartbeat", {})
            while broker.connections:
                await anyio.lowlevel.checkpoint()
            await refused.connect(url)
            await refused.request("system.heartbeat", {})
            await refused.close()


# A broker that does not behave


async def test_a_server_that_never_greets_is_a_connect_error_in_time(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(server.url, connect_timeout=100)
        with anyio.fail_after(5):
            text = r"did not send system\.initialize within 0\.1 s: .* broker listening there for tcp://\?$"
            with pytest.raises(ConnectError, match=text):
                await client.connect()
            await server.disconnected.wait()


async def test_a_server_that_sends_nonsense_and_does_not_close_is_said_to() -> None:
    """It is given the time to close; that it has not done so is not what was wrong."""
    with (
        anyio.fail_after(5),
        socket.create_server(("127.0.0.1", 0)) as listener,
        contextlib.ExitStack() as stack,
    ):
        listener.setblocking(False)
        url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        client = MessageBrokerClient(url, connect_timeout=100)
        async with anyio.create_task_group() as tasks:

            async def send_nonsense() -> None:
                await anyio.wait_readable(listener)
                accepted = stack.enter_context(listener.accept()[0])
                accepted.sendall(b"\xff\xff\xff\xff")

            tasks.start_soon(send_nonsense)
            with pytest.raises(ConnectError) as raised:
                await client.connect()
    assert str(raised.value) == (
        f"the connection to {url} failed: a message of 4294967295 bytes was announced, "
        "the limit is 16777216"
    )
    assert not raised.value.final


async def test_a_websocket_handshake_without_answer_is_a_connect_error_in_time(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(connect_timeout=100)
        with anyio.fail_after(5):
            with pytest.raises(ConnectError, match="did not accept the connection"):
                await client.connect("127.0.0.1", server.port)
            await server.disconnected.wait()


async def test_a_server_that_speaks_no_websocket_is_a_connect_error(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server:
        client = MessageBrokerClient()
        with anyio.fail_after(5), pytest.raises(ConnectError):
            await client.connect("127.0.0.1", server.port)


async def test_a_server_that_hangs_up_before_its_greeting_is_a_connect_error(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server(greeting=None) as server, anyio.create_task_group() as tasks:

        async def hang_up() -> None:
            await server.connected.wait()
            await server.reset()

        tasks.start_soon(hang_up)
        client = MessageBrokerClient(server.url)
        with anyio.fail_after(5), pytest.raises(ConnectError, match="before its greeting"):
            await client.connect()


async def test_a_cancelled_connect_leaves_nothing_behind(start_tcp_server: Start) -> None:
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(server.url)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                await server.connected.wait()
                tasks.cancel_scope.cancel()
            await server.disconnected.wait()


async def test_a_greeting_that_comes_with_other_messages_is_seen(start_tcp_server: Start) -> None:
    seen = anyio.Event()
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(server.url)
        async with anyio.create_task_group() as tasks:

            async def greet() -> None:
                await server.connected.wait()
                await server.send(
                    b"publish:a.b:1.0.0\n{}", b"publish:system.initialize:1.0.0\n{}", b"nonsense"
                )

            tasks.start_soon(greet)
            client.on_error(lambda error: seen.set())
            with anyio.fail_after(5):
                await client.connect()
                await seen.wait()
        await client.close()


# Time limits of this side


@VIRTUAL_TIME
async def test_a_broker_that_is_silent_about_a_request_is_a_local_timeout(
    start_tcp_server: Start,
) -> None:
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        with anyio.fail_after(5), pytest.raises(RequestTimeoutError, match="within 20 ms"):
            await client.request("a.b", {}, timeout=20)


async def test_an_answer_that_comes_too_late_is_ignored(
    start_tcp_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with start_tcp_server() as server:
        async with MessageBrokerClient(server.url) as client:
            client.on_error(errors.append)
            with anyio.move_on_after(0.05):
                await client.request("a.b", {})
            asked = server.received.partition(b"request:a.b:1.0.0:")[2][:36]
            with caplog.at_level(logging.DEBUG, logger="mb_core.client"):
                # A request of the server's that is answered: all before it has been read.
                await server.send(
                    b"response:a.b:1.0.0:" + asked + b"\n{}", b"request:system.heartbeat:1.0.0\n{}"
                )
                with anyio.fail_after(5):
                    await server.wait_for(b"response:system.heartbeat")
        assert "belongs to no request" in caplog.text
    assert errors == []


async def test_a_heartbeat_is_answered(start_tcp_server: Start) -> None:
    async with start_tcp_server() as server:
        async with MessageBrokerClient(server.url):
            await server.send(b"request:system.heartbeat:1.0.0\n{}")
        with anyio.fail_after(5):
            await server.disconnected.wait()
    assert server.received.endswith(b"response:system.heartbeat:1.0.0\n{}")
