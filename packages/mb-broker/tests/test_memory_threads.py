"""memory://: listeners that close, and two event loops in two threads."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import anyio
import anyio.lowlevel
import pytest

from mb_broker import Broker, running
from mb_core import ConnectError, ConnectionLost
from mb_core.link import Link, Listener, current_backend
from mb_core.plugins import installed_plugins
from mb_core.transport import WireTransport
from mb_core.url import parse_url
from mb_core.wire import Limits
from mb_testing import until

from .memory_ends import BACKENDS, Ends, assert_given, ends, in_thread, settled

__all__ = ["ends"]

Connect = Callable[..., Awaitable[Any]]


# A listener that closes


@pytest.mark.anyio
async def test_connections_survive_their_listener(ends: Ends) -> None:
    near, far = ends.end(), ends.end()
    listener = await ends.listen(accept=far.accept)
    await ends.connect(listener, near.accept)
    await settled()
    await listener.close()
    near.link.send(b"1")
    with anyio.fail_after(5):
        assert await far.receive() == b"1"


@pytest.mark.anyio
async def test_a_connection_on_its_way_is_refused(ends: Ends) -> None:
    near = ends.end()

    def accept(link: Link) -> Any:
        raise AssertionError("nobody listens any more")

    listener = await ends.listen(accept=accept)
    await ends.connect(listener, near.accept)
    near.link.send(b"1")
    await listener.close()
    near.link.send(b"2")
    with anyio.fail_after(5):
        await near.lost.wait()
        await near.link.wait_closed()
    assert near.error is None


# Two event loops, two threads


@contextmanager
def broker_on(backend: str) -> Iterator[Broker]:
    """A Broker on an event loop of its own, in a thread of its own."""
    started: Future[Broker] = Future()
    stop = threading.Event()

    async def serve() -> None:
        async with Broker() as broker:
            started.set_result(broker)
            await anyio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=in_thread, args=(backend, serve))
    thread.start()
    try:
        yield started.result(5)
    finally:
        stop.set()
        thread.join()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_and_a_broker_on_two_loops(other: str, connect: Connect) -> None:
    with broker_on(other) as broker, anyio.fail_after(5):
        clients = [await connect(broker.url) for _ in range(3)]
        for client in clients:
            await client.subscribe("a.b")
        clients[0].send("publish:a.b:1.0.0\n{}")
        for client in clients:
            assert (await client.receive()).startswith(b"publish:a.b:1.0.0:")
        await clients[0].close()
        await clients[1].is_served()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_that_ends_closes_clients_on_other_loops(
    other: str, connect: Connect
) -> None:
    with broker_on(other) as broker:
        client = await connect(broker.url)
    with anyio.fail_after(5):
        await client.lost.wait()
        await client.link.wait_closed()
    assert client.error is None


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_back_pressure_between_two_loops(other: str, connect: Connect) -> None:
    count, size = 2000, 1000
    with broker_on(other) as broker, anyio.fail_after(20):
        receiver, sender = await connect(broker.url), await connect(broker.url)
        await receiver.subscribe("a.b")
        congested = 0
        for number in range(count):
            sender.send(f"publish:a.b:1.0.0\n{number:0{size}}")
            if sender.link.congested:
                congested += 1
                await sender.link.drain()
        await sender.is_served()
        assert congested
        for number in range(count):
            assert int((await receiver.receive()).partition(b"\n")[2]) == number


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_whose_loop_ended_is_noticed_when_something_is_sent_to_it(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()
        await client.subscribe("a.b", "request")
        await client.subscribe("a.b")

    async with Broker() as broker:
        await anyio.to_thread.run_sync(in_thread, other, come_and_go)
        assert broker.connections == 1
        publisher = await connect(broker.url)
        publisher.send("publish:a.b:1.0.0\n1")
        await until(lambda: broker.connections == 1)
        assert await publisher.ask("topic.list", {}) == {"topics": []}
        await publisher.is_served()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_request_to_a_client_whose_loop_ended_fails_at_once(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()
        await client.subscribe("a.b", "request")

    async with Broker() as broker:
        await anyio.to_thread.run_sync(in_thread, other, come_and_go)
        requester = await connect(broker.url)
        with anyio.fail_after(2):  # the time limit of a request is 5 s
            requester.send(f"request:a.b:1.0.0:{uuid4()}\n1")
            assert b"SERVICE_UNAVAILABLE" in await requester.receive()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_client_whose_loop_ended_while_it_connected_leaves_nothing(
    other: str, connect: Connect, raw_client: type[Any]
) -> None:
    async with Broker() as broker:
        # The broker's loop stands still meanwhile: it opens its end when the client is gone.
        in_thread(other, lambda: connect_raw(raw_client, broker.url))
        await anyio.wait_all_tasks_blocked()
        await until(lambda: broker.connections == 0)
        observer = await connect(broker.url)
        assert len((await observer.ask("service.list", {}))["services"]) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_whose_loop_ended_without_leaving(other: str, ends: Ends) -> None:
    listeners: list[Listener] = []
    opened, finish = threading.Event(), threading.Event()

    async def listen() -> None:
        def accept(link: Link) -> Any:
            opened.set()
            return ends.end().accept(link)

        listeners.append(await ends.listen("here", accept))
        opened.set()
        await anyio.to_thread.run_sync(finish.wait)

    thread = threading.Thread(target=in_thread, args=(other, listen))
    thread.start()
    await anyio.to_thread.run_sync(opened.wait)
    opened.clear()
    near = ends.end()
    await ends.connect(listeners[0], near.accept)
    await anyio.to_thread.run_sync(opened.wait)
    finish.set()
    await anyio.to_thread.run_sync(thread.join)

    near.link.send(b"1")
    with pytest.raises(ConnectionLost):
        near.link.send(b"2")
    with anyio.fail_after(5):
        await near.lost.wait()
        await near.link.wait_closed()
    assert isinstance(near.error, ConnectionLost)
    assert near.error.sent
    assert near.link.take_unsent() == [b"1"]
    with pytest.raises(ConnectError, match="the broker at memory://here has ended"):
        await ends.connect(listeners[0], ends.end().accept)


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
@pytest.mark.parametrize("ender", ["near", "far"])
async def test_of_two_threads_one_gets_the_beginning_and_one_gets_the_end_back(
    other: str, ender: str, ends: Ends, restless_threads: None
) -> None:
    """However they meet: every message is in one place, and none has overtaken another."""
    listeners: list[Listener] = []
    received: list[bytes] = []
    opened, finish = threading.Event(), threading.Event()

    def accept(link: Link) -> Any:
        def take(messages: list[bytes]) -> None:
            received.extend(messages)
            if ender == "far" and len(received) > 2000:
                link.close()

        end = ends.end()
        end.messages_received = take
        return end.accept(link)

    async def listen() -> None:
        listeners.append(await ends.listen("here", accept))
        opened.set()
        await anyio.to_thread.run_sync(finish.wait)

    thread = threading.Thread(target=in_thread, args=(other, listen))
    thread.start()
    try:
        await anyio.to_thread.run_sync(opened.wait)
        for round_ in range(30):
            received.clear()
            near, sent = ends.end(), []
            await ends.connect(listeners[0], near.accept)
            with anyio.fail_after(10):
                for number in range(3000 + round_):
                    message = b"%d" % number
                    try:
                        near.link.send(message)
                    except ConnectionLost:
                        break
                    sent.append(message)
                    if number % 300 == 299:
                        await anyio.lowlevel.checkpoint()
                if ender == "near":
                    near.link.abort()
                await near.lost.wait()
            unsent = near.link.take_unsent()
            # What was taken at the same moment is with its handler when another turn is over.
            await in_the_other(listeners[0])
            assert received == sent[: len(received)]
            assert_given(unsent, sent[len(received) :])
    finally:
        finish.set()
        await anyio.to_thread.run_sync(thread.join)


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns at every chance."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


async def in_the_other(listener: Any) -> None:
    """Wait for a turn of the event loop on which a listener is."""
    turned = threading.Event()
    assert listener.post(turned.set)
    assert await anyio.to_thread.run_sync(turned.wait, 5)


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_a_broker_does_not_wait_for_clients_whose_loop_ended(
    other: str, raw_client: type[Any]
) -> None:
    async def come_and_go() -> None:
        client = await connect_raw(raw_client, broker.url)
        await client.receive()

    with anyio.fail_after(5):
        async with Broker() as broker:
            await anyio.to_thread.run_sync(in_thread, other, come_and_go)
            assert broker.connections == 1
    assert broker.connections == 0


def test_clients_of_many_threads_come_and_go_and_the_broker_goes_first(
    raw_client: type[Any],
) -> None:
    for _ in range(3):
        enough = threading.Semaphore(0)
        faults: list[BaseException] = []
        threads: list[threading.Thread] = []

        async def come_and_go(url: str, enough: threading.Semaphore) -> None:
            with anyio.fail_after(10):
                for number in itertools.count():
                    try:
                        client = await connect_raw(raw_client, url)
                    except ConnectError:
                        return  # the broker is gone
                    try:
                        await client.receive()
                        await client.subscribe(f"a.t{number % 7}")
                        client.send("publish:a.t1:1.0.0\n{}", "request:a.x:1.0.0\n{}")
                    except (AssertionError, ConnectionLost):
                        await client.lost.wait()
                    if number % 3:
                        await client.close()
                    enough.release()

        def run(
            backend: str, url: str, enough: threading.Semaphore, faults: list[BaseException]
        ) -> None:
            try:
                anyio.run(come_and_go, url, enough, backend=backend)
            except BaseException as error:
                faults.append(error)

        with running() as broker:
            for backend in 2 * BACKENDS:
                thread = threading.Thread(target=run, args=(backend, broker.url, enough, faults))
                threads.append(thread)
                thread.start()
            for _ in range(60):
                assert enough.acquire(timeout=10)
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
        assert not faults


async def connect_raw(raw_client: type[Any], url: str) -> Any:
    """A RawClient on a memory:// URL; nothing closes it."""
    client = raw_client()
    transport = installed_plugins().transport("memory")
    assert not isinstance(transport, WireTransport)
    await transport.connect(
        parse_url(url), client.accept, backend=current_backend(), limits=Limits()
    )
    return client
