"""One client and many threads: at the same time, and until it closes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

import mb_broker
from mb_core import (
    ConnectError,
    ConnectionLost,
    LocalProtocolError,
    Message,
)
from mb_sync import MessageBrokerClient

from .conftest import own_threads
from .many_threads import MANY, PATIENCE, Together, together, unheard

__all__ = ["together"]

# One client


def test_each_thread_gets_its_own_answers(url: str, together: Together) -> None:
    def ask(number: int) -> None:
        for count in range(20):
            assert client.request("echo.it", [number, count]).payload == [number, count]

    with MessageBrokerClient(url) as client:
        client.subscribe(
            "echo.it", action="request", handler=lambda message: message.payload, concurrency=4
        )
        for number in range(MANY):
            together.add(ask, number)
        together.run()
        assert client.stats().pending == 0


def test_what_a_thread_publishes_arrives_in_its_order(url: str, together: Together) -> None:
    count = 100

    def publish(number: int) -> None:
        for each in range(count):
            client.publish("count.up", [number, each])

    with MessageBrokerClient(url) as listener, MessageBrokerClient(url) as client:
        events = listener.subscribe("count.#", queue_size=None)
        for number in range(MANY):
            together.add(publish, number)
        together.run()
        seen = [events.receive(PATIENCE * 1000).payload for _ in range(MANY * count)]
    for number in range(MANY):
        assert [each for who, each in seen if who == number] == list(range(count))


def test_a_request_overtakes_no_publication_of_its_thread(url: str, together: Together) -> None:
    """Though it may be another thread's doing that the loop passes the publication on."""

    def publish_and_ask(number: int) -> None:
        events = client.subscribe(f"event.n{number}")
        for count in range(1, 31):
            client.publish(f"event.n{number}", count)
            client.request("system.heartbeat", {})
            assert events.queued == count

    with MessageBrokerClient(url) as client:
        for number in range(8):
            together.add(publish_and_ask, number)
        together.run()


def test_threads_subscribe_and_unsubscribe_side_by_side(url: str, together: Together) -> None:
    def come_and_go(number: int) -> None:
        topic = f"brief.n{number}"
        for count in range(5):
            with client.subscribe(topic) as events:
                client.publish(topic, count)
                assert events.receive(PATIENCE * 1000).payload == count

    with MessageBrokerClient(url) as client:
        for number in range(MANY):
            together.add(come_and_go, number)
        together.run()
        for number in range(MANY):
            assert unheard(client, f"brief.n{number}")


def test_several_subscribers_to_one_topic_come_and_go(
    client: MessageBrokerClient, together: Together
) -> None:
    """A thread that unsubscribes does not take the topic from the others."""

    def come_and_go() -> None:
        for count in range(10):
            with client.subscribe("common.topic") as events:
                client.publish("common.topic", count)
                events.receive(PATIENCE * 1000)

    for _ in range(8):
        together.add(come_and_go)
    together.run()
    assert unheard(client, "common.topic")


def test_iterators_share_the_messages_of_many_publishers(
    client: MessageBrokerClient, together: Together
) -> None:
    count = 100
    events = client.subscribe("shared.topic", queue_size=None)
    taken: list[list[Any]] = [[] for _ in range(8)]

    def publish(number: int) -> None:
        for each in range(count):
            client.publish("shared.topic", [number, each])

    consumers = Together()
    for own in taken:
        consumers.add(lambda own: own.extend(message.payload for message in events), own)
    with consumers.running():
        for number in range(8):
            together.add(publish, number)
        together.run()
        client.publish("shared.topic", [8, 0], confirm=True)
        events.unsubscribe()
    seen = sorted(each for own in taken for each in own)
    assert seen == [*([number, each] for number in range(8) for each in range(count)), [8, 0]]


def test_handlers_and_callers_wait_for_each_other_without_a_knot(
    client: MessageBrokerClient, together: Together
) -> None:
    """Handlers that ask handlers, three deep, with as many callers as there may be handlers."""
    for depth in range(3):

        def ask_on(message: Message, depth: int = depth) -> int:
            answer: int = client.request(f"deep.d{depth + 1}", message.payload).payload
            return answer + 1

        client.subscribe(f"deep.d{depth}", action="request", handler=ask_on, concurrency=8)
    client.subscribe("deep.d3", action="request", handler=lambda message: message.payload)

    def ask(number: int) -> None:
        for _ in range(5):
            assert client.request("deep.d0", number).payload == number + 3

    for number in range(16):
        together.add(ask, number)
    together.run()


