"""A service that answers weather.current, until Ctrl-C."""

import asyncio
from contextlib import suppress

from mb_client import Message, MessageBrokerClient


def current(message: Message) -> dict[str, object]:
    return {"city": message.payload["city"], "degrees": 3}


async def main() -> None:
    async with MessageBrokerClient("tcp://localhost:8081") as client:
        await client.register_service("Weather", "Answers weather questions")
        await client.subscribe("weather.current", action="request", handler=current)
        await client.run()


with suppress(KeyboardInterrupt):
    asyncio.run(main())
