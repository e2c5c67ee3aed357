"""The cases in plain threads: what cases.py does on an event loop, with the blocking client."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from mb_sync import MessageBrokerClient

from .cases import IN_FLIGHT, PATIENCE, Arrivals, Figures, check, figures
from .workload import DOCUMENT

__all__ = ["measure"]


def measure(sender: MessageBrokerClient, receiver: MessageBrokerClient, messages: int) -> Figures:
    """One round; `bench.echo` is answered by somebody else.

    Raises TimeoutError when a message is lost.
    """
    arrivals = Arrivals()
    receiver.subscribe("bench.events", handler=lambda message: arrivals.handle(message.payload))
    _publish(sender, messages // 10, arrivals)
    check(arrivals.last, sender.request("bench.echo", DOCUMENT).payload)
    _request(sender, messages // 100)

    published, handled = _publish(sender, messages, arrivals)
    latencies = _request(sender, messages // 20)
    asked = messages // 5 // IN_FLIGHT * IN_FLIGHT  # as many in each thread
    flown = _request_in_flight(sender, asked)
    return figures(messages, published, handled, latencies, asked, flown)


def _publish(client: MessageBrokerClient, count: int, arrivals: Arrivals) -> tuple[float, float]:
    complete = threading.Event()
    arrivals.expect(count, complete)
    began = time.perf_counter()
    for _ in range(count):
        client.publish("bench.events", DOCUMENT)
    published = time.perf_counter()
    if not complete.wait(PATIENCE):
        raise TimeoutError(f"of {count} publications, not all arrived")
    return published - began, time.perf_counter() - began


def _request(client: MessageBrokerClient, count: int) -> list[int]:
    now = time.perf_counter_ns
    latencies = []
    for _ in range(count):
        began = now()
        _ = client.request("bench.echo", DOCUMENT).payload
        latencies.append(now() - began)
    return latencies


def _request_in_flight(client: MessageBrokerClient, count: int) -> float:
    each = count // IN_FLIGHT
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        began = time.perf_counter()
        for done in [threads.submit(_request, client, each) for _ in range(IN_FLIGHT)]:
            done.result()
        return time.perf_counter() - began
