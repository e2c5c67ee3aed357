"""Clients that are dropped without `close()`: a warning, and nothing is left."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    LocalProtocolError,
    MessageBrokerClient,
    NoRouteFoundError,
    Subscription,
    TCPSocketClient,
)
from mb_core.client.tasks import TaskScope
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

UNCLOSED = (
    r"^unclosed client of {url}: nothing refers to it any more, so it is disconnected; use "
    r"'async with MessageBrokerClient\(\.\.\.\) as client' or 'await client\.close\(\)'$"
)


@pytest.fixture
async def broker(
    mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[RunningBroker]:
    """A broker that everybody has left at the end, of which the log tells nothing bad."""
    yield mb_broker
    with anyio.fail_after(5):
        await until(lambda: not mb_broker.connections)
    assert [each for each in caplog.records if each.levelno > logging.WARNING] == []


async def dropped_by(use: Callable[[], Awaitable[object]], url: str) -> None:
    """Await `use()`, which leaves a client behind: there is a warning, and all of it ends."""

    async def drop() -> None:
        await use()
        await anyio.lowlevel.checkpoint()  # trio refers to the last error that it has raised
        gc.collect()

    before = _task_scopes()
    with pytest.warns(ResourceWarning, match=UNCLOSED.format(url=url)) as warned:
        await drop()
    assert len(warned) == 1
    await ended_since(before)


async def ended_since(before: set[TaskScope]) -> None:
    """Wait until all that clients began since then is over."""
    with anyio.fail_after(5):
        await until(lambda: all(each.ended for each in _task_scopes() - before))
    await anyio.wait_all_tasks_blocked()


def _task_scopes() -> set[TaskScope]:
    return {each for each in gc.get_objects() if type(each) is TaskScope}


# What refers to the client, and what does not


async def nothing(client: MessageBrokerClient) -> None:
    pass


async def a_request(client: MessageBrokerClient) -> None:
    await client.request("system.heartbeat", {})


async def closures(client: MessageBrokerClient) -> None:
    called = anyio.Event()

    async def handle(*args: Any) -> None:
        await client.publish("heard.it", 1)
        called.set()

    client.on_connect(handle)
    client.on_disconnect(handle)
    client.on_error(handle)
    client.on_message(handle)
    await client.subscribe("a.b", handler=handle)
    await client.subscribe("a.c")
    await client.subscribe("a.d", action="request", handler=handle, concurrency=3)
    await client.publish("a.b", 1, confirm=True)
    await client.request("a.d", 1)
    with anyio.fail_after(5):
        await called.wait()


async def a_service_object(client: MessageBrokerClient) -> None:
    class Service:
        def __init__(self) -> None:
            self.client = client
            self.handled = anyio.Event()
            self.client.on_error(self.note)

        def note(self, error: Exception) -> None:
            raise AssertionError(error)

        async def handle(self, message: Any) -> Service:
            self.handled.set()
            return self

    service = Service()
    await client.subscribe("a.b", handler=service.handle)
    await client.publish("a.b", 1, confirm=True)
    with anyio.fail_after(5):
        await service.handled.wait()


async def a_registration(client: MessageBrokerClient) -> None:
    kept.append(client.on_message(lambda header, payload: None))
    kept.append(client.on_error(lambda error: None))


kept: list[Any] = []


@pytest.mark.parametrize("url", ["memory", "tcp", "ws"], indirect=True)
@pytest.mark.parametrize("use", [nothing, a_request, closures, a_service_object, a_registration])
async def test_a_dropped_client_warns_and_disconnects(
    broker: RunningBroker, url: str, use: Callable[[MessageBrokerClient], Awaitable[None]]
) -> None:
    async def forget() -> None:
        client = MessageBrokerClient(url)
        await client.connect()
        await use(client)
        assert broker.connections == 1
        await anyio.wait_all_tasks_blocked()

    await dropped_by(forget, url)
    kept.clear()


@pytest.mark.parametrize("iterated", [True, False])
async def test_a_subscription_that_is_held_keeps_its_client(
    broker: RunningBroker, iterated: bool
) -> None:
    handled = anyio.Event()

    async def subscribe() -> Subscription:
        client = MessageBrokerClient(broker.url)
        await client.connect()
        return await client.subscribe(
            "a.b", handler=None if iterated else lambda message: handled.set()
        )

    async def consume(subscription: Subscription) -> None:
        async for _ in subscription:
            handled.set()
            break

    async def forget() -> None:
        subscription = await subscribe()
        gc.collect()
        async with anyio.create_task_group() as tasks:
            if iterated:
                tasks.start_soon(consume, subscription)
            async with MessageBrokerClient(broker.url) as other:
                assert broker.connections == 2
                await other.publish("a.b", 7, confirm=True)
                with anyio.fail_after(5):
                    await handled.wait()

    await dropped_by(forget, broker.url)


async def test_no_warning_where_there_is_nothing_to_close(broker: RunningBroker) -> None:
    async def forget() -> None:
        MessageBrokerClient(broker.url)
        closed = MessageBrokerClient(broker.url)
        await closed.connect()
        await closed.close()
        failed = MessageBrokerClient("tcp://127.0.0.1:1")
        with pytest.raises(ConnectError):
            await failed.connect()
        with pytest.raises(LocalProtocolError):
            MessageBrokerClient(broker.url, connect_timeout=0)

    await forget()
    gc.collect()  # warnings are errors


# How it ends


async def test_a_service_does_not_stop_in_silence(
    broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """Python hides the ResourceWarning unless it is asked to show it."""

    async def serve(count: int) -> None:
        client = MessageBrokerClient(broker.url)
        await client.connect()
        await client.register_service("Clock", "tells the time")
        for number in range(count):
            await client.subscribe(f"a.b{number}", action="both", handler=lambda message: None)

    url = broker.url
    for count, end in ((0, ""), (1, "its subscription ends"), (2, "its 2 subscriptions end")):
        caplog.clear()
        before = _task_scopes()
        with pytest.warns(ResourceWarning, match=f"^unclosed client 'Clock' of {url}: "):
            await serve(count)
        await ended_since(before)
        expected = (
            f"the client 'Clock' of {url} was dropped without close(), so {end}: keep a reference "
            "to the client as long as its handlers are to be called"
        )
        found = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
        assert found == ([expected] if count else [])


async def test_what_was_published_still_goes_out(broker: RunningBroker) -> None:
    async def publish() -> None:
        client = MessageBrokerClient(broker.url)
        await client.connect()
        for number in range(500):
            await client.publish("a.b", number)

    async with MessageBrokerClient(broker.url) as other, other.subscribe("a.b") as events:
        await dropped_by(publish, broker.url)
        with anyio.fail_after(5):
            assert [(await anext(events)).payload for _ in range(500)] == list(range(500))


async def test_a_handler_that_is_busy_finishes_what_waits_for_it(broker: RunningBroker) -> None:
    began, proceed = anyio.Event(), anyio.Event()

    async def answer(message: Any) -> Any:
        began.set()
        await proceed.wait()
        return message.payload

    async with MessageBrokerClient(broker.url) as other, anyio.create_task_group() as tasks:

        async def ask(number: int) -> None:
            assert (await other.request("a.b", number, timeout=5_000)).payload == number

        async def serve() -> None:
            client = MessageBrokerClient(broker.url)
            await client.connect()
            subscription = await client.subscribe("a.b", action="request", handler=answer)
            tasks.start_soon(ask, 1)
            await began.wait()
            tasks.start_soon(ask, 2)
            await until(lambda: subscription.queued == 1)

        async def forget() -> None:
            await serve()
            gc.collect()
            proceed.set()

        await dropped_by(forget, broker.url)
        with pytest.raises(NoRouteFoundError):
            await other.request("a.b", 3)


async def test_it_tries_no_more_to_connect(
    mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture
) -> None:
    url = mb_broker.url_of("tcp")

    async def lose() -> None:
        client = MessageBrokerClient(url, drain_timeout=100)
        await client.connect()
        lost = anyio.Event()
        client.on_disconnect(lost.set)
        mb_broker.stop()
        await lost.wait()

    await dropped_by(lose, url)
    mb_broker.start()
    assert mb_broker.connections == 0
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_a_raw_client_that_is_dropped_warns_and_disconnects(broker: RunningBroker) -> None:
    url = broker.url_of("tcp")

    async def forget() -> None:
        client = TCPSocketClient()
        greeted = anyio.Event()

        def greet(text: str) -> TCPSocketClient:
            greeted.set()
            return client

        client.on_message(greet)
        await client.connect(url)
        with anyio.fail_after(5):
            await greeted.wait()
        await anyio.wait_all_tasks_blocked()

    async def drop() -> None:
        await forget()
        await anyio.lowlevel.checkpoint()
        gc.collect()

    before = _task_scopes()
    with pytest.warns(ResourceWarning, match=f"^unclosed client of {url}: .*'await client.close"):
        await drop()
    await ended_since(before)


# Where and when


async def test_the_garbage_collector_may_find_it_in_another_thread(broker: RunningBroker) -> None:
    async def forget() -> None:
        clients = [MessageBrokerClient(broker.url)]
        await clients[0].connect()
        thread = threading.Thread(target=clients.clear)
        thread.start()
        thread.join()

    await dropped_by(forget, broker.url)


PROGRAM = """
import gc, os, sys, threading
import anyio, mb_broker
from mb_core import MessageBrokerClient