def test_closing_in_the_midst_of_it_all_ends_every_call(url: str, together: Together) -> None:
    """With an answer, or with ConnectionLost: none hangs, none says anything else."""
    service = MessageBrokerClient(url)
    service.connect()
    service.subscribe("echo.it", action="request", handler=lambda message: message.payload)
    service.subscribe("event.#", handler=lambda message: None)
    client = MessageBrokerClient(url)
    client.connect()
    shared = client.subscribe("event.#", queue_size=None)
    going = threading.Semaphore(0)

    def until_lost(step: Callable[[], object]) -> None:
        step()
        going.release()
        with contextlib.suppress(ConnectionLost):
            while True:
                step()

    def come_and_go() -> None:
        with client.subscribe("brief.topic"):
            pass

    def iterate() -> None:
        going.release()
        for _ in shared:
            pass

    def wait_for_the_end() -> None:
        going.release()
        client.run()

    for _ in range(MANY // 8):
        together.add(until_lost, lambda: client.request("echo.it", 1))
        together.add(until_lost, lambda: client.publish("event.one", 1))
        together.add(until_lost, lambda: client.publish("event.two", 1, confirm=True))
        together.add(until_lost, come_and_go)
        together.add(until_lost, lambda: client.register_service("Many", "threads"))
        together.add(iterate)
        together.add(wait_for_the_end)
    with together.running():
        for _ in range(MANY // 8 * 7):
            assert going.acquire(timeout=PATIENCE)
        client.close()
    service.close()
    assert own_threads() == []


def test_threads_that_close_at_the_same_time_all_return_behind_the_end(
    url: str, together: Together
) -> None:
    client = MessageBrokerClient(url)
    client.connect()

    def close() -> None:
        client.close()
        assert not client.connected

    for _ in range(8):
        together.add(close)
    together.run()
    assert own_threads() == []


def test_a_connection_that_is_lost_ends_the_calls_of_all_threads(together: Together) -> None:
    with mb_broker.running("tcp://127.0.0.1:0", close_timeout=100, drain_timeout=0) as broker:
        client = MessageBrokerClient(broker.url, reconnect=False)
        client.connect()
        client.subscribe("never.answered", action="request")
        waiting = threading.Semaphore(0)

        def ask() -> None:
            waiting.release()
            with pytest.raises(ConnectionLost):
                client.request("never.answered", None)

        def receive() -> None:
            events = client.subscribe("never.published")
            waiting.release()
            with pytest.raises(ConnectionLost):
                events.receive()

        for _ in range(MANY // 2):
            together.add(ask)
            together.add(receive)
        running = together.running()
        running.__enter__()
        for _ in range(MANY):
            assert waiting.acquire(timeout=PATIENCE)
    running.__exit__(None, None, None)
    client.close()


# Connecting


def test_of_two_threads_that_connect_at_once_one_does(together: Together) -> None:
    for _ in range(10):
        with mb_broker.running("memory://") as broker:
            client = MessageBrokerClient(broker.url)
            outcomes: list[str] = []

            def connect(
                client: MessageBrokerClient = client, outcomes: list[str] = outcomes
            ) -> None:
                try:
                    client.connect()
                    outcomes.append("connected")
                except LocalProtocolError as error:
                    outcomes.append(str(error).partition(":")[0])

            both = Together()
            both.add(connect)
            both.add(connect)
            both.run()
            first, other = sorted(outcomes)
            assert first == "connected"
            assert other in (
                "this client is already connecting",
                "this client was already connected",
            )
            assert client.request("system.heartbeat", {}).payload
            client.close()
    assert own_threads() == []


def test_closing_ends_a_connect_in_another_thread(together: Together) -> None:
    """One that tries again and again, to be exact."""
    tried = threading.Semaphore(0)
    client = MessageBrokerClient("memory://nobody.ever", retry_connect=True, backoff_min=1)
    client.on_error(lambda error: tried.release())

    def connect() -> None:
        with pytest.raises(ConnectError, match="closed while it was connecting"):
            client.connect()

    together.add(connect)
    with together.running():
        for _ in range(3):
            assert tried.acquire(timeout=PATIENCE)
        client.close()
    assert own_threads() == []
    with mb_broker.running("memory://nobody.ever"):  # nothing is left of it
        client.connect()
        client.close()
    assert own_threads() == []


def test_a_callback_may_ask_as_soon_as_the_connection_is_there(url: str) -> None:
    for _ in range(10):
        answered = threading.Event()
        client = MessageBrokerClient(url)

        def ask(client: MessageBrokerClient = client, answered: threading.Event = answered) -> None:
            client.request("system.heartbeat", {})
            answered.set()

        client.on_connect(ask)
        with client:
            assert answered.wait(PATIENCE)
