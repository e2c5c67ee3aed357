"""Requests whose answer comes as a type of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
import pydantic
import pytest

from mb_core import (
    InternalError,
    LocalProtocolError,
    Message,
    MessageBrokerClient,
    RemoteProtocolError,
    ResponseError,
)

from .watching import Watch

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


@dataclass
class Order:
    id: int


class Reading(msgspec.Struct):
    degrees: float


class Basket(pydantic.BaseModel):
    orders: list[int]


@pytest.mark.parametrize(
    ("payload", "kind", "result"),
    [
        ({"id": 7}, Order, Order(7)),
        ([{"id": 7}], list[Order], [Order(7)]),
        ({"orders": [1]}, Basket, Basket(orders=[1])),
        (Basket(orders=[1]), dict[str, list[int]], {"orders": [1]}),
        (None, Order | None, None),
        (None, type(None), None),
        ("x", Any, "x"),
    ],
)
async def test_the_answer_comes_as_the_type_that_was_asked_for(
    url: str, payload: Any, kind: Any, result: Any
) -> None:
    heard: list[Any] = []
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("echo", action="request", handler=lambda m: m.payload)
            assert await client.request("echo", payload, heard.append, result=kind) == result
            message = await client.request("echo", payload)
    assert isinstance(message, Message)
    assert heard == [message.payload]


@pytest.mark.parametrize(
    ("raw", "kind", "reason", "path"),
    [
        (b'{"id":"x"}', Order, "Expected `int`, got `str`", "$.id"),
        (b'{"orders":["x"]}', Basket, "Input should be a valid integer", "$.orders[0]"),
        (b"}{", Order, "JSON is malformed", None),
    ],
)
async def test_an_answer_that_does_not_fit_is_the_other_sides_fault(
    client: MessageBrokerClient, raw: bytes, kind: Any, reason: str, path: str | None
) -> None:
    await client.subscribe("echo", action="request", handler=lambda m: msgspec.Raw(raw))
    with anyio.fail_after(5), pytest.raises(RemoteProtocolError, match=reason) as raised:
        await client.request("echo", {}, result=kind)
    assert raised.value.path == path


async def test_an_error_comes_as_what_it_is(client: MessageBrokerClient) -> None:
    def fail(message: Message) -> None:
        raise ResponseError("no flour", code="NO_FLOUR")

    await client.subscribe("bread", action="request", handler=fail)
    with anyio.fail_after(5), pytest.raises(ResponseError, match="no flour"):
        await client.request("bread", {}, result=Order)


@pytest.mark.parametrize("kind", ["Order", 5, Order(7), Order | Reading])
async def test_what_is_no_type_is_refused_before_anything_is_sent(
    client: MessageBrokerClient, kind: Any
) -> None:
    asked: list[Message] = []
    await client.subscribe("echo", action="request", handler=asked.append)
    with pytest.raises(LocalProtocolError, match="can't decode to"):
        await client.request("echo", {}, result=kind)
    assert asked == []


async def test_a_handlers_own_request_that_does_not_fit_is_its_failure(
    client: MessageBrokerClient,
) -> None:
    async def place(message: Message) -> Any:
        return await client.request("price", {}, result=Order)

    with anyio.fail_after(5):
        watch = Watch(client)
        await client.subscribe("price", action="request", handler=lambda m: "none")
        await client.subscribe("place", action="request", handler=place)
        with pytest.raises(InternalError):
            await client.request("place", {})
        await watch.error(RemoteProtocolError)
