"""The blocking client and the async one side by side: the same work, in turns, in one run.

    python -m benchmarks.sync [--rounds 5] [--messages 50000]

The broker and the other side each have a process of their own, over TCP on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import mb_broker
import mb_sync
from mb_client import MessageBrokerClient

from .__main__ import DOCUMENT

# What each client is measured by, with the unit, and whether more is better.
CASES = {
    "request p50, us": False,
    "publish handed over/s": True,
    "publish until all has arrived/s": True,
    "publish to handler/s": True,
    "publish to iterator/s": True,
}

Figures = dict[str, float]


async def measure_async(url: str, messages: int) -> Figures:
    async with MessageBrokerClient(url) as client:
        times = []
        for _ in range(messages // 20):
            began = time.perf_counter()
            await client.request("bench.echo", DOCUMENT)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(messages):
            await client.publish("bench.sink", DOCUMENT)
        handed = time.perf_counter() - began
        await client.request("bench.echo", None)  # the broker has had all before it
        arrived = time.perf_counter() - began

        seen, all_seen = 0, asyncio.Event()

        def handle(message: object) -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                all_seen.set()

        handled = await client.subscribe("bench.out", handler=handle, queue_size=None)
        began = time.perf_counter()
        await client.publish("bench.send", messages)
        await all_seen.wait()
        to_handler = time.perf_counter() - began
        await handled.unsubscribe()

        async with client.subscribe("bench.out", queue_size=None) as events:
            began = time.perf_counter()
            await client.publish("bench.send", messages)
            for _ in range(messages):
                await anext(events)
            to_iterator = time.perf_counter() - began
    return figures(times, messages, handed, arrived, to_handler, to_iterator)


def measure_sync(url: str, messages: int) -> Figures:
    with mb_sync.MessageBrokerClient(url) as client:
        times = []
        for _ in range(messages // 20):
            began = time.perf_counter()
            client.request("bench.echo", DOCUMENT)
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(messages):
            client.publish("bench.sink", DOCUMENT)
        handed = time.perf_counter() - began
        client.request("bench.echo", None)
        arrived = time.perf_counter() - began

        seen, all_seen = 0, threading.Event()

        def handle(message: object) -> None:
            nonlocal seen
            seen += 1
            if seen == messages:
                all_seen.set()

        handled = client.subscribe("bench.out", handler=handle, queue_size=None)
        began = time.perf_counter()
        client.publish("bench.send", messages)
        all_seen.wait()
        to_handler = time.perf_counter() - began
        handled.unsubscribe()

        with client.subscribe("bench.out", queue_size=None) as events:
            began = time.perf_counter()
            client.publish("bench.send", messages)
            for _ in range(messages):
                next(events)
            to_iterator = time.perf_counter() - began
    return figures(times, messages, handed, arrived, to_handler, to_iterator)


def figures(times: list[float], messages: int, *seconds: float) -> Figures:
    rates = [messages / each for each in seconds]
    return dict(zip(CASES, [statistics.median(times) * 1e6, *rates], strict=True))


async def other_side(url: str) -> None:
    """Answers, swallows, and sends as much as it is asked for."""
    async with MessageBrokerClient(url) as client:

        async def send(message: object) -> None:
            count = message.payload  # type: ignore[attr-defined]
            for _ in range(count):
                await client.publish("bench.out", DOCUMENT)

        await client.subscribe("bench.echo", action="request", handler=lambda m: m.payload)
        await client.subscribe("bench.sink", handler=lambda m: None, queue_size=None)
        await client.subscribe("bench.send", handler=send)
        print("ready", flush=True)
        await client.run()


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """This file in a process of its own; gives the first line that it prints."""
    command = [sys.executable, "-m", "benchmarks.sync", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--broker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--other-side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.broker:
        with mb_broker.running("tcp://127.0.0.1:0") as broker:
            print(broker.url, flush=True)
            threading.Event().wait()
    if arguments.other_side:
        asyncio.run(other_side(arguments.other_side))
        return
    rounds: list[tuple[Figures, Figures]] = []
    with running("--broker") as url, running("--other-side", url):
        for _ in range(arguments.rounds):
            found = asyncio.run(measure_async(url, arguments.messages))
            rounds.append((found, measure_sync(url, arguments.messages)))
    print(
        f"CPython {sys.version.split()[0]}, {os.cpu_count()} cores, medians of {len(rounds)} rounds"
    )
    print(f"{'':34}{'async':>12}{'blocking':>12}{'ratio':>9}")
    for case in CASES:
        sides = [[each[side][case] for each in rounds] for side in (0, 1)]
        ratio = statistics.median(b / a for a, b in zip(*sides, strict=True))
        left, right = map(statistics.median, sides)
        print(f"{case:34}{left:12,.0f}{right:12,.0f}{ratio:8.2f}x")


if __name__ == "__main__":
    main()
