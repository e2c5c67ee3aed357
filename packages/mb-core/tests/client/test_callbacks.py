"""The on_* callbacks: what is called, when, in which order, and what a failing one disturbs."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    ConnectError,
    Message,
    MessageBrokerClient,
    NoRouteFoundError,
    RemoteProtocolError,
    parse_message,
)
from mb_core.client.callbacks import Callbacks, Handlers
from mb_core.link import current_backend
from mb_core.message import handling
from mb_core.user_code import call, failure
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Start = Callable[..., AbstractAsyncContextManager[Any]]

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


# Failing callbacks


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_failing_callback_stops_no_other(
    mb_broker: RunningBroker, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    calls: list[str] = []
    errors: list[Exception] = []

    def plain() -> None:
        raise ValueError("mine")

    async def waiting() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("mine")

    client = MessageBrokerClient(mb_broker.url)
    for register, name in ((client.on_connect, "connect"), (client.on_disconnect, "disconnect")):
        register(plain if kind == "plain" else waiting)
        register(lambda name=name: calls.append(name))
    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.connect()
        await client.request("system.heartbeat", {})
        await client.close()
    assert calls == ["connect", "disconnect"]
    assert [str(error) for error in errors] == ["mine", "mine"]
    assert "the callback test_a_failing_callback" in caplog.text
    assert "ValueError: mine" in caplog.text


async def test_a_failing_error_handler_is_only_logged(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would be called with its own errors for ever."""
    errors: list[Exception] = []

    def fail(error: Exception) -> None:
        raise RuntimeError("failed myself")

    client.on_error(fail)
    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.publish("nobody.listens", {})
        await until(lambda: errors)
    assert [type(error) for error in errors] == [NoRouteFoundError]
    assert "the error handler test_a_failing_error_handler" in caplog.text
    assert "RuntimeError: failed myself" in caplog.text


async def test_a_failing_message_handler_stops_neither_the_reader_nor_the_others(
    client: MessageBrokerClient,
) -> None:
    got: list[Any] = []
    errors: list[Exception] = []

    def fail(header: Any, payload: Any) -> None:
        raise ValueError(payload)

    client.on_message(fail)
    client.on_message(lambda header, payload: got.append(payload))
    client.on_error(errors.append)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        for number in range(3):
            await client.publish("a.b", number)
        await until(lambda: len(got) == len(errors) == 3)
        await client.request("system.heartbeat", {})
    assert got == [0, 1, 2]


async def test_a_callback_that_awaits_what_was_cancelled_stops_no_other(
    mb_broker: RunningBroker, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("on trio, nobody but the task's own scopes cancels it")
    calls: list[str] = []
    errors: list[Exception] = []

    async def wait_for_what_is_gone() -> None:
        gone = asyncio.get_running_loop().create_future()
        gone.cancel()
        await gone

    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(wait_for_what_is_gone)
    client.on_connect(lambda: calls.append("connect"))
    client.on_error(errors.append)
    with anyio.fail_after(3):
        await client.connect()
        await until(lambda: errors)
        await client.close()
    assert calls == ["connect"]
    assert "cancelled" in str(errors[0])
    assert isinstance(errors[0].__cause__, asyncio.CancelledError)


# What is reported


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (b"no header at all", RemoteProtocolError),
        (b"publish:a.b:one\n{}", RemoteProtocolError),
        (b"\xff\xfe\n", RemoteProtocolError),
        (b"", RemoteProtocolError),
        (b'response:a.b:1.0.0\n{"error":{"code":"X","message":"y"}}', Exception),
    ],
    ids=["header", "version", "bytes", "empty", "error"],
)
async def test_what_the_broker_sends_wrong_is_told_to_on_error_as_a_warning(
    start_tcp_server: Start, caplog: pytest.LogCaptureFixture, message: bytes, kind: type
) -> None:
    errors: list[Exception] = []
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        client.on_error(errors.append)
        with anyio.fail_after(5):
            await server.send(message)
            await until(lambda: errors)
    assert isinstance(errors[0], kind)
    levels = [record.levelno for record in caplog.records if record.name == "mb_core.client"]
    assert levels == [logging.WARNING]


