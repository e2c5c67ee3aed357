"""Makes top.svg, the picture in docs/top.md: `mb top` beside a broker with some traffic.

    uv run python docs/images/make_top.py [--size 100x30] [--seconds 8] [--theme NAME] [FILE]

Everything in it is real: a broker, services and clients that talk, and the screen itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

from mb_client import Broker, Message, MessageBrokerClient, ResponseError
from mb_tools.connect import Endpoint
from mb_tools.top.app import TopApp
from mb_tools.top.model import Model
from mb_tools.top.poller import Poller

# Seconds that an answer takes, at most; and the share of answers that are errors.
SERVICES = {
    "Weather": ({"weather.current": 0.004, "weather.forecast": 0.02}, 0.0),
    "Orders": ({"order.place": 0.03, "order.find": 0.008}, 0.01),
    "Payments": ({"payment.charge": 0.12}, 0.04),
    "Stock": ({"stock.level": 0.003, "stock.reserve": 0.015}, 0.0),
}
LISTENERS = {"Mail": "order.placed", "Audit trail": "order.#", "Displays": "weather.changed"}
# Seconds between two publications.
EVENTS = {"order.placed": 0.03, "order.paid": 0.05, "weather.changed": 0.01, "stock.low": 0.7}


async def service(url: str, name: str, topics: dict[str, float], failing: float) -> None:
    async def answer(message: Message) -> object:
        await asyncio.sleep(random.triangular(0, topics[message.topic], 0))
        if random.random() < failing:
            raise ResponseError("the card was declined by its bank", code="CARD_DECLINED")
        return {"ok": True}

    async with MessageBrokerClient(url) as client:
        await client.register_service(name, f"Answers {', '.join(topics)}")
        for topic in topics:
            await client.subscribe(topic, action="request", handler=answer, concurrency=16)
        await client.run()


async def listener(url: str, name: str, pattern: str) -> None:
    async with MessageBrokerClient(url) as client:
        await client.register_service(name, f"Listens to {pattern}")
        await client.subscribe(pattern, handler=lambda message: None)
        await client.run()


async def asker(url: str) -> None:
    topics = [topic for topics, _ in SERVICES.values() for topic in topics]
    async with MessageBrokerClient(url) as client:
        await client.register_service("Web shop", "Asks everybody")

        async def ask() -> None:
            while True:
                topic = random.choice(topics) if random.random() > 0.005 else "order.refund"
                with contextlib.suppress(ResponseError):
                    await client.request(topic, {"id": 7})
                await asyncio.sleep(random.expovariate(30))

        await asyncio.gather(*(ask() for _ in range(12)))


async def publisher(url: str) -> None:
    async with MessageBrokerClient(url) as client:
        await client.register_service("Events", "Publishes")

        async def publish(topic: str, pause: float) -> None:
            while True:
                await client.publish(topic, {"id": 7})
                await asyncio.sleep(random.expovariate(1 / pause))

        await asyncio.gather(*(publish(topic, pause) for topic, pause in EVENTS.items()))


@contextlib.asynccontextmanager
async def traffic(url: str) -> AsyncIterator[None]:
    """Services and clients that talk."""
    talking = [
        *(service(url, name, *how) for name, how in SERVICES.items()),
        *(listener(url, name, pattern) for name, pattern in LISTENERS.items()),
        asker(url),
        publisher(url),
    ]
    tasks = [asyncio.create_task(each) for each in talking]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def picture(size: tuple[int, int], seconds: float, theme: str) -> str:
    """The screen as SVG."""
    async with Broker("tcp://127.0.0.1:0") as broker, traffic(broker.url):
        # The picture has the usual port, wherever this broker listens.
        os.environ["MB_CONNECT_TO"] = f"localhost:8081={broker.url.removeprefix('tcp://')}"
        model = Model()
        poller = Poller(Endpoint("tcp://localhost:8081"), model)
        app = TopApp(poller, model)
        async with poller.client, app.run_test(size=size) as pilot:
            app.theme = theme
            await pilot.pause(seconds)
            return app.export_screenshot(title="mb top")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("top.svg"))
    parser.add_argument("--size", default="100x30", help="columns and lines")
    parser.add_argument("--seconds", type=float, default=8.0, help="how long the traffic lasts")
    parser.add_argument("--theme", default="textual-dark")
    given = parser.parse_args()
    columns, _, lines = given.size.partition("x")
    svg = asyncio.run(picture((int(columns), int(lines)), given.seconds, given.theme))
    given.file.write_text(svg)
