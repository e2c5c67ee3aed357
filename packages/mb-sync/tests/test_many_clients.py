"""Many clients in a process, clients that are dropped, and programs that compute."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import threading
import time
from typing import Any

import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
)
from mb_sync import MessageBrokerClient

from .conftest import own_threads
from .many_threads import MANY, PATIENCE, Together, together, unheard

__all__ = ["together"]

# Many clients


def test_many_clients_share_one_loop_which_ends_with_the_last(mb_broker: RunningBroker) -> None:
    for _ in range(2):  # and again
        clients = [MessageBrokerClient(mb_broker.url) for _ in range(20)]
        for client in clients:
            client.connect()
        assert own_threads().count("mb_sync") == 1
        for client in clients[1:]:
            client.close()
        assert clients[0].request("system.heartbeat", {}).payload
        assert own_threads().count("mb_sync") == 1
        clients[0].close()
        assert own_threads() == []


def test_clients_come_and_go_in_many_threads(url: str, together: Together) -> None:
    """The last to go may meet the next to come."""

    def come_and_go() -> None:
        for _ in range(5):
            with MessageBrokerClient(url) as client:
                assert client.request("system.heartbeat", {}).payload

    for _ in range(8):
        together.add(come_and_go)
    together.run()
    assert own_threads() == []


def test_a_failed_connect_keeps_nobodys_loop_from_going_on(
    mb_broker: RunningBroker, together: Together
) -> None:
    def fail() -> None:
        for _ in range(10):
            with pytest.raises(ConnectError):
                MessageBrokerClient("memory://nobody.here").connect()

    with MessageBrokerClient(mb_broker.url) as client:
        for _ in range(4):
            together.add(fail)
        with together.running():
            for _ in range(50):
                assert client.request("system.heartbeat", {}).payload
    assert own_threads() == []


# What nobody holds any more


def test_iterations_that_were_left_end_at_the_broker_as_well(url: str, together: Together) -> None:
    def take_one(number: int) -> None:
        topic = f"left.n{number}"
        events = client.subscribe(topic)
        client.publish(topic, number)
        for message in events:
            assert message.payload == number
            break

    with MessageBrokerClient(url) as client:
        for number in range(MANY):
            together.add(take_one, number)
        together.run()
        gc.collect()
        client.request("system.heartbeat", {})  # by now the broker knows it
        for number in range(MANY):
            assert unheard(client, f"left.n{number}")


def test_the_garbage_collector_may_end_one_in_the_midst_of_a_call(
    client: MessageBrokerClient, together: Together
) -> None:
    """It strikes wherever something is allocated: while a lock is held, and in the loop."""

    class Knot:
        """Subscriptions that the collector alone can find."""

        def __init__(self, topic: str) -> None:
            self.itself = self
            self.events = client.subscribe(topic)
            iter(self.events)

    def tie(number: int) -> None:
        for count in range(10):
            Knot(f"knot.n{number}.c{count}")
            client.request("system.heartbeat", {})
            client.publish(f"knot.n{number}.c{count}", count)

    before = gc.get_threshold()
    gc.set_threshold(10, 2, 2)
    try:
        for number in range(8):
            together.add(tie, number)
        together.run()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    client.request("system.heartbeat", {})
    assert all(unheard(client, f"knot.n{n}.c{c}") for n in range(8) for c in range(10))


# A program that has other things to do


def test_a_program_that_computes_keeps_its_connection(mb_broker: RunningBroker) -> None:
    """The broker's sign of life is asked for, and answered, while the GIL is in demand."""
    lost = threading.Event()
    client = MessageBrokerClient(mb_broker.url_of("tcp"), heartbeat_interval=500)
    client.on_disconnect(lost.set)
    with client:
        sent = client.stats().messages_sent
        until = time.monotonic() + PATIENCE
        number = 0
        while client.stats().messages_sent < sent + 2 and time.monotonic() < until:
            for _ in range(500_000):
                number = (number * 1103515245 + 12345) % 2**31
        assert not lost.is_set()
        assert client.connected
        stats = client.stats()
        assert (stats.reconnects, stats.messages_sent >= sent + 2) == (0, True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_handler_may_use_the_client_whatever_it_interrupts(
    client: MessageBrokerClient,
) -> None:
    answers: list[Any] = []
    events = client.subscribe("some.event", queue_size=None)

    def ask(number: int, frame: object) -> None:
        answers.append(client.request("system.heartbeat", {}).payload)
        client.publish("some.event", "from the handler")

    before = signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(answers) < 100:
            client.publish("some.event", "from the program")
            client.request("system.heartbeat", {})
            events.receive(PATIENCE * 1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(answers)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_breaks_out_of_the_loop_leaves_nobody_waiting(mb_broker: RunningBroker) -> None:
    """There is no such thing, as far as is known; if there were, no thread would hang."""
    client = MessageBrokerClient(mb_broker.url)
    client.connect()
    client.subscribe("never.answered", action="request")
    events = client.subscribe("never.published")
    waiting = threading.Semaphore(0)

    def ask() -> None:
        waiting.release()
        with pytest.raises(ConnectionLost):
            client.request("never.answered", None)

    def receive() -> None:
        waiting.release()
        assert list(events) == []

    def run() -> None:
        waiting.release()
        with contextlib.suppress(ConnectionLost):
            client.run()

    together = Together()
    for function in (ask, receive, run):
        together.add(function)
    with together.running():
        for _ in range(3):
            assert waiting.acquire(timeout=PATIENCE)
        loop = client._lifecycle.loop
        assert loop is not None
        loop.post(sys.exit)
    with pytest.raises(ConnectionLost):
        client.request("system.heartbeat", {})
    client.close()
    with MessageBrokerClient(mb_broker.url) as another:
        assert another.request("system.heartbeat", {}).payload
    for thread in threading.enumerate():
        if thread.name.startswith("mb_sync"):
            thread.join(PATIENCE)  # closing waits for its end for a second only
    assert own_threads() == []
