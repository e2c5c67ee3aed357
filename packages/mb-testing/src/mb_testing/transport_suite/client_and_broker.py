"""Clients and a broker over the transport."""

from __future__ import annotations

from typing import Any

import anyio

from mb_broker import Broker
from mb_core.client import MessageBrokerClient
from mb_core.errors import ConnectError
from mb_core.message import Message

from .check_runner import on_loops
from .links_under_test import Network
from .requirements import WORKS, expect
from .settings import Settings

__all__ = ["ClientAndBroker"]


class ClientAndBroker(Settings):
    """Requests, publications and reconnecting, as users see them."""

    @on_loops
    async def test_requests_are_answered(self, net: Network) -> None:
        async with _broker(net) as broker, _client(net, broker.url) as service:
            await service.subscribe("sum", action="request", handler=_add)
            async with _client(net, broker.url) as client:
                answers: dict[int, Any] = {}

                async def ask(number: int) -> None:
                    answer = await client.request("sum", [number, 1])
                    answers[number] = answer.payload

                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(ask, number)
        expected = {number: number + 1 for number in range(50)}
        expect(WORKS, answers == expected, f"of 50 sums, {answers} came")

    @on_loops
    async def test_publications_arrive_in_order(self, net: Network) -> None:
        async with (
            _broker(net) as broker,
            _client(net, broker.url) as listener,
            _client(net, broker.url) as client,
            listener.subscribe("event.#") as events,
        ):
            texts = [f"{number} \N{SNOWMAN}" for number in range(500)]
            for text in texts:
                await client.publish("event.new", text)
            came = [(await anext(events)).payload for _ in texts]
        expect(WORKS, came == texts, f"of {len(texts)} events, {came[:5]}... came")

    @on_loops
    async def test_a_client_comes_back_with_its_broker(self, net: Network) -> None:
        back = anyio.Event()
        url = ""
        async with _broker(net) as broker:
            url = broker.url
            service = _client(net, url, backoff_min=1, backoff_max=20)
            await service.connect(url)
            await service.subscribe("sum", action="request", handler=_add)
            service.on_connect(back.set)
        async with service:
            try:
                async with _broker(net, url):
                    await back.wait()
                    async with _client(net, url) as client:
                        answer = await client.request("sum", [1, 2])
            except ConnectError as error:
                expect(WORKS, False, f"the next broker could not be reached at {url}: {error}")
        expect(WORKS, answer.payload == 3, f"1 + 2 was answered with {answer.payload}")


def _broker(net: Network, url: str | None = None) -> Broker:
    return Broker(
        url if url is not None else str(net.new_url()),
        plugins=net.plugins,
        ssl_context=net.server_context,
    )


def _client(net: Network, url: str, **options: Any) -> MessageBrokerClient:
    return MessageBrokerClient(url, plugins=net.plugins, ssl_context=net.client_context, **options)


def _add(message: Message) -> int:
    return sum(message.payload)
