"""Connecting, closing, and what lies between."""

from __future__ import annotations

import threading

import pytest

import mb_broker
from mb_broker import RunningBroker
from mb_core import (
    ClientStats,
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    PluginError,
)
from mb_sync import MessageBrokerClient

from .conftest import Heard, own_threads


def test_a_block_connects_and_closes(url: str) -> None:
    client = MessageBrokerClient(url)
    assert not client.connected
    assert client.stats() == ClientStats()
    with client as entered:
        assert entered is client
        assert client.connected
        assert client.stats().connected
    assert not client.connected
    assert own_threads() == []


def test_connect_and_close_do_without_a_block(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient()
    client.connect(mb_broker.url)
    client.register_service("Weather", "Answers weather questions")
    client.close()
    client.close()
    assert not client.connected
    assert own_threads() == []


def test_host_and_port_speak_websocket(mb_broker: RunningBroker) -> None:
    port = int(mb_broker.url_of("ws").rpartition(":")[2])
    client = MessageBrokerClient()
    client.connect("127.0.0.1", port)
    try:
        assert client.request("system.heartbeat", {}).payload
    finally:
        client.close()


def test_a_client_is_connected_once(mb_broker: RunningBroker) -> None:
    with MessageBrokerClient(mb_broker.url) as client:
        with pytest.raises(LocalProtocolError, match="already connected"):
            client.connect(mb_broker.url)
        assert client.connected
    with pytest.raises(LocalProtocolError, match="was closed"):
        client.connect(mb_broker.url)
    assert own_threads() == []


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("tcp://127.0.0.1:1", ConnectError, "nobody listens"),
        ("memory://nobody.is.here", ConnectError, "nobody.is.here"),
        ("pigeon://loft", PluginError, "pigeon"),
        (None, ConnectError, "no address was given"),
    ],
)
def test_what_can_not_be_reached_leaves_nothing(
    url: str | None, error: type[Exception], text: str
) -> None:
    client = MessageBrokerClient(url)
    with pytest.raises(error, match=text):
        client.connect()
    assert own_threads() == []
    client.close()  # nothing to close


def test_a_client_that_could_not_connect_may_try_again() -> None:
    client = MessageBrokerClient("memory://sync.later")
    with pytest.raises(ConnectError):
        client.connect()
    with mb_broker.running("memory://sync.later"):
        client.connect()
        assert client.connected
        client.close()


def test_calls_after_the_end_say_so(url: str) -> None:
    with MessageBrokerClient(url) as client:
        pass
    for ask in (
        lambda: client.request("a.b", 1),
        lambda: client.request("a.b", 1, retry=True),
        lambda: client.publish("a.b", 1),
        lambda: client.publish("a.b", 1, confirm=True),
        lambda: client.subscribe("a.b"),
        lambda: client.register_service("a", "b"),
    ):
        with pytest.raises(ConnectionLost, match="closed") as raised:
            ask()
        assert raised.value.sent is False
    client.run()  # it is over, in order
    assert client.stats().messages_received > 0


def test_run_ends_with_the_client(client: MessageBrokerClient) -> None:
    over = threading.Event()

    def run() -> None:
        client.run()
        over.set()

    thread = threading.Thread(target=run)
    thread.start()
    client.close()
    assert over.wait(5)
    thread.join()


def test_run_raises_when_the_connection_is_lost_for_good() -> None:
    with mb_broker.running("tcp://127.0.0.1:0") as broker:
        client = MessageBrokerClient(broker.url, reconnect=False)
        client.connect()
    with pytest.raises(ConnectionLost, match="closed"):
        client.run()
    client.close()


def test_an_error_in_the_block_passes_through_it(mb_broker: RunningBroker) -> None:
    with pytest.raises(ZeroDivisionError), MessageBrokerClient(mb_broker.url):
        1 / 0  # noqa: B018
    assert own_threads() == []


def test_callbacks_hear_of_the_connection_in_threads(mb_broker: RunningBroker) -> None:
    heard: list[tuple[str, str]] = []
    connected = threading.Event()

    def on_connect() -> None:
        heard.append(("connect", threading.current_thread().name))
        connected.set()

    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(on_connect)
    client.on_disconnect(lambda: heard.append(("disconnect", threading.current_thread().name)))
    with client:
        assert connected.wait(5)
    assert [event for event, _ in heard] == ["connect", "disconnect"]
    assert all(name.startswith("mb_sync handler") for _, name in heard)


def test_a_slow_callback_keeps_nobody_waiting(mb_broker: RunningBroker) -> None:
    done = threading.Event()
    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(lambda: done.wait(5) or None)
    with client:
        client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
        assert client.request("echo.it", 1).payload == 1
        done.set()


def test_a_failing_callback_goes_to_the_error_handlers(mb_broker: RunningBroker) -> None:
    errors = Heard()

    def fail() -> None:
        raise ValueError("no such callback")

    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(fail)
    client.on_error(errors)
    with client:
        assert errors.wait()
        assert repr(list(errors)) == repr([ValueError("no such callback")])


def test_callbacks_are_plain_functions() -> None:
    async def wrong(*args: object) -> None: ...

    client = MessageBrokerClient()
    for register in (
        client.on_connect,
        client.on_disconnect,
        client.on_error,
        client.on_message,
    ):
        with pytest.raises(LocalProtocolError, match="wrong is async: mb_sync calls plain"):
            register(wrong)
