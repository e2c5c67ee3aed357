"""The on_* callbacks: what is called, when and in which order, and slow ones."""

from __future__ import annotations

import time
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    MessageBrokerClient,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.link import current_backend
from mb_testing import until

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]
GREETING = b"publish:system.initialize:1.0.0\n{}"


def running_tasks() -> set[int]:
    return {task.id for task in anyio.get_running_tasks()}


def told(caplog: pytest.LogCaptureFixture) -> list[int]:
    """How many dropped calls the log has told of, each time."""
    found = [record for record in caplog.records if "calls of it dropped" in record.msg]
    return [record.args[1] for record in found]  # type: ignore[misc, index]


# Connecting and disconnecting


async def test_connect_comes_before_disconnect_and_each_comes_once(url: str) -> None:
    calls: list[str] = []
    client = MessageBrokerClient(url)
    client.on_disconnect(lambda: calls.append("disconnect"))
    client.on_connect(lambda: calls.append("connect"))
    with anyio.fail_after(5):
        await client.connect()
        await client.close()
        await client.close()
    assert calls == ["connect", "disconnect"]


async def test_the_calls_of_a_handler_are_made_one_after_the_other_in_the_order_of_events(
    mb_broker: RunningBroker,
) -> None:
    steps: list[str] = []

    class Watch:
        """Its bound methods are other objects each time, and one handler."""

        async def changed(self) -> None:
            number = len(steps) // 2
            steps.append(f"begin {number}")
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            steps.append(f"end {number}")

    watch = Watch()
    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(watch.changed)
    client.on_disconnect(watch.changed)
    with anyio.fail_after(5):
        await client.connect()
        await client.close()
    assert steps == ["begin 0", "end 0", "begin 1", "end 1"]


async def test_a_connection_that_never_came_about_is_not_told_as_lost(
    start_tcp_server: Start,
) -> None:
    calls: list[str] = []
    async with start_tcp_server(greeting=None) as server:
        client = MessageBrokerClient(server.url, connect_timeout=50)
        client.on_connect(lambda: calls.append("connect"))
        client.on_disconnect(lambda: calls.append("disconnect"))
        with anyio.fail_after(5):
            with pytest.raises(ConnectError):
                await client.connect()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await client.connect()
    assert calls == []


async def test_a_greeting_and_the_end_in_one_piece_are_told_in_order(
    start_tcp_server: Start,
) -> None:
    calls: list[str] = []
    async with start_tcp_server(greeting=None) as server, anyio.create_task_group() as tasks:

        async def greet_and_break() -> None:
            await server.connected.wait()
            await server.send(GREETING)
            await server.send_bytes(b"\xff\xff\xff\xff")

        tasks.start_soon(greet_and_break)
        client = MessageBrokerClient(server.url)
        client.on_connect(lambda: calls.append("connect"))
        client.on_disconnect(lambda: calls.append("disconnect"))
        with anyio.fail_after(5):
            await client.connect()
            await until(lambda: len(calls) == 2)
            await client.close()
    assert calls == ["connect", "disconnect"]


async def test_a_broker_that_greets_twice_has_connected_once(start_tcp_server: Start) -> None:
    calls: list[str] = []
    async with start_tcp_server() as server:
        client = MessageBrokerClient(server.url)
        client.on_connect(lambda: calls.append("connect"))
        with anyio.fail_after(5):
            await client.connect()
            await server.send(GREETING, b"request:system.heartbeat:1.0.0\n{}")
            await server.wait_for(b"response:system.heartbeat")
            await client.close()
    assert calls == ["connect"]


async def test_a_callback_may_use_its_client(mb_broker: RunningBroker) -> None:
    answers: list[Any] = []
    client = MessageBrokerClient(mb_broker.url)

    async def set_up() -> None:
        await client.subscribe("a.b", action="request", handler=lambda m: "set up")
        answers.append((await client.request("a.b", {})).payload)

    client.on_connect(set_up)
    with anyio.fail_after(5):
        async with client:
            await until(lambda: answers)
    assert answers == ["set up"]


async def test_a_callback_sees_the_context_variables_of_who_connected(
    mb_broker: RunningBroker,
) -> None:
    variable = ContextVar("variable", default="unset")
    seen: list[str] = []
    variable.set("connector")
    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(lambda: seen.append(variable.get()))
    client.on_disconnect(lambda: seen.append(variable.get()))
    client.on_error(lambda error: seen.append(variable.get()))
    with anyio.fail_after(5):
        await client.connect()
        await client.publish("nobody.listens", {})
        await until(lambda: len(seen) == 2)
        await client.close()
    assert seen == ["connector"] * 3


