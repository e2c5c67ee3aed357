"""Listening: iteration, time limits, on_message, and ends."""

from __future__ import annotations

import gc
import threading
import time
from typing import Any

import pytest

import mb_broker
from mb_broker import RunningBroker
from mb_core import (
    ConnectionLost,
    LocalProtocolError,
    NoRouteFoundError,
    ServiceUnavailableError,
    SlowConsumer,
)
from mb_sync import MessageBrokerClient
from mb_testing import wait_until


def unheard(client: MessageBrokerClient, topic: str) -> bool:
    """Whether nobody is subscribed to `topic`, as the broker knows it."""
    try:
        client.publish(topic, None, confirm=True)
    except NoRouteFoundError:
        return True
    return False


def test_for_takes_what_comes(url: str) -> None:
    with MessageBrokerClient(url) as client:
        events = client.subscribe("weather.#")
        assert repr(events) == "<Subscription publish 'weather.#' active>"
        assert events.topic == "weather.#"
        for number in range(3):
            client.publish("weather.oslo", number)
        seen = []
        for message in events:
            seen.append(message.payload)
            if len(seen) == 3:
                break
        assert seen == [0, 1, 2]
        client.publish("weather.oslo", 3)
        assert next(events).payload == 3  # it goes on


def test_for_ends_with_the_subscription(client: MessageBrokerClient) -> None:
    with client.subscribe("a.b") as events:
        client.publish("a.b", 1)
        client.publish("a.b", 2, confirm=True)
    assert [message.payload for message in events] == [1, 2]
    assert unheard(client, "a.b")


def test_for_ends_with_the_client(mb_broker: RunningBroker) -> None:
    client = MessageBrokerClient(mb_broker.url)
    client.connect()
    events = client.subscribe("a.b")
    seen: list[Any] = []
    iterating = threading.Event()

    def iterate() -> None:
        for message in events:
            seen.append(message.payload)
            iterating.set()

    thread = threading.Thread(target=iterate)
    thread.start()
    client.publish("a.b", 1)
    assert iterating.wait(5)
    client.close()
    thread.join(5)
    assert not thread.is_alive()
    assert seen == [1]
    with pytest.raises(
        LocalProtocolError, match=r"nothing more will come: the subscription to 'a\.b'"
    ):
        events.receive()
    assert list(events) == []


def test_a_connection_that_is_lost_for_good_ends_it_with_an_error() -> None:
    with mb_broker.running("tcp://127.0.0.1:0") as broker:
        client = MessageBrokerClient(broker.url, reconnect=False)
        client.connect()
        events = client.subscribe("a.b")
        client.publish("a.b", 1, confirm=True)
    assert next(events).payload == 1  # what was received before still comes
    with pytest.raises(ConnectionLost):
        next(events)
    with pytest.raises(ConnectionLost):
        events.receive(1_000)
    client.close()


def test_receive_waits_no_longer_than_it_may(client: MessageBrokerClient) -> None:
    events = client.subscribe("a.b")
    for timeout in (0, 50):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=rf"no message of 'a\.b' came within {timeout} ms"):
            events.receive(timeout)
        assert timeout / 1000 <= time.monotonic() - began < 2
    client.publish("a.b", 1, confirm=True)
    assert events.receive(0).payload == 1
    client.publish("a.b", 2)
    assert events.receive().payload == 2


def test_requests_may_be_taken_by_iteration(client: MessageBrokerClient) -> None:
    requests = client.subscribe("add", action="request")

    def serve() -> None:
        for message in requests:
            message.respond(sum(message.payload))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert client.request("add", [1, 2, 3], timeout=5_000).payload == 6
    client.unsubscribe("add")
    thread.join(5)
    assert not thread.is_alive()


def test_requests_that_nobody_has_taken_are_refused_at_the_end(
    client: MessageBrokerClient,
) -> None:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            client.request("never", None)
        except ServiceUnavailableError as error:
            errors.append(error)

    with client.subscribe("never", action="request") as requests:
        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(lambda: requests.queued)
    thread.join(5)
    assert len(errors) == 1


def test_leaving_a_loop_is_the_end_where_nobody_keeps_the_subscription(
    client: MessageBrokerClient,
) -> None:
    for _ in client_publishing(client):
        break
    gc.collect()
    client.request("system.heartbeat", {})  # by now the broker knows it
    assert unheard(client, "brief.event")


def client_publishing(client: MessageBrokerClient) -> Any:
    events = client.subscribe("brief.event")
    client.publish("brief.event", 1)
    return events


def test_a_subscription_that_nobody_iterates_lasts(client: MessageBrokerClient) -> None:
    heard: list[Any] = []
    done = threading.Event()
    client.subscribe("lasting")  # for on_message, some time
    gc.collect()
    client.publish("lasting", 1, confirm=True)

    def on_message(header: Any, payload: Any) -> None:
        heard.append((header.topic, payload))
        if payload == 2:
            done.set()

    client.on_message(on_message)
    client.publish("lasting", 2)
    assert done.wait(5)
    assert heard == [("lasting", 1), ("lasting", 2)]


def test_what_goes_to_handlers_can_not_be_iterated(mb_broker: RunningBroker) -> None:
    with MessageBrokerClient(mb_broker.url) as client:
        handled = client.subscribe("a.b", handler=lambda message: None)
        client.on_message(lambda header, payload: None)
        for events in (handled, client.subscribe("c.d")):
            for take in (iter, next, type(events).receive):
                with pytest.raises(LocalProtocolError, match="go to a handler"):
                    take(events)  # type: ignore[operator]
        with handled:  # a block ends it all the same
            pass
        assert unheard(client, "a.b")


def test_several_threads_share_the_messages(client: MessageBrokerClient) -> None:
    events = client.subscribe("shared", queue_size=None)
    seen: list[list[int]] = [[] for _ in range(4)]

    def take(own: list[int]) -> None:
        own.extend(message.payload for message in events)

    threads = [threading.Thread(target=take, args=(own,)) for own in seen]
    for thread in threads:
        thread.start()
    for number in range(2_000):
        client.publish("shared", number)
    client.publish("shared", 2_000, confirm=True)
    events.unsubscribe()
    for thread in threads:
        thread.join(10)
    assert sorted(number for own in seen for number in own) == list(range(2_001))
    assert all(own == sorted(own) for own in seen)


def test_overflow_may_end_the_subscription(client: MessageBrokerClient) -> None:
    events = client.subscribe("flood", queue_size=3, overflow="error")
    for number in range(5):
        client.publish("flood", number)
    client.publish("flood.more", 0)
    client.request("system.heartbeat", {})
    assert [next(events).payload for _ in range(3)] == [0, 1, 2]
    with pytest.raises(SlowConsumer):
        next(events)


def test_a_subscription_that_fails_leaves_nothing(client: MessageBrokerClient) -> None:
    with pytest.raises(LocalProtocolError, match="concurrency"):
        client.subscribe("a.b", handler=print, concurrency=0)
    with pytest.raises(LocalProtocolError, match="priority"):
        client.subscribe("a.b", float("nan"))
    assert unheard(client, "a.b")


def test_both_kinds_at_once(client: MessageBrokerClient) -> None:
    seen: list[str] = []
    client.subscribe("a.b", action="both", handler=lambda message: seen.append(message.action))
    client.publish("a.b", 1, confirm=True)
    client.request("a.b", 2)
    assert seen == ["publish", "request"]
