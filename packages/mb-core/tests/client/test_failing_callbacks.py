"""Callbacks that fail, and what is reported to on_error."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mb_broker import RunningBroker
from mb_core import (
    MessageBrokerClient,
    NoRouteFoundError,
    RemoteProtocolError,
)
from mb_testing import until

from .watching import Start

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


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
        await until(lambda: errors and "failed myself" in caplog.text)
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
        pytest.skip("on trio, only the task's own scopes cancel it")
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
