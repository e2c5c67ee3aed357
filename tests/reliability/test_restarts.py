"""Brokers that end, in order or killed, and start again: clients find their way back."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest

from mb_client import MessageBrokerClient

from .brokers import ProcessBroker, restart_in_order, thread_broker
from .scene import FAST
from .traffic import PATIENCE, Asked, Published, Received, Signal, keep_asking, keep_publishing

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_remains")]


class Pair:
    """A service and a client of one broker, and all that they lose with it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.service = MessageBrokerClient(url, **FAST | options)
        self.client = MessageBrokerClient(url, **FAST | options)
        self.connects = {client: Signal() for client in (self.service, self.client)}
        for client, signal in self.connects.items():
            client.on_connect(signal)
        self.received = Received()
        self.asked = Asked()
        self.published = Published()

    async def subscribe(self) -> None:
        await self.service.register_service("echo", "comes back by itself")
        await self.service.subscribe("echo", action="request", handler=lambda m: m.payload)
        await self.service.subscribe("numbers.#", handler=self.received.take)

    async def restored(self, count: int) -> None:
        for signal in self.connects.values():
            await signal.reaches(count, "a client is connected")

    async def works(self, number: int) -> None:
        assert (await self.client.request("echo", number)).payload == number
        await self.client.publish("numbers.more", number, confirm=True)
        await self.received.has(number)
        found: Any = (await self.client.request("system.service.list", {})).payload
        assert [one["name"] for one in found["services"]].count("echo") == 1


@pytest.mark.parametrize("scheme", ["tcp", "ws"])
async def test_a_broker_that_is_restarted_in_order_finds_its_clients_back(scheme: str) -> None:
    with thread_broker(scheme) as broker:
        pair = Pair(broker.url)
        async with pair.service, pair.client:
            await pair.subscribe()
            for number in range(1, 6):
                await pair.restored(number)
                await pair.works(number)
                await restart_in_order(broker)
            await pair.restored(6)
            await pair.works(6)
        assert list(pair.received.numbers.values()) == [1] * 6


async def test_a_broker_that_is_killed_under_traffic_finds_its_clients_back() -> None:
    stop = anyio.Event()
    with ProcessBroker() as broker:
        pair = Pair(broker.url)
        async with pair.service, pair.client:
            await pair.subscribe()
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    await keep_asking(pair.client, "echo", pair.asked, stop, timeout=500)

                async def publish() -> None:
                    await keep_publishing(
                        pair.client, "numbers.counted", pair.published, stop, timeout=5000
                    )

                tasks.start_soon(ask)
                tasks.start_soon(publish)
                for number in (1, 2):
                    await pair.restored(number)
                    before = pair.asked.answers.count
                    await pair.asked.answers.reaches(before + 20, "a request is answered")
                    await anyio.to_thread.run_sync(broker.kill)
                    await anyio.to_thread.run_sync(broker.start)
                await pair.restored(3)
                before = pair.received.news.count
                await pair.received.news.reaches(before + 2, "a publication arrives")
                stop.set()
            await pair.works(-1)
    assert pair.asked.latest < 2.5
    # A broker that is killed may take with it what it has confirmed; nothing comes twice.
    assert set(pair.received.numbers.values()) == {1}


async def test_what_is_published_while_the_broker_is_down_arrives_in_order_once_it_is_back() -> (
    None
):
    with thread_broker() as broker:
        # Its reader is back before the publisher: it has the shorter wait.
        reader = MessageBrokerClient(broker.url, **FAST)
        writer = MessageBrokerClient(broker.url, **FAST | {"retry_connect": True})
        received = Received()
        back, gone = Signal(), Signal()
        reader.on_connect(back)
        writer.on_disconnect(gone)
        async with reader, writer:
            await reader.subscribe("numbers", handler=received.take)

            async def publish() -> None:
                await gone.reaches(1, "the publisher has lost its connection")
                for number in range(1000):
                    await writer.publish("numbers", number)

            await restart_in_order(broker, down=publish)
            with anyio.fail_after(PATIENCE):
                await back.reaches(2, "the reader is connected")
                await writer.publish("numbers", 1000)
                await received.has(1000)
        # The reader may have been the later of the two; but what it got is in order and complete.
        assert received.order == list(range(received.order[0], 1001))
