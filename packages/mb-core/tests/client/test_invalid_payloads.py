"""Payloads that a handler can't decode: the sender gets the reason, reports are limited."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
import pytest

from mb_core import (
    ConnectionLost,
    InternalError,
    InvalidRequestError,
    Message,
    MessageBrokerClient,
    RemoteProtocolError,
)
from mb_testing import until

from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


@dataclass
class Order:
    count: int


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def decode(message: Message) -> Any:
    return message.decode(Order).count


async def decode_async(message: Message) -> Any:
    return message.decode(Order).count


async def decode_and_answer(message: Message) -> None:
    await message.respond(message.decode(Order).count)


async def decode_in_a_task_group(message: Message) -> Any:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(decode_async, message)
    return message.payload["count"]


def decode_a_copy(message: Message) -> Any:
    return copy.copy(message).decode(Order).count


def decode_elsewhere(message: Message) -> Any:
    """As in a worker process, which sends its error back."""
    try:
        return pickle.loads(pickle.dumps(message)).decode(Order).count
    except RemoteProtocolError as error:
        raise pickle.loads(pickle.dumps(error)) from None


@pytest.mark.parametrize(
    "handler",
    [
        decode,
        decode_async,
        decode_and_answer,
        decode_in_a_task_group,
        decode_a_copy,
        decode_elsewhere,
    ],
)
@pytest.mark.parametrize(
    ("payload", "text", "details"),
    [
        ({"count": "x"}, "Expected `int`, got `str` at $.count", {"path": "$.count"}),
        ({}, "Object missing required field `count` at $", {"path": "$"}),
        (None, "Expected `object`, got `null` at $", {"path": "$"}),
        (
            msgspec.Raw(b"]["),
            "the payload can't be read: JSON is malformed: invalid character (byte 0)",
            None,
        ),
    ],
)
async def test_the_requester_is_told_what_is_wrong_and_where(
    client: MessageBrokerClient,
    caplog: pytest.LogCaptureFixture,
    handler: Callable[[Message], Any],
    payload: Any,
    text: str,
    details: Any,
) -> None:
    with anyio.fail_after(5):
        await client.subscribe("order.place", action="request", handler=handler)
        with pytest.raises(InvalidRequestError) as raised:
            await client.request("order.place", payload)
        assert (raised.value.message, raised.value.details) == (text, details)
        (record,) = warnings(caplog)
        assert record.levelno == logging.WARNING
        assert record.exc_info is None
        assert f"{handler.__name__} can't read a request of 'order.place': " in record.getMessage()
        assert (await client.request("order.place", {"count": 3})).payload == 3


async def test_another_message_that_cant_be_read_is_the_handlers_failure(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def place(message: Message) -> Any:
        price = await client.request("price.of", message.decode(Order).count)
        return price.decode(Order)

    with anyio.fail_after(5):
        watch = Watch(client)
        await client.subscribe("price.of", action="request", handler=lambda m: "none")
        await client.subscribe("order.place", action="request", handler=place)
        with pytest.raises(InternalError):
            await client.request("order.place", {"count": 1})
        await watch.error(RemoteProtocolError)
    (record,) = warnings(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


async def test_an_error_made_of_it_is_the_handlers_failure(client: MessageBrokerClient) -> None:
    def place(message: Message) -> Any:
        try:
            return message.decode(Order)
        except RemoteProtocolError as error:
            raise ValueError("no order") from error

    with anyio.fail_after(5):
        watch = Watch(client)
        await client.subscribe("order.place", action="request", handler=place)
        with pytest.raises(InternalError):
            await client.request("order.place", {})
        assert str(await watch.error(ValueError)) == "no order"


async def test_a_handler_that_has_answered_before_is_only_reported(
    client: MessageBrokerClient,
) -> None:
    async def place(message: Message) -> Any:
        await message.respond("at once")
        return message.decode(Order)

    with anyio.fail_after(5):
        watch = Watch(client)
        await client.subscribe("order.place", action="request", handler=place)
        assert (await client.request("order.place", {})).payload == "at once"
        assert (await watch.error(RemoteProtocolError)).path == "$"


@pytest.mark.parametrize("consumer", ["handler", "on_message"])
async def test_a_publication_that_cant_be_read_is_reported_without_a_traceback(
    client: MessageBrokerClient, caplog: pytest.LogCaptureFixture, consumer: str
) -> None:
    payload = msgspec.Raw(b"][")
    text = "can't read a message of 'order.placed': the received payload is not valid JSON"
    with anyio.fail_after(5):
        watch = Watch(client)
        if consumer == "handler":
            payload = {"count": "x"}
            text = "decode can't read a message of 'order.placed': .* fit Order: .* at .\\.count"
            await client.subscribe("order.#", handler=decode)
        else:
            client.on_message(lambda header, payload: None)
            await client.subscribe("order.#")
        await client.publish("order.placed", payload)
        await watch.error(RemoteProtocolError)
    (record,) = warnings(caplog)
    assert record.exc_info is None
    assert re.search(text, record.getMessage())


async def test_any_number_of_them_is_reported_once_a_second_and_counted(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    refused = 0
    with anyio.fail_after(10):
        async with MessageBrokerClient(url) as client:
            watch = Watch(client)
            await client.subscribe("order.place", action="request", handler=decode)
            await client.subscribe("order.cancel", action="request", handler=decode)
            for topic in ("order.place", "order.cancel"):
                for _ in range(50):
                    with pytest.raises(InvalidRequestError):
                        await client.request(topic, {})
                    refused += 1
            reported = len(watch.errors)
    texts = [record.getMessage() for record in warnings(caplog)]
    assert refused == 100
    assert 2 <= reported < 20  # one for each topic, and more on a machine that takes seconds
    # The rest is reported when the client is closed, if not before.
    for topic in ("order.place", "order.cancel"):
        assert any(f"can't read 50 requests so far of {topic!r}" in text for text in texts)


async def test_a_connection_that_somebody_else_has_lost_is_the_handlers_failure(
    client: MessageBrokerClient, url: str
) -> None:
    """The requester can still be answered, and the handler's own errors are reported."""

    async def place(message: Message) -> None:
        raise ConnectionLost("the database is gone", sent=False)

    with anyio.fail_after(5):
        watch = Watch(client)
        await client.subscribe("order.place", action="request", handler=place)
        with pytest.raises(InternalError):
            await client.request("order.place", {})
        assert str(await watch.error(ConnectionLost)) == "the database is gone"
        await until(lambda: client.stats().pending == 0)
