"""The life of a connection's tasks: nothing hangs, nothing leaks, nothing ends too early."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from websockets.server import ServerProtocol

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    ConnectionLost,
    MessageBrokerClient,
    TCPSocketClient,
    WebSocketClient,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.client.tasks import TaskScope
from mb_testing import until

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


# Closing while something else is under way


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_closing_a_client_that_connects_ends_both_at_once(
    start_tcp_server: Start, scheme: str
) -> None:
    """While it waits for the greeting (tcp), and for the transport's handshake (ws)."""
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(f"{scheme}://127.0.0.1:{server.port}")
        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:

                async def connect() -> None:
                    with pytest.raises(ConnectError, match="closed"):
                        await client.connect()

                tasks.start_soon(connect)
                await server.connected.wait()
                await anyio.wait_all_tasks_blocked()
                await client.close()
            await server.disconnected.wait()


@pytest.mark.parametrize("doomed", ["memory", "tcp", "ws"], indirect=True)
@pytest.mark.parametrize("kind", [MessageBrokerClient, TCPSocketClient, WebSocketClient])
async def test_closing_a_client_at_any_turn_of_its_connecting_ends_both(
    doomed: Any, kind: type
) -> None:
    schemes = {TCPSocketClient: "tcp", WebSocketClient: "ws"}
    if not doomed.url.startswith(schemes.get(kind, "")):
        pytest.skip("speaks one transport only")
    with anyio.fail_after(10):
        for turns in range(40):
            client = kind()
            outcomes: list[str] = []

            async def connect(client: Any = client, outcomes: list[str] = outcomes) -> None:
                try:
                    await client.connect(doomed.url)
                    outcomes.append("connected")
                except ConnectError:
                    outcomes.append("closed")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(connect)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await client.close()
            await client.close()  # where it was closed before it began to connect
        await until(lambda: doomed.broker.connections == 0)


async def test_a_connect_that_fails_does_not_wait_for_a_farewell(start_tcp_server: Start) -> None:
    """The other side is silent: it would take the whole close time limit."""
    async with start_tcp_server(greeting=None) as server:
        protocol = ServerProtocol()
        client = MessageBrokerClient(f"ws://127.0.0.1:{server.port}")
        with anyio.fail_after(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                await server.connected.wait()
                await until(lambda: b"\r\n\r\n" in server.received)
                protocol.receive_data(server.received)
                (request,) = protocol.events_received()
                protocol.send_response(protocol.accept(request))
                await server.send_bytes(b"".join(protocol.data_to_send()))
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await server.disconnected.wait()


async def test_what_came_with_the_brokers_farewell_is_acted_on(start_tcp_server: Start) -> None:
    """One piece: a heartbeat request, an invalid message, and the end."""
    got: list[Any] = []
    async with start_tcp_server(greeting=None) as server:
        protocol = ServerProtocol()
        client = MessageBrokerClient(f"ws://127.0.0.1:{server.port}", reconnect=False)
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.connect)
                await server.connected.wait()
                await until(lambda: b"\r\n\r\n" in server.received)
                protocol.receive_data(server.received)
                (request,) = protocol.events_received()
                protocol.send_response(protocol.accept(request))
                protocol.send_text(b"publish:system.initialize:1.0.0\n{}")
                await server.send_bytes(b"".join(protocol.data_to_send()))
            client.on_error(got.append)
            protocol.send_text(b"request:system.heartbeat:1.0.0\n{}")
            protocol.send_text(b"no message")
            protocol.send_close(1000, "good bye")
            await server.send_bytes(b"".join(protocol.data_to_send()))
            with pytest.raises(ConnectionLost):
                await client.run()
            await client.close()
    assert len(got) == 1  # about the invalid message


async def test_clients_that_close_each_other_in_handlers_do_not_wait_for_each_other(
    mb_broker: RunningBroker,
) -> None:
    """Not for ever: each is what the other's `drain_timeout` waits for."""
    one = MessageBrokerClient(mb_broker.url, drain_timeout=100)
    two = MessageBrokerClient(mb_broker.url, drain_timeout=100)
    entered = 0
    both = anyio.Event()

    async def close(other: MessageBrokerClient) -> None:
        nonlocal entered
        entered += 1
        if entered == 2:
            both.set()
        await both.wait()
        await other.close()

    with anyio.fail_after(4):
        await one.connect()
        await two.connect()
        await one.subscribe("a.b", handler=lambda message: close(two))
        await two.subscribe("a.b", handler=lambda message: close(one))
        await one.publish("a.b", {})
        await both.wait()
        await one.close()
        await two.close()
        await one.run()
        await two.run()


