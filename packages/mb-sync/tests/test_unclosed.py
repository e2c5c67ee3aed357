"""Clients that are dropped without `close()`: a warning, and nothing is left."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mb_broker import RunningBroker, running
from mb_sync import MessageBrokerClient, Subscription
from mb_testing import wait_until

from .conftest import own_threads
from .programs import PATIENCE, saw_all_leave, starting

UNCLOSED = (
    r"^unclosed client of {url}: nothing refers to it any more, so it is disconnected; use "
    r"'with MessageBrokerClient\(\.\.\.\) as client' or 'client\.close\(\)'$"
)


@pytest.fixture
def broker(mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture) -> Iterator[RunningBroker]:
    """A broker that everybody has left at the end, of which the log tells nothing bad."""
    yield mb_broker
    wait_until(lambda: (mb_broker.connections, own_threads()) == (0, []), timeout=PATIENCE)
    assert [each for each in caplog.records if each.levelno > logging.WARNING] == []


def dropped_by(use: Callable[[], object], url: str) -> None:
    """Call `use()`, which leaves a client behind: there is a warning."""

    def drop() -> None:
        use()

        def is_warned() -> bool:
            gc.collect()
            return bool(warned.list)

        # A handler that has been called in a thread is on its way back, perhaps.
        wait_until(is_warned, timeout=PATIENCE)

    with pytest.warns(ResourceWarning, match=UNCLOSED.format(url=url)) as warned:
        drop()
    assert len(warned) == 1


# What refers to the client, and what does not


def nothing(client: MessageBrokerClient) -> None:
    pass


def a_request(client: MessageBrokerClient) -> None:
    client.request("system.heartbeat", {})
    client.publish("a.b", 1)
    client.stats()
    client.wait_connected()


def closures(client: MessageBrokerClient) -> None:
    called = threading.Event()

    def handle(*args: Any) -> None:
        client.publish("heard.it", 1)
        called.set()

    client.on_connect(handle)
    client.on_disconnect(handle)
    client.on_error(handle)
    client.on_message(handle)
    client.subscribe("a.b", handler=handle)
    client.subscribe("a.c")
    client.subscribe("a.d", action="request", handler=handle, concurrency=3)
    client.publish("a.b", 1, confirm=True)
    client.request("a.d", 1)
    assert called.wait(PATIENCE)


def registrations(client: MessageBrokerClient) -> None:
    kept.append(client.on_message(lambda header, payload: None))
    kept.append(client.on_error(lambda error: None))


kept: list[Any] = []


@pytest.mark.parametrize("url", ["memory", "tcp"], indirect=True)
@pytest.mark.parametrize("use", [nothing, a_request, closures, registrations])
def test_a_dropped_client_warns_and_disconnects(
    broker: RunningBroker, url: str, use: Callable[[MessageBrokerClient], None]
) -> None:
    def forget() -> None:
        client = MessageBrokerClient(url)
        client.connect()
        use(client)
        assert broker.connections == 1

    dropped_by(forget, url)
    while kept:
        kept.pop().remove()


def test_without_handlers_that_refer_to_it_a_client_ends_with_its_last_reference(
    broker: RunningBroker,
) -> None:
    """It does not wait for the garbage collector, which may come late."""

    def forget() -> None:
        client = MessageBrokerClient(broker.url)
        client.connect()
        client.on_message(lambda header, payload: None)
        client.on_connect(lambda: None)
        client.subscribe("a.b", handler=lambda message: None)
        client.publish("a.b", 1, confirm=True)

    gc.disable()
    try:
        with pytest.warns(ResourceWarning, match=UNCLOSED.format(url=broker.url)):
            forget()
    finally:
        gc.enable()


@pytest.mark.parametrize("iterated", [True, False])
def test_a_subscription_that_is_held_keeps_its_client(
    broker: RunningBroker, iterated: bool
) -> None:
    handled = threading.Event()

    def subscribe() -> Subscription:
        client = MessageBrokerClient(broker.url)
        client.connect()
        return client.subscribe("a.b", handler=None if iterated else lambda m: handled.set())

    def consume(subscription: Subscription) -> None:
        for _ in subscription:
            handled.set()
            break

    def forget() -> None:
        subscription = subscribe()
        gc.collect()
        thread = threading.Thread(target=consume, args=(subscription,))
        if iterated:
            thread.start()
        with MessageBrokerClient(broker.url) as other:
            other.publish("a.b", 7, confirm=True)
            assert handled.wait(PATIENCE)
        if iterated:
            thread.join(PATIENCE)

    dropped_by(forget, broker.url)


def test_no_warning_where_there_is_nothing_to_close(broker: RunningBroker) -> None:
    def forget() -> None:
        MessageBrokerClient(broker.url)
        closed = MessageBrokerClient(broker.url)
        closed.connect()
        closed.close()
        with MessageBrokerClient(broker.url):
            pass
        with pytest.raises(Exception, match="nobody listens"):
            MessageBrokerClient("tcp://127.0.0.1:1").connect()

    forget()
    gc.collect()  # warnings are errors


# How it ends


def test_what_was_published_still_goes_out(broker: RunningBroker) -> None:
    def publish() -> None:
        client = MessageBrokerClient(broker.url)
        client.connect()
        for number in range(500):
            client.publish("a.b", number)

    with MessageBrokerClient(broker.url) as other, other.subscribe("a.b") as events:
        dropped_by(publish, broker.url)
        received = [events.receive(PATIENCE * 1000).payload for _ in range(500)]
    assert received == list(range(500))


def test_a_handler_that_runs_finishes_and_its_answer_goes_out(broker: RunningBroker) -> None:
    began, proceed = threading.Event(), threading.Event()
    answers: list[Any] = []

    def answer(message: Any) -> str:
        began.set()
        assert proceed.wait(PATIENCE)
        return "done"

    with MessageBrokerClient(broker.url) as other:
        asking = threading.Thread(target=lambda: answers.append(other.request("a.b", 1).payload))

        def serve() -> None:
            client = MessageBrokerClient(broker.url)
            client.connect()
            client.subscribe("a.b", action="request", handler=answer)
            asking.start()
            assert began.wait(PATIENCE)

        dropped_by(serve, broker.url)
        proceed.set()
        asking.join(PATIENCE)
    assert answers == ["done"]


def test_it_may_be_dropped_in_the_loops_own_thread(broker: RunningBroker) -> None:
    def forget() -> None:
        done = threading.Event()
        clients = [MessageBrokerClient(broker.url)]
        clients[0].connect()
        loop = clients[0]._lifecycle.loop
        assert loop is not None

        def drop() -> None:
            clients.clear()
            done.set()

        loop.post(drop)
        assert done.wait(PATIENCE)

    dropped_by(forget, broker.url)


@pytest.mark.parametrize(
    ("body", "warns"),
    [
        ("client.connect()", False),  # the end of the program closes it
        ("client.connect(); del client", True),
        ("client.connect(); atexit.register(lambda: globals().pop('client'))", True),
    ],
)
def test_a_program_may_drop_it_at_any_time(
    caplog: pytest.LogCaptureFixture, body: str, warns: bool
) -> None:
    program = f"client = MessageBrokerClient(url)\n{body}\nsay('done')"
    with running("ws://127.0.0.1:0") as broker, starting(broker) as start:
        ended = start(program, "-W", "always::ResourceWarning", ready=False).wait()
        assert saw_all_leave(broker, caplog)
    assert (ended.stdout, ended.status) == ("done\n", 0)
    assert ("ResourceWarning: unclosed client of" in ended.stderr) == warns
    assert "Traceback" not in ended.stderr
