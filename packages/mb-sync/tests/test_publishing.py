"""Publishing: without a round trip where there is a connection, and exactly where there is none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import mb_broker
from mb_broker import RunningBroker
from mb_core import ConnectionLost, NoRouteFoundError, SlowConsumer
from mb_sync import MessageBrokerClient
from mb_sync.loop_thread import LoopThread

from .conftest import Heard


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The coroutine functions that were waited for, by name."""
    made: list[str] = []
    call = LoopThread.call

    def counted(self: LoopThread, function: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(function.__name__)
        return call(self, function, *args, **kwargs)

    monkeypatch.setattr(LoopThread, "call", counted)
    return made


def test_publications_arrive_in_order(url: str) -> None:
    with MessageBrokerClient(url) as listener, MessageBrokerClient(url) as client:
        events = listener.subscribe("count.#", queue_size=None)
        for number in range(5_000):
            client.publish("count.up", number)
        assert [next(events).payload for _ in range(5_000)] == list(range(5_000))


def test_a_publication_costs_no_round_trip(client: MessageBrokerClient, calls: list[str]) -> None:
    events = client.subscribe("some.event")
    calls.clear()
    for number in range(100):
        client.publish("some.event", number)
    assert calls == []
    assert [next(events).payload for _ in range(100)] == list(range(100))


def test_a_request_overtakes_no_publication_before_it(client: MessageBrokerClient) -> None:
    events = client.subscribe("some.event")
    for number in range(1, 100):
        client.publish("some.event", number)
        client.request("system.heartbeat", {})
        assert events.queued == number


def test_what_was_published_before_the_end_of_the_block_arrives(url: str) -> None:
    with MessageBrokerClient(url) as listener:
        events = listener.subscribe("last.words", queue_size=None)
        with MessageBrokerClient(url) as client:
            for number in range(3_000):
                client.publish("last.words", number)
        assert [events.receive(5_000).payload for _ in range(3_000)] == list(range(3_000))


def test_a_publisher_is_no_faster_than_the_loop(
    client: MessageBrokerClient, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is bounded: a thread that is far ahead waits."""
    events = client.subscribe("big.one", queue_size=None)
    calls.clear()
    busy, go = threading.Event(), threading.Event()

    def keep_busy() -> None:
        busy.set()
        go.wait(5)

    loop = client._lifecycle.loop
    assert loop is not None
    loop.post(keep_busy)
    assert busy.wait(5)
    waiting = threading.Thread(
        target=lambda: [client.publish("big.one", "x" * 8_000) for _ in range(200)]
    )
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()  # more than a megabyte waits for the loop
    assert client._lifecycle.publish_queue._bytes < 2 * 1_048_576
    go.set()
    waiting.join(5)
    assert not waiting.is_alive()
    assert "_publish" in calls
    assert all(len(events.receive(5_000).payload) == 8_000 for _ in range(200))


def test_a_confirmed_publication_hears_of_nobody(client: MessageBrokerClient) -> None:
    with pytest.raises(NoRouteFoundError):
        client.publish("to.nobody", 1, confirm=True)
    client.subscribe("to.nobody")
    client.publish("to.nobody", 1, confirm=True)


def test_an_unconfirmed_one_has_its_error_reported(mb_broker: RunningBroker) -> None:
    errors = Heard()
    client = MessageBrokerClient(mb_broker.url)
    client.on_error(errors)
    with client:
        client.publish("to.nobody", 1)
        assert errors.wait()
    assert isinstance(errors[0], NoRouteFoundError)


# Without a connection


@pytest.fixture
def away() -> Iterator[MessageBrokerClient]:
    """A client whose broker has gone away, with a small buffer."""
    gone = threading.Event()
    client = MessageBrokerClient(
        publish_buffer=200, drain_timeout=0, backoff_min=3_600_000, backoff_max=3_600_000
    )
    client.on_disconnect(gone.set)
    with mb_broker.running("tcp://127.0.0.1:0") as broker:
        client.connect(broker.url)
    assert gone.wait(5)
    yield client
    client.close()


def test_a_full_buffer_is_an_error_of_the_call(away: MessageBrokerClient) -> None:
    assert not away.connected
    away.publish("a.b", "x" * 100)
    assert away.stats().buffered == 1
    with pytest.raises(ConnectionLost, match="the buffer of 200 bytes") as raised:
        away.publish("a.b", "x" * 100)
    assert raised.value.sent is False


def test_a_request_without_a_connection_fails_at_once(away: MessageBrokerClient) -> None:
    with pytest.raises(ConnectionLost) as raised:
        away.request("a.b", 1)
    assert raised.value.sent is False


def test_the_buffer_goes_out_when_the_broker_is_back() -> None:
    lost, back = threading.Event(), threading.Event()
    client = MessageBrokerClient(backoff_min=10, backoff_max=20)
    with mb_broker.running("tcp://127.0.0.1:0") as broker:
        url = broker.url
        client.connect(url)
        client.on_disconnect(lost.set)
        events = client.subscribe("a.b")
    assert lost.wait(5)
    for number in range(10):
        client.publish("a.b", number)
    client.on_connect(back.set)
    with mb_broker.running(url):
        assert back.wait(5)
        client.publish("a.b", 10)
        assert [events.receive(5_000).payload for _ in range(11)] == list(range(11))
        client.close()


def test_a_slow_consumer_is_told_of(mb_broker: RunningBroker) -> None:
    errors = Heard()
    client = MessageBrokerClient(mb_broker.url)
    client.on_error(errors)
    with client:
        events = client.subscribe("flood", queue_size=10)
        for number in range(100):
            client.publish("flood", number)
        client.request("system.heartbeat", {})
        assert errors.wait()
        assert [next(events).payload for _ in range(10)] == list(range(10))
        assert events.dropped == 90
    assert isinstance(errors[0], SlowConsumer)