async def test_subscribing_while_closing_starts_nothing(mb_broker: RunningBroker) -> None:
    with anyio.fail_after(5):
        client = MessageBrokerClient(mb_broker.url)
        await client.connect()
        async with anyio.create_task_group() as tasks:
            for turns in range(6):

                async def subscribe(turns: int = turns) -> None:
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    with suppress(ConnectionLost):
                        await client.subscribe(f"a.b{turns}", handler=lambda m: None)

                tasks.start_soon(subscribe)
            tasks.start_soon(client.close)
        with pytest.raises(ConnectionLost):
            await client.subscribe("too.late", handler=lambda m: None)


async def test_a_block_that_is_cancelled_closes_its_client(start_broker: Start) -> None:
    with anyio.fail_after(5):
        async with start_broker("tcp://127.0.0.1:0") as broker:
            with anyio.CancelScope() as scope:
                async with MessageBrokerClient(broker.url) as client:
                    scope.cancel()
                    await client.run()
            # The closing goes on by itself.
            await client.close()
            await until(lambda: broker.broker.connections == 0)


# Programs that do not close


PROGRAM = """
import sys, anyio
from mb_broker import Broker
from mb_core import MessageBrokerClient

async def main():
    async with Broker("tcp://127.0.0.1:0") as broker:
        client = MessageBrokerClient(broker.url, close_timeout=200)
        await client.connect()
        await client.subscribe("a.b", action="both", handler=lambda message: "answer")
        print((await client.request("a.b", {})).payload)
        BODY

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("forgotten", ["client", "name"])
async def test_a_program_that_forgets_to_close_ends_with_a_warning(
    anyio_backend_name: str, forgotten: str
) -> None:
    body = "pass" if forgotten == "client" else "del client; import gc; gc.collect()"
    result = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-W", "default", "-c", PROGRAM.replace("BODY", body), anyio_backend_name],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("answer\n", 0)
    warnings = re.findall(r"^.*ResourceWarning: (?!Enable tracemalloc).*$", result.stderr, re.M)
    assert len(warnings) == 1
    assert "ResourceWarning: unclosed client of tcp://127.0.0.1:" in warnings[0]
    assert "Traceback" not in result.stderr


# The machine itself


async def test_an_opening_that_fails_ends_everything_it_started() -> None:
    ended: list[str] = []
    lifetime = TaskScope(Callbacks(Handlers()), 0.05, ended=lambda: ended.append("ended"))

    async def task() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("task")

    async def opening() -> None:
        lifetime.spawn(task)
        await anyio.wait_all_tasks_blocked()
        raise KeyError("mine")

    with anyio.fail_after(5), pytest.raises(KeyError, match="mine"):
        await lifetime.begin(opening)
    assert ended == ["task", "ended"]
    assert lifetime.ending


async def test_a_fault_in_a_task_ends_the_connection_and_not_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = anyio.Event()
    lifetime = TaskScope(Callbacks(Handlers()), 0.05, ended=ended.set)

    async def nothing() -> None:
        pass

    async def fail() -> None:
        raise RuntimeError("a bug")

    with anyio.fail_after(5):
        await lifetime.begin(nothing)
        lifetime.spawn(fail)
        await ended.wait()
        await lifetime.end()
    assert "dropping the connection" in caplog.text
    assert "RuntimeError: a bug" in caplog.text
    caplog.clear()


async def test_a_fault_while_it_opens_fails_the_opening_and_no_task_begins_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = anyio.Event()
    begun: list[int] = []
    lifetime = TaskScope(Callbacks(Handlers()), 0.05, ended=ended.set)

    async def fail() -> None:
        raise RuntimeError("a bug")

    async def begin() -> None:
        begun.append(1)

    async def opening() -> None:
        lifetime.spawn(fail)
        with anyio.CancelScope(shield=True):
            await ended.wait()
        lifetime.fail(KeyError("another bug"))
        with pytest.raises(ConnectError, match="internal error: RuntimeError"):
            lifetime.spawn(begin)

    with anyio.fail_after(5):
        with pytest.raises(ConnectError, match="internal error: RuntimeError") as raised:
            await lifetime.begin(opening)
        assert raised.value.final
        assert isinstance(raised.value.__cause__, RuntimeError)
        await anyio.wait_all_tasks_blocked()
    assert not begun
    assert "KeyError: 'another bug'" in caplog.text
    caplog.clear()


async def test_consumers_are_cancelled_before_the_end_begins_and_tasks_after_it() -> None:
    steps: list[str] = []
    lifetime = TaskScope(
        Callbacks(Handlers()),
        0.05,
        ending=lambda: steps.append("ending"),
        ended=lambda: steps.append("ended"),
    )

    def sleeper(name: str) -> Callable[[], Any]:
        async def sleep() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                steps.append(name)

        return sleep

    async def opening() -> None:
        lifetime.spawn(sleeper("task"))
        lifetime.spawn_consumer(sleeper("consumer"))

    with anyio.fail_after(5):
        await lifetime.begin(opening)
        await anyio.wait_all_tasks_blocked()
        await lifetime.end()
        lifetime.spawn_consumer(sleeper("never started"))
    assert steps == ["consumer", "ending", "task", "ended"]