async def test_what_belongs_to_nobody_is_ignored_without_a_word(
    start_tcp_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with start_tcp_server() as server, MessageBrokerClient(server.url) as client:
        client.on_error(errors.append)
        with anyio.fail_after(5):
            await server.send(
                b"publish:a.b:1.0.0\n{}",
                b"response:a.b:1.0.0\n{}",
                b"response:a.b:1.0.0:0f8fad5b-d9cb-469f-a165-70867728950e\n{}",
                b"request:a.b:1.0.0\n{}",
                b"response:system.heartbeat:1.0.0\n{}",
                b"request:system.heartbeat:1.0.0\n{}",
            )
            await server.wait_for(b"response:system.heartbeat")
        assert len(server.messages) == 1  # never an answer to a response
    assert errors == []
    assert [record for record in caplog.records if record.levelno >= logging.INFO] == []


# The machine itself


async def test_call_takes_plain_and_async_functions() -> None:
    async def answer(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number

    class Callable_:  # noqa: N801
        async def __call__(self, number: int) -> int:
            return number

    for function in (answer, Callable_(), lambda number: number, lambda number: answer(number)):
        assert await call(function, 7) == 7
    assert await call(lambda: None) is None


async def test_what_was_posted_before_waits_for_run_and_goes_to_whom_is_there_then() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    first: list[int] = []
    second: list[int] = []
    callbacks.register(callbacks.connect, first.append)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                callbacks.post(callbacks.connect, number)
            callbacks.post(callbacks.disconnect, 3)  # of which there are none
            callbacks.register(callbacks.connect, second.append)
            await anyio.wait_all_tasks_blocked()
            assert first == []
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            assert first == second == [0, 1, 2]
            callbacks.post(callbacks.connect, 4)
            callbacks.finish()
    assert first == second == [0, 1, 2, 4]


async def test_run_ends_behind_the_errors_of_the_last_calls() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    errors: list[Exception] = []

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("last")

    callbacks.register(callbacks.connect, fail)
    callbacks.register(callbacks.error, errors.append)
    callbacks.post(callbacks.connect)
    callbacks.finish()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
    assert [str(error) for error in errors] == ["last"]


@pytest.mark.parametrize("turns", range(5))
async def test_what_a_cancelled_run_has_not_called_is_left_for_the_next(turns: int) -> None:
    """Wherever it is cancelled; a call that had begun is over."""
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    begun: list[int] = []
    got: list[int] = []

    async def handler(number: int) -> None:
        begun.append(number)
        await anyio.lowlevel.checkpoint()
        got.append(number)

    callbacks.register(callbacks.connect, handler)
    for number in range(3):
        callbacks.post(callbacks.connect, number)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
    assert begun == [0, 1, 2]
    assert len(got) >= 2


async def test_what_is_due_can_be_called_without_run() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    errors: list[Exception] = []
    got: list[int] = []

    async def handler(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        got.append(number)
        if number == 1:
            raise ValueError(number)

    callbacks.register(callbacks.message, handler)
    callbacks.register(callbacks.error, errors.append)
    for number in range(3):
        callbacks.post(callbacks.message, number)
    with anyio.fail_after(5):
        await callbacks.run_due()
    assert got == [0, 1, 2]
    assert [str(error) for error in errors] == ["1"]


async def test_a_handler_that_is_being_called_is_not_called_by_another_task_as_well() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    steps: list[str] = []
    go_on = anyio.Event()

    async def handler(number: int) -> None:
        steps.append(f"begin {number}")
        await go_on.wait()
        steps.append(f"end {number}")

    callbacks.register(callbacks.message, handler)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(callbacks.run, current_backend())
            callbacks.post(callbacks.message, 0)
            await anyio.wait_all_tasks_blocked()
            callbacks.post(callbacks.message, 1)
            await callbacks.run_due()  # returns at once: it waits for nobody
            go_on.set()
            await until(lambda: len(steps) == 4)
            callbacks.finish()
    assert steps == ["begin 0", "end 0", "begin 1", "end 1"]


async def test_a_handler_need_not_be_hashable_nor_have_a_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @dataclass
    class Handler:
        got: list[int] = field(default_factory=list, repr=False)

        def __call__(self, number: int) -> None:
            self.got.append(number)
            if number == 2:
                raise ValueError("mine")

    handlers = Handlers()
    callbacks = Callbacks(handlers)
    one, two = Handler(), Handler()
    for handler in (one, two):
        callbacks.register(callbacks.connect, handler)
    for number in range(3):
        callbacks.post(callbacks.connect, number)
    with anyio.fail_after(5):
        await callbacks.run_due()
    assert one.got == two.got == [0, 1, 2]
    assert "Handler() failed: mine" in caplog.text


async def test_handlers_that_are_equal_are_called_each() -> None:
    @dataclass(frozen=True)
    class Handler:
        got: list[int] = field(default_factory=list, compare=False)

        def __call__(self, number: int) -> None:
            self.got.append(number)

    handlers = Handlers()
    callbacks = Callbacks(handlers)
    one, two = Handler(), Handler()
    for handler in (one, two):
        callbacks.register(callbacks.connect, handler)
    callbacks.post(callbacks.connect, 1)
    await callbacks.run_due()
    assert (one.got, two.got) == ([1], [1])


async def test_callbacks_are_no_part_of_what_the_handler_works_on_that_has_connected() -> None:
    handlers = Handlers()
    callbacks = Callbacks(handlers)
    seen: list[Message | None] = []
    callbacks.register(callbacks.connect, lambda: seen.append(handling.get()))
    callbacks.post(callbacks.connect)
    message = parse_message("publish:a:1.0.0\n1")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            handling.set(message)
            tasks.start_soon(callbacks.run, current_backend())
            await anyio.wait_all_tasks_blocked()
            callbacks.finish()
            assert handling.get() is message
            handling.set(None)
    assert seen == [None]


INTERRUPTED = """
import signal, sys, time
import anyio
from mb_broker import Broker
from mb_core import MessageBrokerClient

async def main():
    async with Broker("tcp://127.0.0.1:0") as broker:
        client = MessageBrokerClient(broker.url, close_timeout=20_000)
        await client.connect()
        errors = []
        def interrupt(error):
            if not errors:
                errors.append(error)
                signal.raise_signal(signal.SIGINT)
        client.on_error(interrupt)
        client.on_disconnect(lambda: print("disconnected"))
        await client.publish("nobody.listens", {})
        try:
            await client.run()
        except KeyboardInterrupt:
            print("caught")
            with anyio.fail_after(10):
                await client.close()

anyio.run(main, backend=sys.argv[1])
"""


async def test_an_interrupt_in_a_callback_reaches_the_main_task_and_stops_no_callback(
    anyio_backend_name: str,
) -> None:
    """On trio it is raised in the callback itself."""
    result = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", INTERRUPTED, anyio_backend_name],
        env={name: text for name, text in os.environ.items() if "COVERAGE" not in name},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("caught\ndisconnected\n", "", 0)


async def test_only_failures_of_user_code_are_failures() -> None:
    error = ValueError()
    assert failure(error) is error
    for other in (KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(other)):
            failure(other)
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class() as cancelled:
            with pytest.raises(anyio.get_cancelled_exc_class()):
                failure(cancelled)
            raise
