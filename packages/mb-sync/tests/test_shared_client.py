"""A client that several threads use before its first connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

import mb_testing
from mb_broker import running
from mb_core import ConnectError, ConnectionLost, LocalProtocolError
from mb_sync import MessageBrokerClient

from .conftest import own_threads

# Seconds after which what was to come is not coming any more.
PATIENCE = 20

URL = "memory://sharing.test"

Submit = Callable[..., Future[Any]]


@pytest.fixture
def submit() -> Iterator[Submit]:
    """Give a function that calls another in a thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit
    assert own_threads() == []


class Early:
    """A client that another thread connects, to a broker that is not there yet."""

    def __init__(self, submit: Submit, **options: Any) -> None:
        self.tried = tried = threading.Semaphore(0)
        self.client = MessageBrokerClient(
            URL, **{"retry_connect": True, "backoff_min": 1, "backoff_max": 20} | options
        )
        self.client.on_error(lambda error: tried.release())
        self.connecting = submit(self.client.connect)
        assert tried.acquire(timeout=PATIENCE)


def test_what_would_wait_after_a_loss_waits_for_the_first_connection(submit: Submit) -> None:
    early = Early(submit)
    client = early.client
    client.publish("a.b", "not heard: nobody is subscribed yet")
    waits = [
        submit(client.wait_connected),
        submit(client.register_service, "a", "b"),
        submit(client.request, "system.heartbeat", {}, retry=True),
    ]
    subscribed = submit(client.subscribe, "news")
    with pytest.raises(ConnectionLost, match="retry=True"):
        client.request("system.heartbeat", {})
    with pytest.raises(LocalProtocolError, match=r"wait_connected\(\)"):
        client.connect()
    with pytest.raises(TimeoutError, match="within 20 ms: no broker"):
        client.wait_connected(timeout=20)
    assert not any(each.done() for each in [*waits, subscribed, early.connecting])
    with running(URL), client:
        for each in [*waits, early.connecting]:
            each.result(PATIENCE)
        with subscribed.result(PATIENCE) as events:
            client.publish("news", 1)
            assert events.receive(PATIENCE * 1_000).payload == 1


def test_a_block_waits_for_the_thread_that_connects(submit: Submit) -> None:
    early = Early(submit)

    def use() -> bool:
        with early.client:
            return early.client.connected

    used = submit(use)
    assert not used.done()
    with running(URL):
        assert used.result(PATIENCE)
        early.connecting.result(PATIENCE)


def test_wait_connected_waits_for_a_connect_that_is_yet_to_be_called(submit: Submit) -> None:
    client = MessageBrokerClient(URL)
    with pytest.raises(TimeoutError, match=r"within 1 ms: connect\(\) was not called"):
        client.wait_connected(timeout=1)
    with pytest.raises(LocalProtocolError, match="timeout"):
        client.wait_connected(timeout=0)
    waits = [submit(client.wait_connected), submit(client.wait_connected, PATIENCE * 1_000)]
    with running(URL), client:
        for each in waits:
            each.result(PATIENCE)
        client.wait_connected()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        client.wait_connected()


def test_closing_wakes_who_waits_for_a_connect(submit: Submit) -> None:
    client = MessageBrokerClient(URL)
    waits = submit(client.wait_connected)
    client.close()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        waits.result(PATIENCE)
    with running(URL), client:  # it was never connected: so that is possible still
        client.wait_connected()


@pytest.mark.parametrize("end", ["timeout", "closed"])
def test_calls_that_wait_fail_with_the_reason(submit: Submit, end: str) -> None:
    options = {"drain_timeout": 0} | ({"reconnect_timeout": 1_000} if end == "timeout" else {})
    early = Early(submit, **options)
    client = early.client
    waits = [
        submit(client.wait_connected),
        submit(client.request, "a.b", {}, retry=True),
        submit(client.publish, "a.b", {}, confirm=True),
        submit(client.subscribe, "a.b"),
    ]
    while client.stats().pending < 3:
        assert early.tried.acquire(timeout=PATIENCE)
    if end == "closed":
        client.close()
    for each in waits:
        reason = "the client was closed" if end == "closed" else r"\(reconnect_timeout\)"
        with pytest.raises(ConnectionLost, match=reason) as lost:
            each.result(PATIENCE)
        assert not lost.value.sent
    with pytest.raises(ConnectError):
        early.connecting.result(PATIENCE)
    assert own_threads() == []
    with running(URL), client:  # nothing is left of it
        assert client.request("system.heartbeat", {}).payload


def test_closing_lets_the_buffer_go_to_the_first_connection(submit: Submit) -> None:
    with (
        mb_testing.running("memory://") as broker,
        MessageBrokerClient(broker.url) as listener,
    ):
        url = broker.url
        heard = listener.subscribe("a.b")
        client = MessageBrokerClient(url, retry_connect=True, backoff_min=200, backoff_max=400)
        tried = threading.Event()
        client.on_error(lambda error: tried.set())
        broker.faults.refuse()
        connecting = submit(client.connect)
        assert tried.wait(PATIENCE)
        client.publish("a.b", 1)
        closing = submit(client.close)
        broker.faults.accept()
        closing.result(PATIENCE)
        connecting.result(PATIENCE)
        assert heard.receive(PATIENCE * 1_000).payload == 1
