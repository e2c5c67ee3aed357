"""The cases: what is measured of every contender, and in which unit.

A contender is a `Peer`: connected twice, once to send and once to receive.  The same code measures
all of them, on asyncio and on trio; blocking.py does the same in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from .workload import DOCUMENT

__all__ = [
    "CASES",
    "IN_FLIGHT",
    "PATIENCE",
    "PUBLISH",
    "PUBLISH_TO_HANDLER",
    "REQUESTS_IN_FLIGHT",
    "REQUEST_P50",
    "REQUEST_P99",
    "Arrivals",
    "Case",
    "Figures",
    "Peer",
    "check",
    "figures",
    "measure",
    "run",
]

Figures = dict[str, float]
"""What one round found, by the names of the cases."""

IN_FLIGHT = 64
PATIENCE = 120
"""Seconds until a message counts as lost, and the round as failed."""


@dataclass(frozen=True, slots=True)
class Case:
    """One figure of a round."""

    name: str
    file: str
    """The name of its plot."""
    more_is_better: bool = True


PUBLISH_TO_HANDLER = Case("publish to handler/s", "publish-to-handler")
PUBLISH = Case("publish/s", "publish")
REQUEST_P50 = Case("request p50, µs", "request-p50", more_is_better=False)
REQUEST_P99 = Case("request p99, µs", "request-p99", more_is_better=False)
REQUESTS_IN_FLIGHT = Case(f"{IN_FLIGHT} requests in flight/s", "requests-in-flight")
CASES = (PUBLISH_TO_HANDLER, PUBLISH, REQUEST_P50, REQUEST_P99, REQUESTS_IN_FLIGHT)


class Peer(Protocol):
    """A library under measurement.  Payloads are encoded before each send, decoded on receipt."""

    async def listen(self, handler: Callable[[Any], object]) -> None:
        """Hand the payload of each publication to `handler`, from now on."""

    async def serve(self) -> None:
        """Answer each request with its own payload, from now on."""

    async def publish(self, count: int) -> None:
        """Publish the document `count` times, as fast as the library's documentation says how."""

    async def ask(self) -> Any:
        """Send the document as a request; gives the answer's payload."""


class Event(Protocol):
    """An event of an event loop, or of threads."""

    def set(self) -> object: ...


class Arrivals:
    """Counts what reaches the handler, and sets an event at the last that is expected."""

    def __init__(self) -> None:
        self.last: Any = None
        self._left = 0
        self._event: Event

    def expect(self, count: int, event: Event) -> None:
        self._left = count
        self._event = event

    def handle(self, document: Any) -> None:
        self._left -= 1
        if not self._left:
            self.last = document
            self._event.set()


def run(
    connected: Callable[[], AbstractAsyncContextManager[Peer]],
    messages: int,
    backend: str = "asyncio",
) -> Figures:
    """Connect a peer on a new event loop, and measure one round."""

    async def main() -> Figures:
        async with connected() as peer:
            return await measure(peer, messages)

    return anyio.run(main, backend=backend)


async def measure(peer: Peer, messages: int) -> Figures:
    """One round, after a warm-up that also proves that the peer does what it is measured for.

    Raises TimeoutError when a message is lost.
    """
    arrivals = Arrivals()
    await peer.listen(arrivals.handle)
    await peer.serve()
    with anyio.fail_after(PATIENCE):
        await _publish(peer, messages // 10, arrivals)
        check(arrivals.last, await peer.ask())
        await _request(peer, messages // 100)

        published, handled = await _publish(peer, messages, arrivals)
        latencies = await _request(peer, messages // 20)
        flown = await _request_in_flight(peer, messages // 5)
    return figures(messages, published, handled, latencies, messages // 5, flown)


async def _publish(peer: Peer, count: int, arrivals: Arrivals) -> tuple[float, float]:
    """Seconds until the last was published, and until the last was handled."""
    complete = anyio.Event()
    arrivals.expect(count, complete)
    began = time.perf_counter()
    await peer.publish(count)
    published = time.perf_counter()
    await complete.wait()
    return published - began, time.perf_counter() - began


async def _request(peer: Peer, count: int) -> list[int]:
    """Nanoseconds of each of `count` requests, one after the other."""
    now, ask = time.perf_counter_ns, peer.ask
    latencies = []
    for _ in range(count):
        began = now()
        await ask()
        latencies.append(now() - began)
    return latencies


async def _request_in_flight(peer: Peer, count: int) -> float:
    left = iter(range(count))

    async def ask() -> None:
        for _ in left:
            await peer.ask()

    began = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(ask)
    return time.perf_counter() - began


def check(*documents: Any) -> None:
    """Raise RuntimeError unless all arrived as they were sent."""
    for document in documents:
        if document != DOCUMENT:
            raise RuntimeError(f"sent {DOCUMENT!r}, and {document!r} arrived")


def figures(
    messages: int, published: float, handled: float, latencies: list[int], asked: int, flown: float
) -> Figures:
    """The figures of a round from what the clock showed: seconds, and nanoseconds of requests."""
    p50, p99 = _percentiles(latencies)
    return {
        PUBLISH_TO_HANDLER.name: messages / handled,
        PUBLISH.name: messages / published,
        REQUEST_P50.name: p50 / 1000,
        REQUEST_P99.name: p99 / 1000,
        REQUESTS_IN_FLIGHT.name: asked / flown,
    }


def _percentiles(nanoseconds: list[int]) -> tuple[float, float]:
    from hdrh.histogram import HdrHistogram  # of the group bench; the names above need it not

    histogram = HdrHistogram(1, PATIENCE * 10**9, 3)
    for value in nanoseconds:
        histogram.record_value(value)
    return histogram.get_value_at_percentile(50), histogram.get_value_at_percentile(99)