kept = []

async def connect(url):
    client = MessageBrokerClient(url)
    await client.connect()
    await client.subscribe("a.b", handler=lambda message: client)
    kept.append(client)

def run(url):
    anyio.run(connect, url, backend=sys.argv[1])

def fork(url):
    async def main():
        await connect(url)
        if (child := os.fork()) == 0:
            kept.clear()
            gc.collect()
            sys.stderr.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        await kept.pop().close()
    anyio.run(main, backend=sys.argv[1])

with mb_broker.running("tcp://127.0.0.1:0") as broker:
    BODY
print("done")
"""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("run(broker.url); kept.clear(); gc.collect()", id="when its loop is closed"),
        pytest.param(
            "run(broker.url); t = threading.Thread(target=lambda: (kept.clear(), gc.collect()));"
            "t.start(); t.join()",
            id="when its loop is closed, in a thread",
        ),
        pytest.param("run(broker.url)", id="at the end of the interpreter"),
        pytest.param("fork(broker.url)", id="in a forked process"),
    ],
)
async def test_a_program_may_drop_it_at_any_time(anyio_backend_name: str, body: str) -> None:
    """With every warning an error, which would be printed as one that is ignored."""
    result = await anyio.run_process(
        [
            *(sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning"),
            *("-c", PROGRAM.replace("BODY", body), anyio_backend_name),
        ],
        check=False,
        stderr=subprocess.PIPE,
    )
    assert (result.stdout, result.stderr.decode(), result.returncode) == (b"done\n", "", 0)