async def test_closing_waits_for_the_last_callback_and_no_longer_than_its_limit(
    mb_broker: RunningBroker,
) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async def slow() -> None:
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        ended.append("done")

    client = MessageBrokerClient(mb_broker.url, close_timeout=50)
    client.on_disconnect(endless)
    client.on_disconnect(slow)
    with anyio.fail_after(5):
        await client.connect()
        await client.close()
    assert ended == ["done", "cancelled"]


# Slow callbacks


async def test_a_hanging_callback_stops_neither_the_reader_nor_any_other(
    mb_broker: RunningBroker,
) -> None:
    calls: list[str] = []
    got: list[Any] = []
    errors: list[Exception] = []

    async def hang(*args: Any) -> None:
        calls.append("hang")
        await anyio.sleep_forever()

    client = MessageBrokerClient(mb_broker.url, close_timeout=50)
    for register in (client.on_connect, client.on_error, client.on_disconnect):
        register(lambda *args: hang(*args))
    client.on_connect(lambda: calls.append("connect"))
    client.on_error(errors.append)
    client.on_disconnect(lambda: calls.append("disconnect"))
    with anyio.fail_after(5):
        await client.connect()
        await client.subscribe("a.b", handler=lambda message: got.append(message.payload))
        for number in range(3):
            await client.publish("a.b", number)
            await client.publish(f"nobody.listens{number}", {})
        await client.request("system.heartbeat", {})
        await until(lambda: len(errors) == 3)
        await client.close()
    assert got == [0, 1, 2]
    assert sorted(calls) == ["connect", "disconnect", "hang", "hang", "hang"]


async def test_a_callback_that_never_awaits_starves_nobody() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    called = turns = 0

    def busy() -> None:
        nonlocal called
        called += 1
        until = time.monotonic() + 0.001
        while time.monotonic() < until:
            pass

    callbacks.register(callbacks.connect, busy)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            for _ in range(200):
                callbacks.post(callbacks.connect)
            while called < 200:
                await anyio.lowlevel.checkpoint()
                turns += 1
            callbacks.finish()
    assert turns >= 5


async def test_nothing_runs_where_nothing_is_due() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    names: list[set[int]] = []
    for _ in range(3):
        callbacks.register(callbacks.connect, lambda: names.append(running_tasks()))
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            before = running_tasks()
            callbacks.post(callbacks.connect)
            await anyio.wait_all_tasks_blocked()
            assert running_tasks() == before
            callbacks.finish()
    assert len(names) == 3
    assert all(each - before for each in names)


async def test_what_a_slow_handler_has_no_room_for_is_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    go_on = anyio.Event()
    got: list[int] = []
    quick: list[int] = []

    async def slow(number: int) -> None:
        got.append(number)
        await go_on.wait()

    for handler in (slow, quick.append):
        callbacks.register(callbacks.error, handler)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            for number in range(1_500):
                callbacks.post(callbacks.error, number)
                if number % 100 == 0:
                    await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            assert callbacks.dropped == 499
            assert told(caplog) == [1]
            go_on.set()
            callbacks.finish()
    # Its queue is the oldest calls, and nothing is lost in silence: the log has the sum.
    assert got == list(range(1_001))
    assert quick == list(range(1_500))
    assert told(caplog) == [1, 499]
    assert "slow is too slow" in caplog.text


async def test_the_log_hears_of_dropped_calls_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    now = 100.0
    clock = SimpleNamespace(monotonic=lambda: now)  # not the event loop's as well
    monkeypatch.setattr("mb_core.throttle.time", clock)
    callbacks.register(callbacks.connect, anyio.sleep_forever)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            callbacks.post(callbacks.connect)
            await anyio.wait_all_tasks_blocked()
            for _ in range(1_001):
                callbacks.post(callbacks.connect)
            for _ in range(4):
                for _ in range(2):
                    callbacks.post(callbacks.connect)
                    await anyio.wait_all_tasks_blocked()
                now += 0.5
            assert told(caplog) == [1, 6]
            tasks.cancel_scope.cancel()
    # Who is cancelled leaves no loss untold either.
    assert told(caplog) == [1, 6, 9]
