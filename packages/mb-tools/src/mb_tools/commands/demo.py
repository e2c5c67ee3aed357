"""Run a demo: a broker, a service over TCP, a client over WebSocket.

The exit status is 0 if every request was answered and every event arrived.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import anyio
import click
from rich.console import Console

from mb_client import Broker, MBError, Message, MessageBrokerClient

from ..output import table
from ..shared_options import COUNT

_IN_FLIGHT = 16
_BURST = 100
# Seconds for the whole demo, so that it finishes even if something hangs.
_TIME_LIMIT = 60.0


@click.command(help=__doc__)
@click.option(
    "--requests", type=COUNT, default=2_000, show_default=True, help="Number of requests to send."
)
@click.option(
    "--events", type=COUNT, default=10_000, show_default=True, help="Number of events to publish."
)
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="Event loop to use.",
)
def command(requests: int, events: int, backend: str) -> int:
    if find_spec(backend) is None:
        raise click.UsageError(f"{backend} is not installed: pip install 'mb-core[{backend}]'")
    return anyio.run(demo, requests, events, backend=backend)


async def demo(requests: int, events: int) -> int:
    """Run the demo and return the exit status."""
    console = Console(highlight=False)
    asked = _Figures("request and response", requests)
    heard = _Figures("publish to handler", events)
    try:
        with anyio.fail_after(_TIME_LIMIT):
            await _play(console, asked, heard)
    except TimeoutError:
        _step(console, "demo", f"not everything arrived within {_TIME_LIMIT:g} s")
    except MBError as error:
        _step(console, "demo", f"failed: {error}")
    titles = ("messages", "per second", "p50 ms", "p99 ms")
    columns: dict[str, dict[str, Any]] = {
        "": {},
        **{title: {"justify": "right"} for title in titles},
    }
    console.print(table(columns, map(_row, (asked, heard))))
    return 0 if asked.complete and heard.complete else 1


async def _play(console: Console, asked: _Figures, heard: _Figures) -> None:
    async with Broker("tcp://127.0.0.1:0", "ws://127.0.0.1:0") as broker:
        _step(console, "broker", f"listens on {' and '.join(broker.urls)}")
        async with (
            MessageBrokerClient(broker.url_of("tcp")) as service,
            MessageBrokerClient(broker.url_of("ws")) as client,
        ):
            await service.register_service("Weather", "Answers weather questions")
            await service.subscribe("weather.current", action="request", handler=_weather)
            _step(console, "service", "connected over TCP, answers weather.current")
            answer = await client.request("weather.current", {"city": "Oslo"})
            _step(console, "client", f"connected over WebSocket, was answered {answer.payload}")
            await _ask(client, asked)
            if asked.error is not None:
                raise asked.error
            _step(console, "requests", f"{asked.wanted} asked, {len(asked.latencies)} answered")
            await _publish(service, client, heard)
            _step(console, "events", f"{heard.wanted} published, {len(heard.latencies)} received")
    _step(console, "broker", "closed")


def _weather(message: Message) -> dict[str, object]:
    return {"city": message.payload["city"], "degrees": 3}


async def _ask(client: MessageBrokerClient, figures: _Figures) -> None:
    """Send requests, several at a time."""
    left = iter(range(figures.wanted))

    async def ask() -> None:
        for _ in left:
            start = time.perf_counter()
            try:
                await client.request("weather.current", {"city": "Oslo"})
            except MBError as error:
                figures.error = error
                return
            figures.latencies.append(time.perf_counter() - start)

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(_IN_FLIGHT):
            tasks.start_soon(ask)
    figures.seconds = time.perf_counter() - began


async def _publish(
    service: MessageBrokerClient, client: MessageBrokerClient, figures: _Figures
) -> None:
    """Publish over TCP in bursts, and receive over WebSocket."""
    began = time.perf_counter()
    async with client.subscribe("weather.changed.#") as received:
        for first in range(0, figures.wanted, _BURST):
            burst = range(first, min(first + _BURST, figures.wanted))
            starts = {}
            for number in burst:
                starts[number] = time.perf_counter()
                await service.publish("weather.changed.oslo", {"number": number, "degrees": 3})
            while starts:
                message = await anext(received)
                start = starts.pop(message.payload["number"])
                figures.latencies.append(time.perf_counter() - start)
    figures.seconds = time.perf_counter() - began


def _step(console: Console, who: str, what: str) -> None:
    console.print(f"{who:<10}{what}", markup=False, soft_wrap=True)


def _row(figures: _Figures) -> tuple[str, ...]:
    latencies = sorted(figures.latencies)
    return (
        figures.name,
        f"{len(latencies)} of {figures.wanted}",
        f"{len(latencies) / figures.seconds:,.0f}" if figures.seconds else "-",
        _percentile(latencies, 0.5),
        _percentile(latencies, 0.99),
    )


def _percentile(ordered: Sequence[float], share: float) -> str:
    if not ordered:
        return "-"
    return f"{ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000:.2f}"


@dataclass
class _Figures:
    """One kind of message: the expected number, and how long each took, in seconds."""

    name: str
    wanted: int
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    error: MBError | None = None

    @property
    def complete(self) -> bool:
        return len(self.latencies) == self.wanted
