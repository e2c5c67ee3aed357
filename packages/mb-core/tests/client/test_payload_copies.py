"""Each consumer of a message has its own payload: no other one sees a change."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mb_core import Message, MessageBrokerClient
from mb_testing import until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]

PAYLOAD = {"card": "4242", "items": [1, 2]}


class Spoiling:
    """A handler that changes all that it can of what it gets, and remembers how it came."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __call__(self, message: Message) -> None:
        self.take(message.header, message.payload)

    def take(self, header: object, payload: Any) -> None:
        self.got.append({**payload, "items": payload["items"][:]})
        payload["items"].clear()
        payload.clear()


async def test_subscriptions_of_one_client_with_patterns_that_overlap(url: str) -> None:
    handlers = [Spoiling() for _ in range(3)]
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client, client.subscribe("order.+") as events:
            for pattern, handler in zip(("order.#", "order.paid", "#"), handlers, strict=True):
                await client.subscribe(pattern, handler=handler)
            for _ in range(2):  # together, too
                await client.publish("order.paid", PAYLOAD)
            await until(lambda: all(len(handler.got) == 2 for handler in handlers))
            assert [(await anext(events)).payload for _ in range(2)] == [PAYLOAD] * 2
    assert [handler.got for handler in handlers] == [[PAYLOAD] * 2] * 3


async def test_on_message_handlers(url: str) -> None:
    handlers = [Spoiling() for _ in range(3)]
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            for handler in handlers:
                client.on_message(handler.take)
            await client.subscribe("order.#")
            await client.subscribe("order.paid")
            await client.publish("order.paid", PAYLOAD)
            await until(lambda: all(len(handler.got) == 2 for handler in handlers))
    assert [handler.got for handler in handlers] == [[PAYLOAD] * 2] * 3


async def test_what_is_published_and_what_is_answered(url: str) -> None:
    """What is sent is a copy for every receiver, over memory:// too."""
    handler, answered = Spoiling(), dict(PAYLOAD)
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("order.#", handler=handler)
            await client.subscribe("order.of", action="request", handler=lambda m: answered)
            await client.publish("order.paid", PAYLOAD)
            answer = await client.request("order.of", {})
            answer.payload.clear()
            await until(lambda: handler.got)
    assert (PAYLOAD, answered) == ({"card": "4242", "items": [1, 2]},) * 2


async def test_the_response_handler_and_the_caller(url: str) -> None:
    with anyio.fail_after(5):
        async with MessageBrokerClient(url) as client:
            await client.subscribe("order.of", action="request", handler=lambda m: PAYLOAD)
            answer = await client.request("order.of", {}, lambda payload: payload.clear())
    assert answer.payload == PAYLOAD
