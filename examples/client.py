"""A client that asks once, tells everybody, and listens to what others tell."""

import asyncio

from mb_client import MessageBrokerClient


async def main() -> None:
    async with MessageBrokerClient("ws://localhost:8080") as client:
        answer = await client.request("weather.current", {"city": "Oslo"})
        print(answer.payload)
        async with client.subscribe("weather.#") as events:
            await client.publish("weather.asked", {"city": "Oslo"})
            async for event in events:
                print(event.topic, event.payload)
                break


asyncio.run(main())
