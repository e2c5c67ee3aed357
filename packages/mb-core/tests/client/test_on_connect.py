"""Subscribing in an on_connect callback: what an earlier call of it has set up is replaced."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mb_core import Message, MessageBrokerClient, Subscription
from mb_testing import until

from .gone_broker import QUICK
from .watching import Watch, known_subscriptions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaves_nothing")]


class Reconnecting:
    """A client of a broker that goes away and comes back; counts the calls of `set_up`."""

    def __init__(
        self, broker: Any, set_up: Callable[[MessageBrokerClient], Awaitable[object]]
    ) -> None:
        self.client = MessageBrokerClient(broker.url, **QUICK)
        self.calls = 0
        self.got: list[Any] = []
        self._broker = broker
        self._set_up = set_up
        self._watch = Watch(self.client)
        self.client.on_connect(self._on_connect)

    async def _on_connect(self) -> None:
        await self._set_up(self.client)
        self.calls += 1

    async def __aenter__(self) -> Reconnecting:
        await self.client.connect()
        await until(lambda: self.calls == 1)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()
        assert [each for each in self._watch.errors if "listens" not in str(each)] == []

    async def reconnect(self) -> None:
        calls = self.calls
        await self._broker.kill()
        await self._broker.start()
        await until(lambda: self.calls == calls + 1)


@pytest.mark.parametrize("action", ["publish", "request", "both"])
async def test_each_message_is_handled_once_after_many_reconnects(broker: Any, action: Any) -> None:
    got: list[Any] = []

    async def set_up(client: MessageBrokerClient) -> None:
        await client.subscribe("a.b", action=action, handler=lambda m: got.append(m.payload))

    with anyio.fail_after(20):
        async with Reconnecting(broker, set_up) as it:
            for number in range(3):
                if action != "request":
                    await it.client.publish("a.b", number, confirm=True)
                    await until(lambda: got)
                if action != "publish":
                    await it.client.request("a.b", number)
                await anyio.wait_all_tasks_blocked()
                assert got == [number] * (2 if action == "both" else 1)
                got.clear()
                await it.reconnect()


async def test_each_call_may_subscribe_twice_to_one_topic(broker: Any) -> None:
    got: list[str] = []

    async def set_up(client: MessageBrokerClient) -> None:
        await client.subscribe("a.b", handler=lambda m: got.append("one"))
        await client.subscribe("A.b", handler=lambda m: got.append("two"))

    with anyio.fail_after(20):
        async with Reconnecting(broker, set_up) as it:
            await it.reconnect()
            await it.client.publish("a.b", 1, confirm=True)
            await until(lambda: len(got) >= 2)
            await anyio.wait_all_tasks_blocked()
    assert sorted(got) == ["one", "two"]


async def test_only_what_the_same_callback_has_subscribed_is_replaced(broker: Any) -> None:
    got: list[str] = []

    async def set_up(client: MessageBrokerClient) -> None:
        await client.subscribe("a.b", handler=lambda m: got.append("callback"))

    async with Reconnecting(broker, set_up) as it:
        with anyio.fail_after(20):
            await it.client.subscribe("a.b", handler=lambda m: got.append("program"))
            other = anyio.Event()

            async def subscribe_too() -> None:
                await it.client.subscribe("a.b", handler=lambda m: got.append("other"))
                other.set()

            it.client.on_connect(subscribe_too)
            await it.reconnect()
            await other.wait()
            other = anyio.Event()
            await it.reconnect()
            await other.wait()
            await it.client.publish("a.b", 1, confirm=True)
            await until(lambda: len(got) >= 3)
            await anyio.wait_all_tasks_blocked()
    assert sorted(got) == ["callback", "other", "program"]


async def test_what_a_handler_subscribes_to_is_not_replaced(broker: Any) -> None:
    """It is asked to by messages, not by the connection."""
    got: list[Any] = []

    async def set_up(client: MessageBrokerClient) -> None:
        async def open_one(message: Message) -> None:
            await client.subscribe("a.b", handler=lambda m: got.append(message.payload))

        await client.subscribe("open", action="request", handler=open_one)

    with anyio.fail_after(20):
        async with Reconnecting(broker, set_up) as it:
            await it.client.request("open", 1)
            await it.reconnect()
            await it.client.request("open", 2)
            await it.client.publish("a.b", 1, confirm=True)
            await until(lambda: len(got) >= 2)
    assert sorted(got) == [1, 2]


async def test_an_iteration_that_an_earlier_call_began_ends(broker: Any) -> None:
    iterations: list[Subscription] = []
    ended: list[Subscription] = []

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            async def iterate(subscription: Subscription) -> None:
                async for _ in subscription:
                    raise AssertionError("nothing is published")
                ended.append(subscription)

            async def set_up(client: MessageBrokerClient) -> None:
                iterations.append(await client.subscribe("a.b"))
                tasks.start_soon(iterate, iterations[-1])

            async with Reconnecting(broker, set_up) as it:
                await it.reconnect()
                await until(lambda: ended)
                assert ended == iterations[:1]
                assert await known_subscriptions(it.client) == [("publish", "a.b")]
    assert ended == iterations


async def test_on_message_handlers_that_it_registers_are_replaced_too(broker: Any) -> None:
    got: list[Any] = []

    async def set_up(client: MessageBrokerClient) -> None:
        client.on_message(lambda header, payload: got.append(payload))
        client.on_error(lambda error: None)
        client.on_disconnect(lambda: None)
        await client.subscribe("a.b")

    with anyio.fail_after(20):
        async with Reconnecting(broker, set_up) as it:
            handlers = it.client._handlers
            before = [len(handlers.message), len(handlers.error), len(handlers.disconnect)]
            for number in range(3):
                await it.reconnect()
                await it.client.publish("a.b", number, confirm=True)
                await until(lambda: got)
                await anyio.wait_all_tasks_blocked()
                assert got == [number]
                got.clear()
            after = [len(handlers.message), len(handlers.error), len(handlers.disconnect)]
            assert after == before
