"""The pytest fixture, where nothing but mb-testing is installed."""

from __future__ import annotations

import asyncio

import pytest

from mb_broker import Broker
from mb_core import MessageBrokerClient


def test_an_event_arrives(mb_broker: Broker) -> None:
    async def main() -> None:
        async with (
            MessageBrokerClient(mb_broker.url) as client,
            client.subscribe("order.#") as events,
        ):
            await client.publish("order.paid", {"id": 7})
            assert (await anext(events)).payload == {"id": 7}

    asyncio.run(main())
    with pytest.raises(LookupError, match="not on tcp://"):
        mb_broker.url_of("tcp")
