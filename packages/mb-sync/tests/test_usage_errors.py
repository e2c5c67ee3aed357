"""Mistakes raise as with the async client; `on_*` handlers can be removed in any thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mb_broker import RunningBroker
from mb_core import LocalProtocolError
from mb_sync import MessageBrokerClient

from .conftest import Heard


def handle(message: object) -> None:
    raise AssertionError("nothing is sent")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda client: client.request("a.b", 1, 1000),
            r"invalid response_handler 1000: .*timeout=1000",
        ),
        (lambda client: client.request("a.b", 1, timeout=0.5), "invalid timeout 0.5: .* are 500"),
        (lambda client: client.subscribe("a.b", handle), "invalid priority handle: .*handler="),
        (lambda client: client.subscribe("a.b", handler=7), "invalid handler 7"),
        (lambda client: client.on_error(7), "invalid on_error handler 7"),
        (lambda client: setattr(client, "on_message", handle), "on_message is a method"),
    ],
)
def test_a_slip_raises_before_anything_is_sent(
    client: MessageBrokerClient, call: Any, text: str
) -> None:
    sent = client.stats().messages_sent
    with pytest.raises(LocalProtocolError, match=text):
        call(client)
    assert client.stats().messages_sent == sent


@pytest.mark.parametrize("timeout", [-1, 0.0, 0.5, float("nan"), "5", True, False])
def test_a_message_is_waited_for_in_whole_milliseconds(
    client: MessageBrokerClient, timeout: Any
) -> None:
    events = client.subscribe("silent.event")
    with pytest.raises(LocalProtocolError, match="invalid timeout"):
        events.receive(timeout)
    for unasked in (0, 1):
        with pytest.raises(TimeoutError, match=f"within {unasked} ms"):
            events.receive(unasked)


def test_a_closed_client_is_not_entered_or_connected_again(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    with client:
        pass
    text = "this client was closed and can't be used again: create a new one"
    with pytest.raises(LocalProtocolError, match=text), client:
        raise AssertionError("entered")
    with pytest.raises(LocalProtocolError, match=text):
        client.connect()


def test_a_block_within_the_block_raises_and_closes_nothing(client: MessageBrokerClient) -> None:
    with pytest.raises(LocalProtocolError, match="in a 'with' block already"), client:
        raise AssertionError("entered")
    assert client.request("system.heartbeat", {}).payload == {"status": "success"}


def test_a_block_whose_connect_failed_may_be_tried_again(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url_of("tcp"))
    mb_broker.stop()
    with pytest.raises(Exception, match="nobody listens"), client:
        raise AssertionError("entered")
    mb_broker.start()
    with client:
        assert client.connected


@pytest.mark.parametrize("connected", [False, True])
def test_a_handler_is_removed_from_another_thread(
    connected: bool, mb_broker: RunningBroker
) -> None:
    client = MessageBrokerClient(mb_broker.url)
    first, second = Heard(), Heard()
    if connected:
        client.connect()
    removers = [
        client.on_message(lambda header, payload: first(payload)),
        client.on_connect(lambda: first("connected")),
        client.on_disconnect(lambda: first("disconnected")),
        client.on_error(first),
    ]

    def remove() -> None:
        for registration in removers:
            registration()

    if connected:
        thread = threading.Thread(target=remove)
        thread.start()
        thread.join(5)
    else:
        remove()
        client.connect()
    with client:
        client.on_message(lambda header, payload: second(payload))
        client.subscribe("a.b")
        client.publish("a.b", 1, confirm=True)
        assert second.wait()
    assert first == []


def test_a_registration_has_the_function_that_was_given(client: MessageBrokerClient) -> None:
    @client.on_error
    def failed(error: Exception) -> str:
        return f"noticed {error}"

    assert failed(ValueError("it")) == "noticed it"
    assert failed.handler.__name__ == "failed"
