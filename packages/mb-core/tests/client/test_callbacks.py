"""The on_* callbacks: what is called, when, in which order, and what a failing one disturbs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from mb_broker import Broker
from mb_core import (
    ConnectError,
    LocalProtocolError,
    MessageBrokerClient,
    NoRouteFoundError,
    RemoteProtocolError,
)
from mb_core.client.callbacks import Callbacks, call, failure
from mb_core.link import current_backend

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

Start = Callable[..., AbstractAsyncContextManager[Any]]

GREETING = b"publish:system.initialize:1.0.0\n{}"


async def until(fact: Callable[[], Any]) -> None:
    while not fact():  # noqa: ASYNC110
        await anyio.sleep(0.002)


async def fill(client: MessageBrokerClient, topic: str, count: int) -> None:
    for number in range(count):
        await client.publish(topic, number)
    await client.request("system.heartbeat", {})  # behind which nothing is left


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


async def test_async_callbacks_are_awaited_one_after_the_other(mb_broker: Broker) -> None:
    steps: list[str] = []

    def slow(name: str) -> Callable[[], Any]:
        async def callback() -> None:
            steps.append(f"begin {name}")
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            steps.append(f"end {name}")

        return callback

    client = MessageBrokerClient(mb_broker.url)
    client.on_connect(slow("one"))
    client.on_connect(slow("two"))
    client.on_disconnect(slow("three"))
    with anyio.fail_after(5):
        await client.connect()
        await client.close()
    order = [f"{step} {name}" for name in ("one", "two", "three") for step in ("begin", "end")]
    assert steps == order


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


async def test_a_callback_may_use_its_client(mb_broker: Broker) -> None:
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


async def test_a_callback_sees_the_context_variables_of_who_connected(mb_broker: Broker) -> None:
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
    mb_broker: Broker,
) -> None:
    ended: list[str] = []

    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    client = MessageBrokerClient(mb_broker.url, close_timeout=50)
    client.on_disconnect(endless)
    client.on_disconnect(lambda: ended.append("never called"))
    with anyio.fail_after(5):
        await client.connect()
        await client.close()
    assert ended == ["cancelled"]


# Failing callbacks


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_failing_callback_stops_no_other(
    mb_broker: Broker, caplog: pytest.LogCaptureFixture, kind: str
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
    mb_broker: Broker, anyio_backend_name: str
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


# on_message


async def test_messages_without_consumer_wait_for_on_message(client: MessageBrokerClient) -> None:
    got: list[tuple[str, str, Any]] = []
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        await fill(client, "a.b", 3)
        assert events.queued == 3
        client.on_message(
            lambda header, payload: got.append((header.action, header.topic, payload))
        )
        await client.publish("a.b", 3)
        await until(lambda: len(got) == 4)
    assert got == [("publish", "a.b", number) for number in range(4)]


async def test_each_on_message_handler_gets_each_message(client: MessageBrokerClient) -> None:
    one: list[Any] = []
    two: list[Any] = []

    async def second(header: Any, payload: Any) -> None:
        await anyio.lowlevel.checkpoint()
        two.append(payload)

    client.on_message(lambda header, payload: one.append(payload))
    client.on_message(second)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await client.subscribe("c.d")
        await client.publish("a.b", 1)
        await client.publish("c.d", 2)
        await until(lambda: len(two) == 2)
    assert sorted(one) == sorted(two) == [1, 2]


async def test_on_message_gets_the_messages_of_a_subscription_one_after_the_other(
    client: MessageBrokerClient,
) -> None:
    steps: list[str] = []

    async def handler(header: Any, payload: Any) -> None:
        steps.append(f"begin {payload}")
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        steps.append(f"end {payload}")

    client.on_message(handler)
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await fill(client, "a.b", 3)
        await until(lambda: len(steps) == 6)
    assert steps == ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]


async def test_on_message_does_not_take_what_has_a_consumer(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    handled: list[Any] = []
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        await client.subscribe("handled", handler=lambda m: handled.append(m.payload))
        async with client.subscribe("iterated") as events:
            await client.publish("handled", 1)
            await client.publish("iterated", 2)
            assert (await anext(events)).payload == 2
            await until(lambda: handled == [1])
    assert got == []


async def test_on_message_cant_be_iterated_as_well(client: MessageBrokerClient) -> None:
    client.on_message(lambda header, payload: None)
    with anyio.fail_after(5):
        events = await client.subscribe("a.b")
        with pytest.raises(LocalProtocolError, match="go to a handler"):
            await anext(events)


async def test_on_message_gets_no_requests(client: MessageBrokerClient) -> None:
    got: list[Any] = []
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        async with (
            client.subscribe("a.b", action="request") as requests,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.request, "a.b", {})
            await (await anext(requests)).respond("by hand")
    assert got == []


async def test_on_message_is_told_of_what_cant_be_read(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    got: list[Any] = []
    client.on_error(errors.append)
    client.on_message(lambda header, payload: got.append(payload))
    with anyio.fail_after(5):
        await client.subscribe("a.b")
        await client.publish("a.b", msgspec.Raw(b"}{"))
        await client.publish("a.b", 1)
        await until(lambda: got == [1] and errors)
    assert [type(error) for error in errors] == [RemoteProtocolError]
    assert "a message of 'a.b' can't be read" in caplog.text


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


async def test_calls_are_made_in_the_order_in_which_they_were_posted() -> None:
    callbacks = Callbacks()
    calls: list[Any] = []
    callbacks.connect.append(lambda: calls.append("connect"))
    callbacks.error.append(lambda error: calls.append(error))
    error = ValueError("between")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            callbacks.post(callbacks.connect)
            tasks.start_soon(callbacks.run, current_backend())
            callbacks.report(error, "it")
            callbacks.post(callbacks.connect)
            callbacks.post(callbacks.disconnect)  # of which there are none
            await anyio.wait_all_tasks_blocked()
            assert calls == ["connect", error, "connect"]
            callbacks.post(callbacks.connect)
            callbacks.finish()
    assert calls[3:] == ["connect"]


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
