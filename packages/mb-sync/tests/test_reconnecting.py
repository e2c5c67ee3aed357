"""A broker that goes away and comes back, seen from threads that wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_core import ConnectionLost
from mb_sync import MessageBrokerClient

from .conftest import own_threads

# Seconds after which what was to come is not coming any more.
PATIENCE = 20


@pytest.fixture(params=["tcp://127.0.0.1:0", "memory://"])
def broker(request: pytest.FixtureRequest) -> Iterator[RunningBroker]:
    with running(request.param, drain_timeout=0, close_timeout=200) as broker:
        yield broker


class Watched:
    """A client that reconnects at once, and semaphores that count what its callbacks hear."""

    def __init__(self, broker: RunningBroker) -> None:
        self.gone, self.back = threading.Semaphore(0), threading.Semaphore(0)
        self.client = MessageBrokerClient(
            broker.url, backoff_min=1, backoff_max=20, drain_timeout=1_000
        )
        self.client.on_disconnect(lambda: self.gone.release())
        self.client.on_connect(lambda: self.back.release())

    def __enter__(self) -> Watched:
        self.client.connect()
        assert self.back.acquire(timeout=PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()


@pytest.fixture
def watched(broker: RunningBroker) -> Iterator[Watched]:
    with Watched(broker) as watched:
        yield watched
    assert own_threads() == []


@pytest.fixture
def threads() -> Iterator[Callable[..., Any]]:
    """Give a function that calls another in a thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_iterations_go_on_and_handlers_answer_again(
    broker: RunningBroker, watched: Watched, threads: Callable[..., Any]
) -> None:
    client = watched.client
    client.register_service("Back", "comes back by itself")
    client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
    events = client.subscribe("some.event")

    def iterate() -> list[Any]:
        return [message.payload for message in events]

    iterating = threads(iterate)
    for number in range(3):
        client.publish("some.event", number, confirm=True)
        broker.kill()
        assert watched.gone.acquire(timeout=PATIENCE)
        assert not client.connected
        broker.start()
        assert watched.back.acquire(timeout=PATIENCE)
        assert client.request("echo.it", number).payload == number
    events.unsubscribe()
    assert iterating.result(PATIENCE) == [0, 1, 2]
    names = client.request("system.service.list", {}).payload["services"]
    assert [each["name"] for each in names] == ["Back"]
    assert client.stats().reconnects == 3


def test_a_request_that_may_be_repeated_waits_for_the_broker(
    broker: RunningBroker, watched: Watched, threads: Callable[..., Any]
) -> None:
    client = watched.client
    client.subscribe("echo.it", action="request", handler=lambda message: message.payload)
    broker.kill()
    assert watched.gone.acquire(timeout=PATIENCE)
    with pytest.raises(ConnectionLost, match="no connection within 20 ms"):
        client.request("echo.it", "unanswered", retry=True, timeout=20)
    asking = [threads(client.request, "echo.it", number, retry=True) for number in range(4)]
    broker.start()
    assert [each.result(PATIENCE).payload for each in asking] == [0, 1, 2, 3]


def test_a_request_that_may_not_be_repeated_fails_at_once_and_says_that_it_was_sent(
    broker: RunningBroker, watched: Watched, threads: Callable[..., Any]
) -> None:
    client = watched.client
    requests = client.subscribe("a.question", action="request")
    asking = threads(client.request, "a.question", None)
    asking_again = threads(client.request, "a.question", None, retry=True)
    taken = [next(requests), next(requests)]
    broker.kill()
    with pytest.raises(ConnectionLost) as raised:
        asking.result(PATIENCE)
    assert raised.value.sent
    with pytest.raises(ConnectionLost, match="was requested is lost"):
        taken[0].respond("too late")
    broker.start()
    next(requests).respond("the second time")
    assert asking_again.result(PATIENCE).payload == "the second time"


def test_what_threads_publish_meanwhile_is_sent_in_their_order(
    broker: RunningBroker, watched: Watched, threads: Callable[..., Any]
) -> None:
    events = watched.client.subscribe("count.up", queue_size=None)
    away, some_waits = threading.Event(), threading.Semaphore(0)

    def publish(who: int) -> None:
        assert away.wait(PATIENCE)
        for number in range(300):
            watched.client.publish("count.up", [who, number])
            if number == 100:
                some_waits.release()  # and the rest, while it is sent

    publishing = [threads(publish, who) for who in range(4)]
    broker.kill()
    assert watched.gone.acquire(timeout=PATIENCE)
    away.set()
    for _ in publishing:
        assert some_waits.acquire(timeout=PATIENCE)
    broker.start()
    for each in publishing:
        each.result(PATIENCE)
    seen = [events.receive(PATIENCE * 1000).payload for _ in range(4 * 300)]
    for who in range(4):
        assert [number for each, number in seen if each == who] == list(range(300))


def test_closing_while_the_broker_is_away_ends_every_wait(
    broker: RunningBroker, watched: Watched, threads: Callable[..., Any]
) -> None:
    client = watched.client
    events = client.subscribe("some.event")
    broker.kill()
    assert watched.gone.acquire(timeout=PATIENCE)
    waiting = [
        threads(client.request, "a.question", None, retry=True),
        threads(client.register_service, "Too", "late"),
        threads(client.subscribe, "another.event"),
    ]
    iterating = threads(list, events)
    running_client = threads(client.run)
    client.close()
    for each in waiting:
        with pytest.raises(ConnectionLost):
            each.result(PATIENCE)
    assert iterating.result(PATIENCE) == []
    assert running_client.result(PATIENCE) is None
    broker.start()


@pytest.mark.parametrize("action", ["publish", "request"])
def test_what_on_connect_subscribes_replaces_what_it_subscribed_before(
    watched: Watched, broker: RunningBroker, action: Any
) -> None:
    client = watched.client
    got: queue.SimpleQueue[Any] = queue.SimpleQueue()
    subscribed = threading.Semaphore(0)

    def on_connect() -> None:
        client.subscribe("a.b", action=action, handler=lambda m: got.put(m.payload))
        client.on_message(lambda header, payload: None)
        subscribed.release()

    client.on_connect(on_connect)
    for number in range(3):
        broker.restart()
        assert subscribed.acquire(timeout=PATIENCE)
        if action == "publish":
            client.publish("a.b", number, confirm=True)
        else:
            client.request("a.b", number)
        client.publish("a.b" if action == "publish" else "no.where", "last")
        assert got.get(timeout=PATIENCE) == number
        if action == "publish":
            assert got.get(timeout=PATIENCE) == "last"
        assert got.empty()
    assert len(client._client.callbacks.message) == 1
