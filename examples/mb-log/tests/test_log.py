"""With mb-log installed, a client's messages are in the log."""

import asyncio
import logging
import re

import pytest

from mb_client import Broker, MessageBrokerClient, NoRouteFoundError


async def talk() -> None:
    async with Broker() as broker, MessageBrokerClient(broker.url) as client:
        await client.subscribe("weather", action="request", handler=lambda m: "rain")
        await client.request("weather", "Oslo")
        with pytest.raises(NoRouteFoundError):
            await client.request("nobody", {})


def test_messages_and_requests_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mb_log")
    asyncio.run(talk())
    said = [text for name, _, text in caplog.record_tuples if name == "mb_log"]
    assert [text for text in said if " weather, " in text] == [
        "sent request weather, 6 bytes",
        "received request weather, 6 bytes",
        "sent response weather, 6 bytes",
        "received response weather, 6 bytes",
    ]
    [answered, failed] = [text for text in said if re.match("request (weather|nobody) took", text)]
    assert re.fullmatch(r"request weather took [\d.]+ ms: answered", answered)
    assert re.fullmatch(r"request nobody took [\d.]+ ms: NO_ROUTE_FOUND: .*", failed)
